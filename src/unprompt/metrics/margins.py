"""Does distilling bring to the student what the prompt brings to the teacher? Margins of each task
and how they go together.

Snell, Klein & Zhong 2022, "Learning by Distilling Context": across tasks, what context distillation
gains is set against what the same context gains when it stands in the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from unprompt.metrics.statistics import FEWEST, Bounds, Spanned, paired_difference


@dataclass(frozen=True, slots=True)
class Margin:
    """What a context is worth for one task, in the metric's own unit: two (mean, low, high) with 95
    % intervals.

    Attributes:
        in_context: The teacher with the context minus the teacher without it.
        distilled: The student after distilling minus before.
    """

    task: str
    in_context: Spanned
    distilled: Spanned


def margin(
    task: str,
    with_context: Sequence[float],
    without_context: Sequence[float],
    after: Sequence[float],
    before: Sequence[float],
    bounds: Bounds | None,
) -> Margin:
    """A task's two margins, from the metric's value for each held-out example; the examples of a
    pair are the same, in order.

    Where the teacher is the student's own base model, `without_context` and `before` are the same
    answers. Then both margins subtract one number, whose noise moves them together: the correlation
    of few-example margins is too high. Measure the two on separate halves of the held-out examples
    to be rid of that.

    Args:
        with_context: The teacher under its prompt (system `teacher`), shape (N,).
        without_context: The teacher under the student's prompt, shape (N,).
        after: The student, shape (M,).
        before: The student's base, shape (M,).
        bounds: Of the metric's values.

    Raises:
        ValueError: The two sides of a margin have different numbers of examples, or none.
    """
    sides = {"in-context": (with_context, without_context), "distillation": (after, before)}
    for name, (one, other) in sides.items():
        if len(one) != len(other) or not len(one):
            raise ValueError(
                f"task '{task}': the {name} margin has {len(one)} values against {len(other)}: one"
                " pair for each example"
            )
    in_context, distilled = (paired_difference(*values, bounds) for values in sides.values())
    return Margin(task, in_context, distilled)


@dataclass(frozen=True, slots=True)
class Correlation:
    """Pearson's r of in-context and distillation margins over tasks.

    Attributes:
        r: In [-1, 1].
        p: Two-sided p-value of r = 0, for normal margins.
        low: Lower end of the 95 % interval of r, by Fisher's transformation; None of fewer than 24
            tasks.
        high: Its upper end.
        tasks: How many tasks.
    """

    r: float
    p: float
    low: float | None
    high: float | None
    tasks: int


def correlation(margins: Sequence[Margin]) -> Correlation:
    """How closely distillation margins follow in-context margins, over tasks (their means; the
    margins' own intervals play no part).

    Raises:
        ValueError: Fewer than four tasks (r of three says nothing), a task named twice, or one
            of the margins is the same for all tasks, so that r is not defined.
    """
    names = [m.task for m in margins]
    if len(names) < 4 or len(set(names)) < len(names):
        raise ValueError(
            f"a correlation needs four or more tasks, each once; here are {len(names)}:"
            f" {', '.join(names)}"
        )
    in_context = np.array([m.in_context[0] for m in margins])
    distilled = np.array([m.distilled[0] for m in margins])
    for name, column in {"in-context": in_context, "distillation": distilled}.items():
        if np.ptp(column) == 0:
            raise ValueError(
                f"the {name} margin is {column[0]} for all {len(column)} tasks: no correlation is"
                " defined"
            )
    test: Any = stats.pearsonr(in_context, distilled)
    low, high = map(float, test.confidence_interval(0.95))
    ends = (low, high) if len(names) >= FEWEST else (None, None)
    return Correlation(float(test.statistic), float(test.pvalue), *ends, tasks=len(names))
