"""The sections of a report, a file each: what it computes, its tables, its pictures. `schema.py`
names them in order, with the type of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from markupsafe import Markup

if TYPE_CHECKING:
    from unprompt.metrics.statistics import Spanned
    from unprompt.report.evidence import Evidence
    from unprompt.report.figures import Interval, Ratio
    from unprompt.report.schema import Report

_TITLES = {
    "teacher": "teacher (teacher prompt)",
    "before": "before (base model, student prompt)",
    "after": "after (student, student prompt)",
}


class Table(NamedTuple):
    """For the terminal, report.md and the page; `lines` stand beneath."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    lines: list[str]


class Picture(NamedTuple):
    """A drawing, what it shows in a few words, and how to read it."""

    title: str
    drawing: Markup
    caption: str


def _none(*_: Any) -> list[Any]:
    return []


class Section(NamedTuple):
    """A section's three functions; one that it has no use for is left out.

    Attributes:
        numbers: Puts the section's figures into the report, from what was measured.
        tables: From the report alone, as `pictures`.
    """

    numbers: Callable[[Evidence, Report], Any] = _none
    tables: Callable[[Report], Sequence[Table]] = _none
    pictures: Callable[[Report], Sequence[Picture]] = _none


def named(values: Spanned) -> Interval:
    """A mean and the ends of its interval."""
    mean, low, high = values
    return {"mean": mean, "low": low, "high": high}


def ratio(values: Spanned) -> Ratio:
    """A quotient and the ends of its interval."""
    value, low, high = values
    return {"value": value, "low": low, "high": high}


def bar(m: Interval) -> tuple[float, float] | None:
    """The ends of a picture's bar; None: no bar."""
    return None if m["low"] is None or m["high"] is None else (m["low"], m["high"])


def title_of(report: Report, system: str) -> str:
    """A system in words."""
    if further := report.get("systems", {}).get(system):
        return f"{system} ({further['model']} model, {further['prompt']} prompt)"
    if system.endswith("_teacher_prompt"):
        student = title_of(report, system.removesuffix("_teacher_prompt")).split(" (")[0]
        return f"{student}, with the teacher prompt"
    return _TITLES.get(system, f"{system} (student, student prompt)")


def colour(report: Report, system: str) -> int:
    """Of the palette: 0, the accent, is the student whose verdict this is; 1 the teacher, 2 before,
    3 to 5 the other students, 6 the rest.
    """
    last = report["verdict"]["student"]
    fixed = {last: 0, "teacher": 1, "before": 2}
    others = [name for name in report["rounds"] if name != last]
    if system in fixed:
        return fixed[system]
    return 3 + others.index(system) % 3 if system in others else 6


def of_context(report: Report, name: str) -> str:
    """What a picture's title says of its context: nothing, where only one is evaluated."""
    several = sum("systems" in entry for entry in report["contexts"].values()) > 1
    return f", {name}" if several else ""
