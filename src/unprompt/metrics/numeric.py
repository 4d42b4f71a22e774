"""Is the answer's number the gold number?"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

from unprompt.metrics.match import accepted
from unprompt.metrics.metric import Metric
from unprompt.records import Example

_WHOLE = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_NUMBER = re.compile(
    rf"""
    (?P<sign>(?<![\w.)%])[-+\u2212])?               # in "10-5" and "(2)-5" the dash is no sign
    [$\u20ac\u00a3\u00a5]?
    (?:(?P<mixed>{_WHOLE})[ ]+(?=\d+/\d))?          # the 1 of "1 3/4"
    (?P<number>{_WHOLE}(?:\.\d+)?(?:[eE][-+]?\d{{1,3}}(?!\d))?|(?<!\d)\.\d+)
    (?:/(?P<over>\d+))?
    """,
    re.VERBOSE,
)


def numeric_match(answer: str, example: Example) -> float:
    """1 if the last number of the answer equals the target's last number, exactly: 0.75 is 3/4 and
    0.50 is .5, but 0.33 isn't 1/3.

    The last number is the usual one of an answer that works towards it. Where `extract` begins
    behind a trigger ("The answer is"), the usual one is the first: `numeric_match_first`.

    Read are signs, thousands commas, decimals, exponents, fractions and mixed numbers ("1 3/4"). A
    currency sign and a percent sign are units and left aside on both sides: 75% is 75, never 0.75.
    Not read: number words, LaTeX, decimal commas. A target that is a list holds accepted numbers.

    Returns:
        1 or 0; 0 for an answer without a number.

    Raises:
        ValueError: A target holds no number.
    """
    return _match(answer, example, last_number)


def numeric_match_first(answer: str, example: Example) -> float:
    """As `numeric_match`, by the first number of the answer and of the target: "18 dollars, 3 of
    them saved" is 18.

    Source: Kojima et al. 2022 take the first number behind the trigger that asks for the answer.
    """
    return _match(answer, example, first_number)


NUMERIC_MATCH = Metric(numeric_match, refuses_gold=True)
NUMERIC_MATCH_FIRST = Metric(numeric_match_first, refuses_gold=True)


def _match(answer: str, example: Example, read: Callable[[str], Fraction | None]) -> float:
    golds = [read(str(target)) for target in accepted(example)]
    if None in golds:
        target = accepted(example)[golds.index(None)]
        raise ValueError(f"the target {target!r} holds no number")
    return float(read(answer) in golds)


def first_number(text: str) -> Fraction | None:
    """The first number of a text, exact; None if there is none, or if it is a fraction over 0."""
    return _value(next(_NUMBER.finditer(text), None))


def last_number(text: str) -> Fraction | None:
    """The last number of a text, exact; None if there is none, or if it is a fraction over 0."""
    numbers = list(_NUMBER.finditer(text))
    return _value(numbers[-1] if numbers else None)


def _value(number: re.Match[str] | None) -> Fraction | None:
    if number is None:
        return None
    over = _exact(number["over"] or "1")
    if over == 0:
        return None
    value = _exact(number["mixed"] or "0") + _exact(number["number"]) / over
    return -value if number["sign"] in ("-", "\u2212") else value


def _exact(digits: str) -> Fraction:
    # by way of Decimal: int() refuses more than 4,300 digits, which a looping model writes
    return Fraction(Decimal(digits.replace(",", "")))
