"""How far the students went from the base model on unrelated inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unprompt.metrics.statistics import interval
from unprompt.report.evidence import Evidence
from unprompt.report.format import spanned
from unprompt.report.sections import Section, Table, named

if TYPE_CHECKING:
    from unprompt.report.schema import Report


def numbers(evidence: Evidence, report: Report) -> None:
    """The mean over the inputs."""
    if evidence.drift:
        report["drift"] = {
            student: {**named(interval(nats, None)), "inputs": len(nats)}
            for student, nats in evidence.drift.items()
        }


def tables(report: Report) -> list[Table]:
    """A row for each student."""
    drift = report.get("drift")
    if not drift:
        return []
    limit, inputs = report["recipe"]["drift"]["limit"], next(iter(drift.values()))["inputs"]
    rows = [[student, spanned(of, "{:.4f}".format)] for student, of in drift.items()]
    lines = [f"on {inputs} unrelated inputs; limit: {'none' if limit is None else f'{limit:g}'}"]
    return [Table("Drift", ["student", "KL(base || student), nats per token [95 %]"], rows, lines)]


SECTION = Section(numbers, tables)
