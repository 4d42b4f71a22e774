"""Jinja2 templates, sandboxed."""
