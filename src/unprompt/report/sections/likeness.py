"""How like the teacher's answers everybody's are, beside how like they are to each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from unprompt.metrics.statistics import (
    SHARE,
    by_group,
    enough,
    interval,
    needed,
    paired_difference,
)
from unprompt.report.evidence import Evidence
from unprompt.report.format import change, mean
from unprompt.report.sections import Section, Table, named, of_context, title_of

if TYPE_CHECKING:
    from unprompt.report import schema
    from unprompt.report.schema import Like, Report

_HALVES = (-1.0, 1.0)
"""Between which a likeness less the mean of two others lies."""


def numbers(evidence: Evidence, report: Report) -> None:
    """Of each context where it was measured."""
    for name, measured in evidence.likeness.items():
        known = evidence.groups(name)
        groups = [known[id_] for id_ in measured.ids]
        ceiling = by_group(measured.ceiling, groups)
        values = {of: by_group(each, groups) for of, each in measured.systems.items()}
        margin = evidence.recipe.report.margin
        systems = {of: _like(each, ceiling, margin) for of, each in values.items()}
        for student in (each for each in evidence.recipe.plan if each in values):
            past = [
                own - (before + there) / 2
                for own, before, there in zip(
                    values[student], values["before"], ceiling, strict=True
                )
            ]
            systems[student]["past_half"] = named(interval(past, _HALVES))
            systems[student]["half_needed"] = enough(past, _HALVES)
        report["contexts"][name]["likeness"] = {
            "kind": measured.kind,
            "why": measured.why,
            "temperature": measured.temperature,
            "decides": measured.decides,
            "examples": len(measured.ids),
            "groups": len(ceiling) if groups[0] is not None else None,
            "ceiling": named(interval(ceiling, SHARE)),
            "systems": systems,
        }


def _like(values: Sequence[float], ceiling: Sequence[float], margin: float) -> Like:
    return {
        **named(interval(values, SHARE)),
        "to_ceiling": named(paired_difference(values, ceiling, SHARE)),
        "needed": needed(values, ceiling, SHARE, margin),
    }


def tables(report: Report) -> list[Table]:
    """One for each context."""
    made = []
    for name, entry in report["contexts"].items():
        if "likeness" not in entry:
            continue
        like = entry["likeness"]
        rows = [["teacher, to itself", mean(like["ceiling"], True), "-", "-"]]
        for system, m in like["systems"].items():
            past = change(m["past_half"], True) if "past_half" in m else "-"
            rows.append(
                [title_of(report, system), mean(m, True), change(m["to_ceiling"], True), past]
            )
        columns = [
            "system",
            f"{like['kind']} [95 %]",
            "to teacher's own [95 %]",
            "past half [95 %]",
        ]
        title = f"Likeness to the teacher{of_context(report, name)}"
        made.append(Table(title, columns, rows, _lines(like)))
    return made


def _lines(like: schema.Likeness) -> list[str]:
    over = f"{like['examples']} held-out examples"
    if like["groups"]:
        over += f" in {like['groups']} groups"
    return [
        f"answers sampled at temperature {like['temperature']:g}, compared by {like['kind']}"
        f" ({like['why']}), on {over}; differences are in points",
        "past half: how far it has come past the half of the way from before to the teacher",
        *([] if like["decides"] else ["the verdict is held to the first metric, not to this"]),
    ]


SECTION = Section(numbers, tables)
