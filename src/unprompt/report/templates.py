"""Fills the templates of `page/`. A page is one file, with the style sheet and script that every
page has; Markdown is plain text. Reads nothing but the templates.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from unprompt.visible import visible


def html(template: str, **values: Any) -> str:
    """A page; every text in it is escaped, and made visible."""
    script = _file("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    ours = {"style": Markup(_file("page.css")), "script": Markup(script), "digest": digest}
    return fragment(template, **ours, **values)


def fragment(template: str, **values: Any) -> str:
    """A part of a page."""
    return _environment(escape=True).get_template(template).render(**values)


def markdown(template: str, **values: Any) -> str:
    """Text as it is."""
    return _environment(escape=False).get_template(template).render(**values)


def _file(name: str) -> str:
    return files("unprompt.report").joinpath("page", name).read_text("utf-8")


@functools.cache
def _environment(*, escape: bool) -> jinja2.Environment:
    def shown(value: Any) -> Any:
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    return jinja2.Environment(
        loader=jinja2.FunctionLoader(_file),
        autoescape=escape,
        undefined=jinja2.StrictUndefined,
        finalize=shown if escape else None,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=not escape,
    )
