"""Is the answer the gold answer?"""

from __future__ import annotations

import string

from unprompt.metrics.metric import Metric
from unprompt.records import Example, Grade


def exact_match(answer: str, example: Example) -> float:
    """1 if the answer is the target, blanks at the ends aside. A target that is a list holds
    accepted answers.
    """
    return float(any(answer.strip() == str(target).strip() for target in accepted(example)))


EXACT_MATCH = Metric(exact_match)


def accuracy(answer: str, example: Example) -> float:
    """1 if answer and target are the same label: letter case, blanks and punctuation at the ends
    aside.
    """
    return float(any(normalise(answer) == normalise(str(target)) for target in accepted(example)))


ACCURACY = Metric(accuracy)


def normalise(text: str) -> str:
    """Lower case, single blanks, no punctuation at the ends.

    >>> normalise(" Card  arrival. ")
    'card arrival'
    """
    return " ".join(text.casefold().split()).strip(string.punctuation + string.whitespace)


def accepted(example: Example) -> list[object]:
    """The answers that count as gold: the target, or each of its entries if it is a list."""
    return list(example.target) if isinstance(example.target, (list, tuple)) else [example.target]


def same(a: Grade, b: Grade) -> bool:
    """Whether two systems' extracted answers to an example are one (letter case and blanks aside);
    an answer that failed agrees with nothing.
    """
    return (
        a.answer is not None and b.answer is not None and normalise(a.answer) == normalise(b.answer)
    )
