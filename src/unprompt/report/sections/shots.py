"""Systems behind 0 to n shots: mean and deviation over the draws of shots."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from unprompt.metrics.statistics import by_group
from unprompt.records import Grade
from unprompt.report.evidence import Evidence
from unprompt.report.format import difference, is_share, value
from unprompt.report.sections import Section, Table

if TYPE_CHECKING:
    from unprompt.report.schema import Drawn, Report


def numbers(evidence: Evidence, report: Report) -> None:
    """System -> number of shots -> metric -> its figures over the draws; beside the metrics stands
    `extraction_failures`, all draws together, of `answers`.
    """
    for name, entry in report["contexts"].items():
        shares, systems = evidence.shares(name), dict[str, dict[str, list[list[Grade]]]]()
        for grades in evidence.of(name, behind_shots=True).values():
            counts = systems.setdefault(grades[0].system, {})
            counts.setdefault(str(grades[0].shots), []).append(grades)
        if systems:
            entry["shots"] = {
                system: {
                    count: {
                        **{
                            metric: _over_draws(metric, draws, shares.get(metric, True))
                            for metric in draws[0][0].metrics
                        },
                        "extraction_failures": sum(
                            grade.failure is not None for grades in draws for grade in grades
                        ),
                        "answers": sum(map(len, draws)),
                    }
                    for count, draws in counts.items()
                }
                for system, counts in systems.items()
            }


def _over_draws(metric: str, draws: Sequence[Sequence[Grade]], share: bool) -> Drawn:
    means = [
        fmean(by_group([g.metrics[metric] for g in grades], [g.group for g in grades]))
        for grades in draws
    ]
    sd = stdev(means) if len(means) > 1 else None
    return {"mean": fmean(means), "sd": sd, "draws": means, "is_share": share}


def tables(report: Report) -> list[Table]:
    """For each context and metric, a row for each system, a column for each number of shots."""
    made = []
    for name, entry in report["contexts"].items():
        systems: Any = entry.get("shots", {})
        figures = [of for counts in systems.values() for of in counts.values()]
        counts = list(next(iter(systems.values()), ()))
        failed = [
            f"{of['extraction_failures']} of {of['answers']} answers of '{system}' behind {count}"
            " shots could not be extracted and count as wrong"
            for system, behind in systems.items()
            for count, of in behind.items()
            if of["extraction_failures"]
        ]
        for metric in (m for m, drawn in (figures or [{}])[0].items() if isinstance(drawn, dict)):
            rows = [
                [system, *(_cell(metric, of[metric]) for of in behind.values())]
                for system, behind in systems.items()
            ]
            draws = max(len(of[metric]["draws"]) for of in figures)
            lines = [f"mean over {draws} draws of the shots, and its standard deviation"]
            columns = [f"{count} shot{'' if count == '1' else 's'}" for count in counts]
            title = f"Context {name}: {metric} behind shots"
            made.append(Table(title, ["system", *columns], rows, lines + failed))
    return made


def _cell(metric: str, drawn: Drawn) -> str:
    share, sd = is_share(metric, drawn), drawn["sd"]
    mean = value(drawn["mean"], share)
    return mean if sd is None else f"{mean} ± {difference(sd, share).lstrip('+')}"


SECTION = Section(numbers, tables)
