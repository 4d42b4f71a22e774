"""Addition with a scratch-pad, stories that ask for a sum, and words to reverse.

Numbers are written ones digit first (28+4 is 82 + 4 = 86, written 68), so that a decoder of half a
million weights learns from few questions. A scratch-pad goes column by column, two digits, `=`, the
digit that is written and the digit that is carried, then the answer: `24=60,80=80,=68`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from unprompt import UserError

LETTERS = "abcdefghijklmnopqrstuvwxyz"
PLACE = {"test": 0, "gold": 1_000, "practice": 5_000}
"""Where each part begins in one stream of questions without repeats: parts never share a question.
"""
SUMS = ("{a}+{b}",)
SPOKEN = ("{a}+{b}", "{a} plus {b}", "{a} and {b}", "add {a} to {b}", "sum of {a} and {b}")
STORIES = (
    "tom has {a} {thing} and gets {b}",
    "ann buys {a} {thing} then {b} more",
    "{a} {thing} here and {b} there",
    "from {a} {thing} up by {b}",
)
THINGS = ("pens", "cups", "eggs", "nuts")
FORMS = {"sum": SUMS, "spoken": SPOKEN, "story": STORIES}


def questions(
    part: str, count: int, digits: int = 4, form: str = "sum", seed: int = 1
) -> Iterator[dict[str, str]]:
    """Two numbers of 1 to `digits` digits to add.

    Args:
        part: `gold` (with scratch-pad and answer), `practice` (the question alone) or `test` (with
            the answer); they share no question.
        count: Questions.
        digits: Most digits of a number.
        form: How it is asked: `sum`, `spoken` (five ways) or `story` (four ways, in other words).
        seed: Of the questions. Forms draw differently.
    """
    first = PLACE[part]
    last = min((begin for begin in PLACE.values() if begin > first), default=10**9)
    if first + count > last:
        raise UserError(
            f"there are at most {last - first} questions in part '{part}'",
            where="args.count",
            fix="ask for fewer",
        )
    if first + count > (10**digits) ** 2 // 2:
        raise UserError(
            f"there are too few questions of {digits} digits",
            where="args.digits",
            fix="allow more digits",
        )
    draw = random.Random(f"{form} {seed}")
    seen: set[tuple[int, int]] = set()
    while len(seen) < first + count:
        pair = (_number(draw, digits), _number(draw, digits))
        text = draw.choice(FORMS[form]).format(
            a=written(pair[0]), b=written(pair[1]), thing=draw.choice(THINGS)
        )
        if pair in seen:
            continue
        seen.add(pair)
        if len(seen) <= first:
            continue
        row = {"id": f"{form}-{len(seen)}", "text": text}
        if part != "practice":
            row["target"] = written(sum(pair))
        if part == "gold":
            row["scratch"] = scratch_pad(*pair)
        yield row


def _number(draw: random.Random, digits: int) -> int:
    length = draw.randint(1, digits)
    return draw.randrange(10 ** (length - 1) if length > 1 else 0, 10**length)


def written(number: int) -> str:
    """Ones digit first."""
    return str(number)[::-1]


def scratch_pad(a: int, b: int) -> str:
    """Column by column, then the answer."""
    width, carry, columns = max(len(str(a)), len(str(b))), 0, ""
    for x, y in zip(written(a).ljust(width, "0"), written(b).ljust(width, "0"), strict=True):
        carry, digit = divmod(int(x) + int(y) + carry, 10)
        columns += f"{x}{y}={digit}{carry},"
    return f"{columns}={written(a + b)}"


def words(
    part: str, count: int, shortest: int = 3, longest: int = 5, seed: int = 1
) -> Iterator[dict[str, str]]:
    """Strings of letters to reverse; `gold` and `test` share none."""
    draw = random.Random(f"words {seed}")
    first, seen = PLACE[part], set[str]()
    while len(seen) < first + count:
        text = "".join(draw.choices(LETTERS, k=draw.randint(shortest, longest)))
        if text in seen:
            continue
        seen.add(text)
        if len(seen) > first:
            yield {"id": f"word-{len(seen)}", "text": text, "target": text[::-1]}
