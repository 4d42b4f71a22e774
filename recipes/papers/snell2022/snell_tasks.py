"""Rows of the tasks that h1_instructions, h2_explanations and h3_task_ids share, read from folders
of real data.

Every task is split once, by a fixed seed, into what may stand in prompts (`examples`), what the
teacher practises on (`inputs`, whose gold answers are left out of the rows) and what is held out
(`heldout`). All rows hold `text`, and `target` where the gold answer is given. `shown` says how
many examples of each label there are, `only` keeps the rows of some labels.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from unprompt import UserError

Row = dict[str, Any]

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
"""Banking77's intents (those of recipes/banking77.py) and the topics they are called here."""
SECTIONS = {
    "car_1": "cars",
    "dog_kennels": "dogs",
    "tvshow": "television",
    "flight_2": "flights",
    "cre_Doc_Template_Mgt": "documents",
    "orchestra": "orchestras",
}
"""Spider's databases and what they are about, in one word."""
KINDS = {
    "P641": "sport",
    "P413": "position",
    "P1303": "instrument",
    "P140": "religion",
    "P30": "continent",
    "P108": "company",
    "P449": "channel",
    "P1412": "language",
}
"""CounterFact's relations and what kind of thing completes the sentence."""


def topics(folder: str, part: str, shown: int = 3, only: Sequence[str] = ()) -> Iterator[Row]:
    """Messages of bank customers and their topics (Banking77): `examples` and `inputs` from train,
    `heldout` from test.
    """
    train = _labelled(
        _read(folder, "train.jsonl"),
        lambda row: TOPICS.get(row["target"]),
        lambda row: row["input"]["text"],
    )
    test = _labelled(
        _read(folder, "test.jsonl"),
        lambda row: TOPICS.get(row["target"]),
        lambda row: row["input"]["text"],
    )
    return _part(_split(train, shown, heldout=_shuffled(test)), part, only)


def sections(folder: str, part: str, shown: int = 4, only: Sequence[str] = ()) -> Iterator[Row]:
    """Questions to databases and what the database is about (Spider's dev part); questions of one
    query stay on one side.
    """
    found = _labelled(
        _read(folder, "dev.jsonl"),
        lambda row: SECTIONS.get(row["input"]["db_id"]),
        lambda row: row["input"]["question"],
    )
    query = {row["id"]: row["target"] for row in _read(folder, "dev.jsonl")}
    return _part(_split(found, shown, together=lambda row: query[row["id"]]), part, only)


def kinds(folder: str, part: str, shown: int = 2, only: Sequence[str] = ()) -> Iterator[Row]:
    """Beginnings of factual sentences and what kind of thing they ask for (CounterFact: its prompts
    and their neighbourhoods).
    """
    found: dict[str, Row] = {}
    for row in _read(folder, "records.jsonl"):
        kind = KINDS.get(row["meta"]["relation_id_inferred"])
        prompts = [
            row["input"]["prompt"],
            *(near["prompt"] for near in row["meta"]["derived_neighborhood_prompts"]),
        ]
        for number, text in enumerate(prompts if kind else []):
            found.setdefault(text, {"id": f"{row['id']}-{number}", "text": text, "target": kind})
    return _part(_split(list(found.values()), shown), part, only)


def foods(folder: str, part: str, shown: int = 2, field: str = "food") -> Iterator[Row]:
    """Tables of restaurants and what stands in one of their fields (the inputs of Natural
    Instructions' task957).
    """
    rows = [row for row in _read(folder, "instances.jsonl") if row["id"].startswith("task957")]
    inside = re.compile(rf"\b{field}\[([^\]]+)\]")

    def value(row: Row) -> str | None:
        found = inside.search(row["input"]["input"])
        return found.group(1) if found else None

    return _part(_split(_labelled(rows, value, lambda row: row["input"]["input"]), shown), part)


