"""Is the answer's number the gold number?"""

from __future__ import annotations

import decimal
import re
from collections.abc import Callable
from decimal import Decimal
from typing import NamedTuple

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


_EXACT = decimal.Context(
    prec=decimal.MAX_PREC,
    Emax=decimal.MAX_EMAX,
    Emin=decimal.MIN_EMIN,
    traps=[decimal.Inexact, decimal.InvalidOperation],
)
"""Products of numbers of any length, exact."""


class Number(NamedTuple):
    """`over / under`, exact. Never divided: a looping model writes numbers of many thousand digits,
    and their product takes hardly longer than reading them, a quotient their square.
    """

    over: Decimal
    under: Decimal

    def equals(self, other: Number) -> bool:
        """Whether the two are one number."""
        return _EXACT.multiply(self.over, other.under) == _EXACT.multiply(other.over, self.under)


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


def _match(answer: str, example: Example, read: Callable[[str], Number | None]) -> float:
    found, golds = read(answer), [read(str(target)) for target in accepted(example)]
    if None in golds:
        target = accepted(example)[golds.index(None)]
        raise ValueError(f"the target {target!r} holds no number")
    return float(found is not None and any(gold and found.equals(gold) for gold in golds))


def first_number(text: str) -> Number | None:
    """The first number of a text, exact; None if there is none, or if it is a fraction over 0."""
    return _value(next(_NUMBER.finditer(text), None))


def last_number(text: str) -> Number | None:
    """The last number of a text, exact; None if there is none, or if it is a fraction over 0."""
    numbers = list(_NUMBER.finditer(text))
    return _value(numbers[-1] if numbers else None)


def _value(number: re.Match[str] | None) -> Number | None:
    if number is None:
        return None
    under = _decimal(number["over"] or "1")
    if not under:
        return None
    mixed = _EXACT.multiply(_decimal(number["mixed"] or "0"), under)
    over = _EXACT.add(mixed, _decimal(number["number"]))
    return Number(over.copy_negate() if number["sign"] in ("-", "\u2212") else over, under)


def _decimal(digits: str) -> Decimal:
    return Decimal(digits.replace(",", ""))
