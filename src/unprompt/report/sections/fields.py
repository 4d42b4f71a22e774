"""Which fields of JSON answers are right, where `json_fields` is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from unprompt.metrics.json_answers import fields_right, gold_fields
from unprompt.metrics.statistics import SHARE, by_group, interval
from unprompt.records import Grade
from unprompt.report.evidence import Evidence
from unprompt.report.format import mean
from unprompt.report.sections import Section, Table, named, of_context, title_of

if TYPE_CHECKING:
    from unprompt.report.figures import Counted
    from unprompt.report.schema import Report


def numbers(evidence: Evidence, report: Report) -> None:
    """Of each field the share of examples that have it right, of those whose gold answer has it."""
    found = {
        name: {system: _fields(grades) for system, grades in evidence.of(name).items()}
        for name in evidence.recipe.contexts
        if "json_fields" in evidence.shares(name) and evidence.of(name)
    }
    if found:
        report["fields"] = found


def _fields(grades: Sequence[Grade]) -> dict[str, Counted]:
    right: dict[str, list[tuple[float, str | None]]] = {}
    for grade in grades:
        for field, is_right in fields_right(grade.answer or "", gold_fields(grade.target)).items():
            right.setdefault(field, []).append((float(is_right), grade.group))
    return {
        field: {
            **named(interval(by_group(*zip(*values, strict=True)), SHARE)),
            "examples": len(values),
        }
        for field, values in right.items()
    }


def tables(report: Report) -> list[Table]:
    """A row for each field, a column for each system."""
    made = []
    for name, systems in report.get("fields", {}).items():
        fields = list(dict.fromkeys(field for of in systems.values() for field in of))
        columns = ["field", *(title_of(report, system) for system in systems)]
        rows = [
            [field, *(mean(of[field], True) if field in of else "" for of in systems.values())]
            for field in fields
        ]
        lines = ["share of examples that have the field right, of those whose gold answer has it"]
        made.append(
            Table(f"Fields of JSON answers{of_context(report, name)}", columns, rows, lines)
        )
    return made


SECTION = Section(numbers, tables)