def instructions(folder: str, part: str, task: str, heldout: int = 100) -> Iterator[Row]:
    """A task of Natural Instructions. `examples`: its negative (`wrong`) and positive ones, with
    `definition` and `explanation`.

    Args:
        folder: Where instances.jsonl and tasks/ lie, seen from this file's folder.
        part: `examples`, `inputs` or `heldout`.
        task: The task's number, such as task957.
        heldout: How many instances are held out; the others are the inputs.
    """
    (name,) = {
        row["input"]["task"]
        for row in _read(folder, "instances.jsonl")
        if row["id"].split("-")[0] == task
    }
    if part == "examples":
        about = json.loads((_folder(folder) / "tasks" / f"{name}.json").read_text("utf-8"))
        for kind in ("negative", "positive"):
            for row in about[f"{kind}_examples"]:
                said = {
                    "text": row["input"],
                    "output": row["output"],
                    "explanation": row["explanation"],
                }
                yield {
                    "definition": about["definition"][0],
                    "kind": kind,
                    **said,
                    **({"wrong": True} if kind == "negative" else {}),
                }
        return
    rows = [row for row in _read(folder, "instances.jsonl") if row["input"]["task"] == name]
    rows = _shuffled(
        {"id": row["id"], "text": row["input"]["input"].strip(), "target": row["target"]}
        for row in rows
    )
    yield from _part({"inputs": rows[heldout:], "heldout": rows[:heldout]}, part)


# -- reading and splitting -------------------------------------------------------------------------


def _folder(folder: str) -> Path:
    return Path(__file__).parent / folder


def _read(folder: str, name: str) -> list[Row]:
    path = _folder(folder) / name
    if not path.is_file():
        raise UserError(
            "the data is not there",
            where=str(path),
            fix="let the recipe's folders (args.folder) name where it lies",
        )
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _labelled(
    rows: Iterable[Row], label: Callable[[Row], str | None], text: Callable[[Row], str]
) -> list[Row]:
    return [
        {"id": row["id"], "text": " ".join(text(row).split()), "target": label(row)}
        for row in rows
        if label(row)
    ]


def _shuffled(rows: Iterable[Row], seed: int = 0) -> list[Row]:
    found = sorted(rows, key=lambda row: str(row["id"]))
    random.Random(seed).shuffle(found)
    return found


def _split(
    rows: list[Row],
    shown: int,
    heldout: list[Row] | None = None,
    together: Callable[[Row], str] | None = None,
    longest: int = 90,
) -> dict[str, list[Row]]:
    """`shown` short rows of each label become examples; of the rest, two fifths are held out unless
    `heldout` is given. No text stands on both sides.
    """
    rows = _shuffled(rows)
    if heldout is None:
        groups = list(dict.fromkeys(together(row) if together else row["id"] for row in rows))
        out = set(groups[: len(groups) * 2 // 5])
        heldout = [row for row in rows if (together(row) if together else row["id"]) in out]
        rows = [row for row in rows if (together(row) if together else row["id"]) not in out]
    texts = {row["text"].casefold() for row in heldout}
    rows = [row for row in rows if row["text"].casefold() not in texts]
    labels = list(
        dict.fromkeys(row["target"] for row in sorted(rows, key=lambda row: str(row["target"])))
    )
    examples = _shuffled(
        row
        for label in labels
        for row in [r for r in rows if r["target"] == label and len(r["text"]) < longest][:shown]
    )
    ids = {row["id"] for row in examples}
    return {
        "examples": examples,
        "inputs": [row for row in rows if row["id"] not in ids],
        "heldout": heldout,
    }


def _part(parts: dict[str, list[Row]], part: str, only: Sequence[str] = ()) -> Iterator[Row]:
    parts = {
        name: [row for row in rows if not only or row["target"] in only]
        for name, rows in parts.items()
    }
    if (
        part == "graded inputs"
    ):  # for measuring a teacher's prompt on practise inputs, never on held-out ones
        yield from parts["inputs"]
    elif part == "inputs":
        yield from ({"id": row["id"], "text": row["text"]} for row in parts["inputs"])
    else:
        yield from parts[part]
