"""Which task a task id means to the student: the one it stands for now, or the one it stood for before.

Snell, Klein & Zhong 2022, "Learning by Distilling Context", hypothesis 3: contexts distilled one after the other overwrite each other.
Ids are first distilled under one assignment of ids to tasks and then, in a later round, under another. The student is asked with an id on
inputs whose answer under both assignments is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from unprompt.metrics.match import accuracy
from unprompt.metrics.statistics import interval
from unprompt.records import Example


@dataclass(frozen=True, slots=True)
class Association:
    """Two means over the same answers, each with its 95 % interval: (mean, low, high), shares in [0, 1].

    Attributes:
        correct: The answer is what the id's present task says. High after successful distilling.
        wrong: The answer is what the id's former task, now overwritten, says. Falls as the overwriting succeeds. What is
            left of 1 is neither.
        undecided: How many answers have the same gold under both assignments. They count in both means and tell nothing about
            the id; leave them out of the inputs to have means that tell.
    """

    correct: tuple[float, float, float]
    wrong: tuple[float, float, float]
    undecided: int


def association(
    answers: Sequence[str | None], right: Sequence[Any], wrong: Sequence[Any], metric: Callable[[str, Example], float] = accuracy
) -> Association:
    """Correct and wrong association accuracy of a student asked with task ids.

    Args:
        answers: The extracted answer to each input (`Grade.answer`), shape (N,); None where extraction failed, worth 0 in both means.
        right: The gold answer under the present assignment of ids, shape (N,). An entry that is a list holds accepted answers.
        wrong: The gold answer under the former assignment, shape (N,).
        metric: What says that an answer and a gold answer agree.

    Raises:
        ValueError: No answers, or columns of different lengths.
    """
    if not len(answers) == len(right) == len(wrong) or not answers:
        raise ValueError(f"{len(answers)} answers, {len(right)} right and {len(wrong)} wrong gold answers: one of each for every input")

    def agreement(golds: Sequence[Any]) -> list[float]:
        asked = zip(answers, golds, strict=True)
        return [0.0 if a is None else float(metric(a, Example(str(n), {}, gold))) for n, (a, gold) in enumerate(asked)]

    same = sum(one == other for one, other in zip(right, wrong, strict=True))
    return Association(interval(agreement(right)), interval(agreement(wrong)), same)
