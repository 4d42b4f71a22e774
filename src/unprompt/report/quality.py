"""What the page shows beyond means: quality kept, agreement with the teacher, confusion, KL along
the answer. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unprompt.metrics.match import normalise, same
from unprompt.metrics.statistics import by_group, interval, resampled_means
from unprompt.records import Grade

_MOST_LABELS = 40
"""More gold answers than that make no table."""
_FEWEST_ANSWERS = 3
"""A mean over fewer answers is not drawn."""


def kept(values: Sequence[float], teacher: Sequence[float]) -> dict[str, float] | None:
    """`mean(values) / mean(teacher)` over the same examples, with its 95 % paired bootstrap
    interval; None where the teacher's mean is not over 0.
    """
    v, t = np.asarray(values, float), np.asarray(teacher, float)
    if t.mean() <= 0:
        return None
    above, below = resampled_means(v, t)
    low, high = np.percentile(above[below > 0] / below[below > 0], [2.5, 97.5])
    return {"value": float(v.mean() / t.mean()), "low": float(low), "high": float(high)}


def agreement(own: Sequence[Grade], teacher: Mapping[str, Grade]) -> dict[str, float]:
    """Share of examples on which a system answers as the teacher does, with its interval."""
    values = by_group([float(same(g, teacher[g.example_id])) for g in own], [g.group for g in own])
    return dict(zip(("mean", "low", "high"), interval(values), strict=True))


def outcomes(own: Sequence[Grade], teacher: Mapping[str, Grade]) -> dict[str, int]:
    """Examples on which the first metric is under (`lost`) or over (`won`) the teacher's, whose
    answer is another (`changed`), or none (`failed`).
    """
    metric = next(iter(own[0].metrics), None)
    change = (
        [g.metrics[metric] - teacher[g.example_id].metrics[metric] for g in own] if metric else []
    )
    return {
        "lost": sum(c < 0 for c in change),
        "won": sum(c > 0 for c in change),
        "changed": sum(not same(g, teacher[g.example_id]) for g in own),
        "failed": sum(g.failure is not None for g in own),
    }


def confusion(own: Sequence[Grade]) -> dict[str, Any] | None:
    """Gold answer against answer, in examples, where the gold answers are labels; None where they
    are not.

    Returns:
        `labels`, and `counts[gold][answer]` with two more columns: another text, and nothing
        extracted.
    """
    if not all(isinstance(g.target, str) for g in own):
        return None
    golds = Counter(normalise(g.target) for g in own)
    if not 2 <= len(golds) <= min(_MOST_LABELS, len(own) // 3):
        return None
    labels = sorted(golds)
    place = {label: n for n, label in enumerate(labels)}
    counts = [[0] * (len(labels) + 2) for _ in labels]
    for g in own:
        column = (
            len(labels) + 1 if g.answer is None else place.get(normalise(g.answer), len(labels))
        )
        counts[place[normalise(g.target)]][column] += 1
    return {"labels": labels, "counts": counts}


def positions(kl: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, Any]:
    """KL at each place of the teacher's answers, the mean over the answers that are as long.

    Args:
        kl: System -> for each answer, KL of each of its tokens in nats.

    Returns:
        `answers` at each place, `systems` -> mean at each place in nats, and `left_out`: further
        places, which fewer than 3 answers reach.
    """
    lengths = [len(values) for values in next(iter(kl.values()))]
    reach = [sum(length > n for length in lengths) for n in range(max(lengths, default=0))]
    shown = sum(count >= min(_FEWEST_ANSWERS, len(lengths)) for count in reach)
    means = {
        system: [
            float(np.mean([values[n] for values in answers if len(values) > n]))
            for n in range(shown)
        ]
        for system, answers in kl.items()
    }
    return {"answers": reach[:shown], "systems": means, "left_out": len(reach) - shown}
