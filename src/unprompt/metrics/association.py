"""Which task a short prompt means to the student: its own, or whatever the input looks like.

Snell, Klein & Zhong 2022, "Learning by Distilling Context", hypothesis 3: task ids. Every context's
student prompt is asked with every context's inputs, and the answers are graded against the gold of
the inputs' own context.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unprompt.metrics.statistics import interval


@dataclass(frozen=True, slots=True)
class Association:
    """Means with 95 % intervals, (mean, low, high).

    Attributes:
        matrix: Row: whose prompt; column: whose inputs and gold, shape (C, C).
        correct: Over the diagonal: the id does its own task. High after successful distilling.
        wrong: Over the rest: the id of one task does the task that another's inputs come from. Low
            if the student reads the id, high if it goes by the input alone.
    """

    matrix: list[list[float]]
    correct: tuple[float, float, float]
    wrong: tuple[float, float, float]


def association(
    values: Mapping[tuple[str, str], Sequence[float]], contexts: Sequence[str]
) -> Association:
    """The association matrix.

    Args:
        values: (whose prompt, whose inputs) -> the metric's value for each input.
        contexts: Order of rows and columns.
    """
    matrix = [[float(np.mean(values[asked, given])) for given in contexts] for asked in contexts]
    correct = [value for name in contexts for value in values[name, name]]
    pairs = [(asked, given) for asked in contexts for given in contexts if asked != given]
    wrong = [value for pair in pairs for value in values[pair]]
    return Association(matrix, interval(correct), interval(wrong))
