"""Questions with a chain of thought and an answer: three data sets read from their folders, and
story problems made by a rule.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from unprompt import UserError

SHOWN = 32
"""Rows at the beginning of a training file that are only ever shots; lessons begin behind them."""
THINGS = ("pens", "cups", "eggs", "nuts", "keys", "figs")
NAMES = ("ann", "bob", "cem", "dan", "eve", "tom")
STORIES = (
    ("{who} has {a} {thing} and gets {b} more. then {who} loses {c}.", ("+", "-")),
    ("{who} buys {b} boxes of {c} {thing} and has {a} besides.", ("*", "+")),
    ("{who} has {a} {thing}, gives {b} to a friend and finds {c}.", ("-", "+")),
    ("{b} friends have {c} {thing} each. {who} takes {d} of all.", ("*", "-")),
)
PLACE = {"test": 0, "shots": 1_000, "inputs": 2_000}
"""Where each part of the story problems begins in one stream without repeats."""


def questions(folder: str, part: str) -> Iterator[dict[str, str]]:
    """Rows of GSM8K, SVAMP or StrategyQA: `text`, `rationale` (one line, without GSM8K's calculator
    marks) and `target`. Of the training rows with a number for an answer, those whose rationale
    ends in another number are left out: they are wrong.

    Args:
        folder: Where the data set's files lie, seen from this file's folder.
        part: `shots` (the first training rows), `inputs` (the other training rows) or `test`.
    """
    path = Path(__file__).parent / folder
    file = (
        path / "train.jsonl"
        if part != "test"
        else next((f for f in (path / "test.jsonl", path / "dev.jsonl") if f.is_file()), path)
    )
    if not file.is_file():
        raise UserError(
            "the data set is not there",
            where=str(path),
            fix="set args.folder to its folder, everywhere in the recipe",
        )
    with file.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    for row in rows if part == "test" else rows[:SHOWN] if part == "shots" else rows[SHOWN:]:
        asked = row["input"]
        text = (
            f"{asked['body'].rstrip('. ')}. {asked['question']}"
            if "body" in asked
            else asked["question"]
        )
        rationale = re.sub(r"<<[^>]*>>", "", row.get("rationale") or "")
        found = re.findall(r"\d+(?:\.\d+)?", rationale.replace(",", ""))
        if part != "test" and row["target"].isdigit() and found[-1:] != [row["target"]]:
            continue
        yield {
            "id": row["id"],
            "text": text,
            "rationale": " ".join(rationale.split()),
            "target": str(row["target"]),
        }


def stories(
    part: str, count: int, forms: int = len(STORIES), seed: int = 0
) -> Iterator[dict[str, str]]:
    """Two-step story problems in the manner of MultiArith, numbers up to 99; parts share no
    problem.

    Args:
        part: `shots`, `inputs` or `test`.
        count: How many, at most 1,000 of `shots` and `test`.
        forms: Only the first of the four forms; the first, a sum and a difference, is the easiest.
        seed: Of the problems.
    """
    first = PLACE[part]
    last = min((begin for begin in PLACE.values() if begin > first), default=10**9)
    if first + count > last:
        raise UserError(
            f"there are at most {last - first} problems in part '{part}'",
            where="args.count",
            fix="ask for fewer",
        )
    draw, seen = random.Random(f"stories {seed}"), set[str]()
    while len(seen) < first + count:
        form, (one, two) = draw.choice(STORIES[:forms])
        b, c, d = draw.randint(2, 9), draw.randint(2, 9), draw.randint(1, 4)
        a = draw.randint(12, 30)
        who, thing = draw.choice(NAMES), draw.choice(THINGS)
        text = f"{form.format(who=who, thing=thing, a=a, b=b, c=c, d=d)} how many {thing}?"
        if text in seen:
            continue
        seen.add(text)
        if len(seen) <= first:
            continue
        x, y = (b, c) if one == "*" else (a, b)
        middle = _calculated(x, one, y)
        z = (a if two == "+" else d) if one == "*" else c
        result = _calculated(middle, two, z)
        rationale = f"{x} {one} {y} = {middle}. {middle} {two} {z} = {result}."
        yield {
            "id": f"story-{len(seen)}",
            "text": text,
            "rationale": rationale,
            "target": str(result),
        }


def _calculated(x: int, sign: str, y: int) -> int:
    return {"+": x + y, "-": x - y, "*": x * y}[sign]
