"""How like two answers to one input are. No gold answer is needed: a student is held to how like
the teacher's answers are to each other.
"""

from __future__ import annotations

import functools
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unprompt.metrics.json_answers import equal, loads
from unprompt.metrics.match import normalise

SHORT = 8
"""Answers of at most so many words in the median are compared as a whole."""
_WORD = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_]+"
)
"""A word; of a script that puts no blanks between words (Thai, Lao, Burmese, Khmer, Japanese,
Chinese), one letter.
"""

Compare = Callable[[str, str], float]


@dataclass(frozen=True)
class Likeness:
    """How like the teacher's answers everybody's are, on one context's held-out examples.

    All answers are sampled, each from a random stream of its own: two of the teacher's for each
    example, and one of every other system's.

    Attributes:
        kind: How answers are compared, and `why` so.
        temperature: At which the answers are sampled.
        decides: Whether the verdict is held to it: no metric compares with gold answers.
        ids: Of the N examples.
        ceiling: How like the teacher's second answer is to its first, shape (N,), from 0 to 1.
        systems: System -> how like its answer is to the teacher's, the mean over the two, shape
            (N,).
    """

    kind: str
    why: str
    temperature: float
    decides: bool
    ids: Sequence[str]
    ceiling: Sequence[float]
    systems: Mapping[str, Sequence[float]]


def exact(one: str, other: str) -> float:
    """1 if both are the same text: letter case, blanks, and punctuation at the ends aside.

    >>> exact("Card arrival.", "card  arrival")
    1.0
    """
    return float(normalise(one) == normalise(other))


def rouge_l(one: str, other: str) -> float:
    """F1 of the longest common subsequence of words (Lin 2004), from 0 to 1; the same both ways.

    Unlike the metric of that name it reads words of every script, and takes them as they are
    written, letter case aside.

    >>> rouge_l("The card arrives on Monday", "The card arrived on Monday")
    0.8
    >>> rouge_l("\u5361\u7247\u5df2\u5230", "\u5361\u7247\u672a\u5230")
    0.75
    """
    if exact(one, other):
        return 1.0
    return float(_scorer().score(one, other)["rougeL"].fmeasure)


class _Words:
    """Cuts texts into words, for rouge-score."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.casefold())


@functools.cache
def _scorer() -> Any:
    # brings nltk: a second that only those who ask for it wait
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Words())


def json_fields(one: str, other: str) -> float:
    """Share of the fields of two JSON objects that are equal in both, of all that either has; the
    same both ways. Texts that are no JSON objects are alike as `exact` says.

    >>> json_fields('{"a": 1, "b": "x"}', '{"b": "x", "a": true}')
    0.5
    """
    a, b = _object(one), _object(other)
    if a is None or b is None:
        return exact(one, other)
    names = a.keys() | b.keys()
    same = sum(name in a and name in b and equal(a[name], b[name]) for name in names)
    return same / len(names) if names else 1.0


def _object(text: str) -> dict[str, Any] | None:
    try:
        found = loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


KINDS: dict[str, Compare] = {"exact": exact, "rouge_l": rouge_l, "json_fields": json_fields}
"""`evaluate.likeness` -> how two extracted answers are compared."""


def kind_of(answers: Sequence[str]) -> tuple[str, str]:
    """How answers such as these, the teacher's, are to be compared; and why, in words.

    >>> kind_of(["card arrival", "lost card"])
    ('exact', "the teacher's answers have 2 words in the median")
    """
    if answers and all(_object(answer) is not None for answer in answers):
        return "json_fields", "the teacher's answers are JSON objects"
    words = statistics.median(len(_WORD.findall(answer)) for answer in answers) if answers else 0
    why = f"the teacher's answers have {words:g} words in the median"
    return ("exact" if words <= SHORT else "rouge_l"), why


def likeness(kind: str, one: Sequence[str | None], other: Sequence[str | None]) -> list[float]:
    """Of each pair of answers. One that could not be extracted is like nothing."""
    compare = KINDS[kind]
    return [
        0.0 if a is None or b is None else compare(a, b) for a, b in zip(one, other, strict=True)
    ]
