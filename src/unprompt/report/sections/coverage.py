"""Coverage: which instructions of the prompt the inputs exercise that a model wrote from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unprompt.report.sections import Section, Table, of_context

if TYPE_CHECKING:
    from unprompt.report.schema import Report


def tables(report: Report) -> list[Table]:
    """A row for each instruction."""
    found = []
    for name, entry in report["contexts"].items():
        coverage = entry.get("coverage")
        if not coverage or not coverage["instructions"]:
            continue
        rows = [
            [
                " ".join(each["text"].split()),
                f"{each['exercised'] / each['inputs']:.0%}" if each["inputs"] else "-",
                str(each["inputs"]),
            ]
            for each in coverage["instructions"]
        ]
        idle = sum(not each["exercised"] for each in coverage["instructions"])
        lines = [
            f"an input exercises an instruction if leaving that out moves the teacher by"
            f" {coverage['edge']:g} nats per token; no input exercises {idle} of {len(rows)}"
        ]
        if coverage["added"]:
            lines.append(f"{coverage['added']} inputs were added for those that none exercised")
        title = f"Coverage: instructions that inputs exercise{of_context(report, name)}"
        found.append(Table(title, ["instruction", "share", "inputs looked at"], rows, lines))
    return found


SECTION = Section(tables=tables)
