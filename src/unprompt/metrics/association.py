"""Which task a short prompt means to the student: its own, or whatever the input looks like.

Snell, Klein & Zhong 2022, "Learning by Distilling Context", hypothesis 3: task ids. Every context's
student prompt is asked with every context's inputs, and the answers are graded against the gold of
the inputs' own context.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unprompt.metrics.statistics import Bounds, Spanned, over_tasks


@dataclass(frozen=True, slots=True)
class Association:
    """Means over tasks with 95 % intervals, (mean, low, high).

    Attributes:
        matrix: Row: whose prompt; column: whose inputs and gold, shape (C, C).
        correct: Over the diagonal: the id does its own task. High after successful distilling.
        wrong: Over the rest: the id of one task does the task that another's inputs come from. Low
            if the student reads the id, high if it goes by the input alone. An input that several
            wrong ids are asked with is one observation, the mean over them.
    """

    matrix: list[list[float]]
    correct: Spanned
    wrong: Spanned


def association(
    values: Mapping[tuple[str, str], Sequence[float]],
    contexts: Sequence[str],
    bounds: Bounds | None,
) -> Association:
    """The association matrix.

    Args:
        values: (whose prompt, whose inputs) -> the metric's value for each input (or group of
            inputs), the same inputs in order whosever prompt it is.
        contexts: Order of rows and columns.
        bounds: Of the values.
    """
    matrix = [[float(np.mean(values[asked, given])) for given in contexts] for asked in contexts]
    wrong = [
        np.mean([values[asked, given] for asked in contexts if asked != given], 0).tolist()
        for given in contexts
    ]
    correct = [values[name, name] for name in contexts]
    return Association(matrix, over_tasks(correct, bounds), over_tasks(wrong, bounds))
