"""What each context counts in a round: equation 2 of Snell, Klein & Zhong (2022). Pure.

    L_total = sum over contexts k of weight_k * (1 / N_k) * sum over its N_k lessons of their loss

The loss of a lesson is a sum over tokens: of one answer, or of several with `kind: shots`. So the
mean of equation 1 is one over a context's answers, not over its tokens.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Literal

from unprompt.records import Lesson


def mixed(
    epochs: Sequence[Sequence[Lesson]],
    replayed: Sequence[Lesson],
    weights: Mapping[str, float],
    mixing: Literal["equal", "proportional"],
) -> list[list[Lesson]]:
    """The lessons of each epoch, the replayed ones behind them, with their `loss_weight`.

    With `equal` a lesson counts as if each context had as many lessons as they have on average; all
    loss weights are then scaled so that the round's whole weight stays what it is without them, and
    steps are as long. So they are exactly 1 for one context, and for contexts of as many lessons
    and one weight.

    Args:
        epochs: Lessons of the contexts that are taught.
        replayed: Lessons beside them, of each epoch, which are no part of the sum: they count as
            many as they are.
        weights: Of contexts.
    """
    taught = [lesson for epoch in epochs for lesson in epoch]
    counts = Counter(lesson.context for lesson in taught)
    lessons_each = Fraction(len(taught), len(counts))
    shares = {
        name: Fraction(weights[name]) * (lessons_each / count if mixing == "equal" else 1)
        for name, count in counts.items()
    }
    others = {lesson.context: Fraction(weights[lesson.context]) for lesson in replayed}
    sizes, beside = _sizes(taught), _sizes(replayed)
    weighed = [(size, shares[name]) for name, size in sizes.items()]
    weighed += [(len(epochs) * size, others[name]) for name, size in beside.items()]
    whole = sum((size for size, _ in weighed), Fraction())
    scale = whole / sum((size * share for size, share in weighed), Fraction())
    behind = _scaled(replayed, others, scale)
    return [[*_scaled(epoch, shares, scale), *behind] for epoch in epochs]


def _sizes(lessons: Iterable[Lesson]) -> dict[str, Fraction]:
    """Context -> the weight of all tokens of its lessons."""
    of = defaultdict[str, list[float]](list)
    for lesson in lessons:
        of[lesson.context].append(float(lesson.weights.sum()))
    return {name: Fraction(math.fsum(sums)) for name, sums in of.items()}


def _scaled(
    lessons: Sequence[Lesson], shares: Mapping[str, Fraction], scale: Fraction
) -> list[Lesson]:
    return [replace(x, loss_weight=float(shares[x.context] * scale)) for x in lessons]
