"""Numbers to pages: `numbers` computes everything once, `markdown` and `table` show it."""

from unprompt.report.numbers import numbers
from unprompt.report.text import markdown, tables

__all__ = ["markdown", "numbers", "tables"]
