"""What a prompt brings to the teacher, and what distilling it brings to the student."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from unprompt.metrics.margins import correlation, margin
from unprompt.metrics.statistics import by_group
from unprompt.report import svg
from unprompt.report.evidence import Evidence
from unprompt.report.format import change, spanned
from unprompt.report.sections import Picture, Section, Table, bar, named

if TYPE_CHECKING:
    from unprompt.report.schema import Report


def numbers(evidence: Evidence, report: Report) -> None:
    """What the one context has ahead of the other, for the teacher and for the students that were
    taught them, task by task.
    """
    pairs, plan = evidence.recipe.margins, evidence.recipe.plan
    if not pairs:
        return

    def values(context: str, system: str | None = None) -> list[float]:
        system = system or next(name for name in plan if context in plan[name].contexts)
        grades = evidence.of(context)[system]
        first = [next(iter(grade.metrics.values())) for grade in grades]
        return by_group(first, [grade.group for grade in grades])

    margins = [
        margin(
            task,
            values(context, "teacher"),
            values(without, "teacher"),
            values(context),
            values(without),
            next(iter(evidence.bounds(context).values())),
        )
        for task, (context, without) in pairs.items()
    ]
    try:
        together: Any = asdict(correlation(margins))
    except ValueError as error:
        together = {"undefined": str(error)}
    report["margins"] = {
        "tasks": [
            {
                "task": m.task,
                "in_context": named(m.in_context),
                "distilled": named(m.distilled),
                "is_share": evidence.all_shares(pairs[m.task]),
            }
            for m in margins
        ],
        "correlation": together,
    }


def tables(report: Report) -> list[Table]:
    """A row for each task."""
    if "margins" not in report:
        return []
    rows = [
        [m["task"], *(change(m[of], m.get("is_share", True)) for of in ("in_context", "distilled"))]
        for m in report["margins"]["tasks"]
    ]
    c = report["margins"]["correlation"]
    line = (
        f"no correlation: {c['undefined']}"
        if "undefined" in c
        else f"Pearson r = {spanned(c, '{:.2f}'.format, 'r')}, p = {c['p']:.3f}, over"
        f" {c['tasks']} tasks"
    )
    columns = ["task", "in context (teachers) [95 %]", "distilled (students) [95 %]"]
    return [Table("Margins", columns, rows, [line])]


def pictures(report: Report) -> list[Picture]:
    """One margin against the other, where both are shares."""
    tasks = report["margins"]["tasks"] if "margins" in report else []
    if not all(m.get("is_share", True) for m in tasks):
        return []
    points = [
        svg.Point(
            m["task"],
            m["in_context"]["mean"],
            m["distilled"]["mean"],
            bar(m["in_context"]),
            bar(m["distilled"]),
        )
        for m in tasks
    ]
    axes = "margin in context (teachers)", "margin distilled (students)"
    return [
        Picture(
            "In-context against distilled margin",
            svg.dots(points, *axes, percent_x=True, diagonal=True),
            "On the line, what a prompt brings to the teacher comes to the student whole.",
        )
    ]


SECTION = Section(numbers, tables, pictures)
