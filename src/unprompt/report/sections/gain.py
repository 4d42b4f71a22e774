"""Context gain: what each input has to teach. KL(teacher || before) of the teacher's answer is what
the prompt brings, where teacher and student are one model; where almost nothing, the input teaches
nothing.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from unprompt.metrics.statistics import by_group
from unprompt.report.evidence import Evidence
from unprompt.report.sections import Section, Table

if TYPE_CHECKING:
    from unprompt.report.figures import Gain
    from unprompt.report.schema import Report

EDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Nats per token at which the histogram's bars end; the last bar has no end.

Under the first there is nothing to learn: by Pinsker's inequality distributions that are 0.01 nats
apart on average give any set of tokens probabilities that differ by 0.07 on average at most (the
root of 0.01 / 2). Single tokens may differ by more.
"""


def numbers(evidence: Evidence, report: Report) -> None:
    """How many inputs gain how much: held-out ones, those of a group as one; and training inputs
    that had to gain something.
    """
    for name, kl in evidence.kl.items():
        if kl:
            groups, before = evidence.groups(name), kl["before"]
            nats = by_group(before.means(), [groups[id_] for id_ in before.example_ids])
            report["contexts"][name]["context_gain"] = _histogram(nats)
    for name, gains in evidence.gains.items():
        inputs = evidence.recipe.contexts[name].inputs
        if gains and inputs and (least := inputs.min_gain):
            report["contexts"][name]["training_gain"] = {
                **_histogram(list(gains.values())),
                "min_gain": least,
                "left_out": sum(gain < least for gain in gains.values()),
            }


def _histogram(nats: Sequence[float]) -> Gain:
    counts = [0] * (len(EDGES) + 1)
    for each in nats:
        counts[bisect.bisect_right(EDGES, each)] += 1
    return {
        "mean": fmean(nats),
        "examples": len(nats),
        "nothing": counts[0],
        "edges": list(EDGES),
        "counts": counts,
    }


def tables(report: Report) -> list[Table]:
    """The histograms, a row for each context's held-out inputs and for its training inputs."""
    columns = [f"under {EDGES[0]:g}", *map("from {:g}".format, EDGES)]
    rows, lines = list[list[str]](), list[str]()
    for name, entry in report["contexts"].items():
        if gain := entry.get("context_gain"):
            rows.append([name, f"{gain['mean']:.3f}", *map(str, gain["counts"])])
            lines.append(
                f"{name}: {gain['nothing']} of {gain['examples']} held-out inputs have nothing to"
                f" teach (under {EDGES[0]:g} nats per token)"
            )
        if trained := entry.get("training_gain"):
            counts = map(str, trained["counts"])
            rows.append([f"{name}, training", f"{trained['mean']:.3f}", *counts])
            lines.append(
                f"{name}: {trained['left_out']} of {trained['examples']} training inputs were left"
                f" out (under {trained['min_gain']:g} nats per token)"
            )
    if not rows:
        return []
    return [
        Table(
            "Context gain: inputs by KL(teacher || before), nats per token",
            ["context", "mean", *columns],
            rows,
            lines,
        )
    ]


SECTION = Section(numbers, tables)
