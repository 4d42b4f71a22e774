"""Systems behind 0 to n shots: mean and deviation over the draws of shots."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from unprompt.metrics.statistics import by_group
from unprompt.records import Grade
from unprompt.report.table import Table, is_share


def figures(
    grades: Sequence[Grade], shares: Mapping[str, bool]
) -> dict[str, dict[str, dict[str, Any]]]:
    """System -> number of shots -> metric -> its mean over the draws, their standard deviation
    (None for one draw), and each draw's mean.

    Beside the metrics stands `extraction_failures`, all draws together, of `answers`.

    Args:
        grades: Of one context, behind shots.
        shares: Metric -> whether it is a share.
    """
    drawn: dict[str, dict[str, dict[int | None, list[Grade]]]] = {}
    for grade in grades:
        counts = drawn.setdefault(grade.system, {})
        counts.setdefault(str(grade.shots), {}).setdefault(grade.draw, []).append(grade)
    return {
        system: {count: _over_draws(list(of.values()), shares) for count, of in counts.items()}
        for system, counts in drawn.items()
    }


def _over_draws(draws: Sequence[Sequence[Grade]], shares: Mapping[str, bool]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for metric in draws[0][0].metrics:
        means = [
            statistics.fmean(by_group([g.metrics[metric] for g in own], [g.group for g in own]))
            for own in draws
        ]
        found[metric] = {
            "mean": statistics.fmean(means),
            "sd": statistics.stdev(means) if len(means) > 1 else None,
            "draws": means,
            "is_share": shares.get(metric, True),
        }
    found["extraction_failures"] = sum(grade.failure is not None for own in draws for grade in own)
    found["answers"] = sum(map(len, draws))
    return found


def tables(name: str, entry: dict[str, Any]) -> list[Table]:
    """A row for each system, a column for each number of shots, of each metric."""
    if "shots" not in entry:
        return []
    systems = entry["shots"]
    counts = list(next(iter(systems.values())))
    found: list[Table] = []
    for metric in (
        m for m in systems["before"][counts[0]] if m not in ("extraction_failures", "answers")
    ):
        rows = [
            [system, *(_cell(metric, of[count][metric]) for count in counts)]
            for system, of in systems.items()
        ]
        draws = max(len(of[count][metric]["draws"]) for of in systems.values() for count in counts)
        lines = [f"mean over {draws} draws of the shots, and its standard deviation"]
        failed = [
            (system, count, of[count])
            for system, of in systems.items()
            for count in counts
            if of[count]["extraction_failures"]
        ]
        lines += [
            f"{f['extraction_failures']} of {f['answers']} answers of '{system}' behind {count}"
            " shots could not be extracted and count as wrong"
            for system, count, f in failed
        ]
        columns = ["system", *(f"{count} shot{'' if count == '1' else 's'}" for count in counts)]
        found.append((f"Context {name}: {metric} behind shots", columns, rows, lines))
    return found


def _cell(metric: str, of: dict[str, Any]) -> str:
    share = is_share(metric, of)
    mean = f"{of['mean']:.1%}" if share else f"{of['mean']:.3f}"
    if of["sd"] is None:
        return mean
    return f"{mean} ± {100 * of['sd']:.1f}" if share else f"{mean} ± {of['sd']:.3f}"


def dropped(training: dict[str, Any]) -> str:
    """What the window took from a round's lessons."""
    told = training.get("shots")
    if not told or not told["dropped"]:
        return ""
    return (
        f" {told['dropped']} shots were dropped from the front of {told['short']} of"
        f" {told['sequences']} sequences, which were over the window."
    )
