"""Every context's student prompt on every context's inputs (Snell et al. 2022, hypothesis 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unprompt.report.evidence import Evidence
from unprompt.report.format import mean, value
from unprompt.report.sections import Section, Table, named

if TYPE_CHECKING:
    from unprompt.report.schema import Report


def numbers(evidence: Evidence, report: Report) -> None:
    """The matrices, before and after each round."""
    if evidence.associations:
        names = list(evidence.recipe.association or ())
        report["association"] = {
            "contexts": names,
            "is_share": evidence.all_shares(names),
            "systems": {
                system: {
                    "matrix": each.matrix,
                    "correct": named(each.correct),
                    "wrong": named(each.wrong),
                }
                for system, each in evidence.associations.items()
            },
        }


def tables(report: Report) -> list[Table]:
    """The means, and a matrix for each system."""
    if "association" not in report:
        return []
    figures = report["association"]
    names, systems, share = figures["contexts"], figures["systems"], figures.get("is_share", True)
    means = [[s, mean(of["correct"], share), mean(of["wrong"], share)] for s, of in systems.items()]
    made = [Table("Association", ["system", "correct [95 %]", "wrong [95 %]"], means, [])]
    columns = ["", *(f"inputs of {name}" for name in names)]
    for system, of in systems.items():
        rows = [
            [f"prompt of {name}", *(value(number, share) for number in row)]
            for name, row in zip(names, of["matrix"], strict=True)
        ]
        made.append(Table(f"Association matrix, {system}", columns, rows, []))
    return made


SECTION = Section(numbers, tables)
