"""Rows of the Banking77 data (Casanueva et al. 2020, CC BY 4.0) for eight intents that are given
short topic names.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from unprompt import UserError

TOPICS = {
    "age_limit": "age",
    "atm_support": "ATM",
    "change_pin": "PIN",
    "exchange_rate": "exchange",
    "lost_or_stolen_phone": "phone",
    "request_refund": "refund",
    "terminate_account": "account",
    "verify_my_identity": "identity",
}
SEED = 2
"""Which messages stand in the prompt, and in which order: the best of three, measured on training
messages only."""
SHOWN = 6
"""Messages of each intent that stand in the prompt."""
LONGEST = 90
"""Longest of those, in characters."""


def messages(folder: str, part: str) -> Iterator[dict[str, str]]:
    """Messages of the eight intents.

    Args:
        folder: Where train.jsonl and test.jsonl lie, seen from this file's folder.
        part: `examples` (six of each intent, from train, with topics), `inputs` (the rest of train,
            without topics) or `test` (all of test, with topics).
    """
    path = Path(__file__).parent / folder / ("test.jsonl" if part == "test" else "train.jsonl")
    if not path.is_file():
        raise UserError(
            "Banking77 is not there",
            where=str(path),
            fix="set contexts.banking.inputs.args.folder (and the two others) to its folder",
        )
    with path.open(encoding="utf-8") as file:
        rows = [row for line in file if (row := json.loads(line))["target"] in TOPICS]
    if part == "test":
        yield from (
            {"id": row["id"], "text": row["input"]["text"], "topic": TOPICS[row["target"]]}
            for row in rows
        )
        return
    draw = random.Random(SEED)
    draw.shuffle(rows)
    short = [row for row in rows if len(row["input"]["text"]) < LONGEST]
    shown = [
        row for intent in TOPICS for row in [r for r in short if r["target"] == intent][:SHOWN]
    ]
    draw.shuffle(shown)
    if part == "examples":
        yield from ({"text": row["input"]["text"], "topic": TOPICS[row["target"]]} for row in shown)
    else:
        ids = {row["id"] for row in shown}
        yield from (
            {"id": row["id"], "text": row["input"]["text"]} for row in rows if row["id"] not in ids
        )
