"""Rows of the Banking77 data (Casanueva et al. 2020, CC BY 4.0) for h4_classification.yaml and
h5_more_examples.yaml.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from unprompt import UserError

TASKS = {
    "few": {
        "age_limit": "age",
        "exchange_rate": "exchange",
        "passcode_forgotten": "passcode",
        "terminate_account": "account",
    },
    "many": {
        "apple_pay_or_google_pay": "Apple",
        "card_arrival": "delivery",
        "contactless_not_working": "contactless",
        "edit_personal_details": "details",
        "passcode_forgotten": "passcode",
        "top_up_by_cash_or_cheque": "cheque",
        "verify_source_of_funds": "source",
        "visa_or_mastercard": "Visa",
    },
}
"""The intents of a task, and the topic names they are given (one word, no two with the same first
token)."""
LONGEST = 80
"""Longest message that stands in a prompt, in characters."""


def messages(
    folder: str, part: str, task: str, shown: int, seed: int = 1
) -> Iterator[dict[str, str]]:
    """Messages of a task's intents.

    Args:
        folder: Where train.jsonl and test.jsonl lie, seen from this file's folder.
        part: `examples` (from train, with topics), `inputs` (the rest of train, without topics) or
            `test` (all of test, with topics).
        task: A key of `TASKS`.
        shown: Messages of each intent that are `examples`.
        seed: Which those are, and the order of everything.
    """
    topics = TASKS[task]
    path = Path(__file__).parent / folder / ("test.jsonl" if part == "test" else "train.jsonl")
    if not path.is_file():
        raise UserError(
            "Banking77 is not there",
            where=str(path),
            fix="set args.folder of the recipe's data to its folder",
        )
    with path.open(encoding="utf-8") as file:
        rows = [row for line in file if (row := json.loads(line))["target"] in topics]
    draw = random.Random(seed)
    draw.shuffle(rows)
    if part == "test":
        yield from (
            {"id": row["id"], "text": row["input"]["text"], "topic": topics[row["target"]]}
            for row in rows
        )
        return
    short = [row for row in rows if len(row["input"]["text"]) < LONGEST]
    examples = [
        row for intent in topics for row in [r for r in short if r["target"] == intent][:shown]
    ]
    draw.shuffle(examples)
    if part == "examples":
        yield from (
            {"id": row["id"], "text": row["input"]["text"], "topic": topics[row["target"]]}
            for row in examples
        )
    else:
        ids = {row["id"] for row in examples}
        yield from (
            {"id": row["id"], "text": row["input"]["text"]} for row in rows if row["id"] not in ids
        )
