"""What endpoints were asked, by all runs in the folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unprompt.report.evidence import Evidence
from unprompt.report.sections import Section, Table

if TYPE_CHECKING:
    from unprompt.report.schema import Report

_COLUMNS = [
    "server",
    "answers",
    "prompt tokens",
    "answer tokens",
    "dollars",
    "alternatives that are no known token",
]


def numbers(evidence: Evidence, report: Report) -> None:
    """As the run counted them."""
    if evidence.servers:
        report["servers"] = dict(evidence.servers)


def tables(report: Report) -> list[Table]:
    """A row for each endpoint."""
    rows = [
        [
            f"{who}: {asked['model']}",
            f"{asked['answers']:,}",
            f"{asked['prompt_tokens']:,}",
            f"{asked['completion_tokens']:,}",
            f"{asked['dollars']:.4f}" if "dollars" in asked else "unknown",
            f"{asked['unmapped']:,} of {asked['entries']:,}",
        ]
        for who, asked in report.get("servers", {}).items()
    ]
    return [Table("Servers", _COLUMNS, rows, [])] if rows else []


SECTION = Section(numbers, tables)
