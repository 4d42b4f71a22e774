"""Every system on every context, side by side, and round after round."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unprompt.report.format import is_share, mean
from unprompt.report.sections import Section, Table, title_of

if TYPE_CHECKING:
    from unprompt.report.schema import Report, System


def tables(report: Report) -> list[Table]:
    """The first metric of every system on every context; and, after every round, what was kept and
    what was overwritten.
    """
    shown: dict[str, tuple[str, dict[str, System]]] = {}
    for name, entry in report["contexts"].items():
        if "systems" in entry and (metrics := entry["systems"]["before"]["metrics"]):
            shown[name] = next(iter(metrics)), entry["systems"]
    if len(shown) < 2:
        return []

    def cells(system: str) -> list[str]:
        return [
            mean(m := systems[system]["metrics"][metric], is_share(metric, m))
            if system in systems
            else "-"
            for metric, systems in shown.values()
        ]

    names = dict.fromkeys(system for _, systems in shown.values() for system in systems)
    columns = [f"{name}: {metric}" for name, (metric, _) in shown.items()]
    made = [
        Table(
            "Systems",
            ["system", *(f"{column} [95 %]" for column in columns)],
            [[title_of(report, system), *cells(system)] for system in names],
            [],
        )
    ]
    if len(report["rounds"]) > 1:
        rows = []
        for system in ("teacher", "before", *report["rounds"]):
            taught = report["rounds"][system]["contexts"] if system in report["rounds"] else ()
            marked = [
                cell + ("*" if name in taught and cell != "-" else "")
                for name, cell in zip(shown, cells(system), strict=True)
            ]
            rows.append([system, *marked])
        lines = ["* taught in that round"]
        made.append(Table("Retention and overwriting", ["after round", *columns], rows, lines))
    return made


SECTION = Section(tables=tables)
