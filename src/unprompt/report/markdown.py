"""`report.md`, and the tables of the terminal. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from unprompt.recipe.recipe import as_yaml
from unprompt.report import templates
from unprompt.report.schema import SECTIONS
from unprompt.report.sections import Table, rounds
from unprompt.report.verdict import conclusion, evaluated

if TYPE_CHECKING:
    from unprompt.report.schema import Report


def tables(report: Report) -> list[Table]:
    """Those of every section."""
    return [table for section in SECTIONS for table in section.tables(report)]


def markdown(report: Report) -> str:
    """`report.md`."""
    return templates.markdown(
        "report.md",
        r=report,
        tables=tables(report),
        training=rounds.lines(report),
        conclusion=_conclusion(report),
        row=row,
        recipe=recipe(report).rstrip(),
    )


def closing(report: Report) -> list[str]:
    """What the terminal says beneath the tables: the verdict, or without one what is known."""
    return conclusion(report) + ([] if evaluated(report) else rounds.lines(report))


def _conclusion(report: Report) -> list[str]:
    """The verdict's lines: indented ones as a list, or, of YAML, as a block."""
    first, *rest = conclusion(report)
    lines = [line.removeprefix("  ") for line in rest]
    if evaluated(report):
        return [first, "", *(f"- {line}" for line in lines)]
    return [first, "", "```yaml", *lines, "```"]


def recipe(report: Report) -> str:
    """The resolved recipe, as YAML."""
    return as_yaml(report["recipe"])


def row(cells: Sequence[str]) -> str:
    """A line of a table."""
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
