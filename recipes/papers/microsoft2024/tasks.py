"""Rows of ConjNLI, HELP, CommonsenseQA, GSM8K, SVAMP and GovReport in the form that the prompt
library's tasks want.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unprompt import UserError

FILES = {"inputs": ("train.jsonl", "test.jsonl"), "test": ("test.jsonl", "dev.jsonl")}
"""Where each part is read from: the first of these that is there."""


def rows(
    folder: str, part: str, count: int, skip: int = 0, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """A part of a data set: the row's own fields, its gold answer as `target`, and `question` with
    SVAMP's body in front.

    Args:
        folder: Where the data set's files lie, seen from this file's folder.
        part: `inputs` (training rows; of a set without any, the rows behind `skip` of its only
            file) or `test`.
        count: How many.
        skip: Rows left out at the front, in the drawn order.
        seed: Of the order.
    """
    path = Path(__file__).parent / folder
    file = next((path / name for name in FILES[part] if (path / name).is_file()), None)
    if file is None:
        raise UserError(
            "the data set is not there",
            where=str(path),
            fix="set args.folder to its folder, everywhere in the recipe",
        )
    with file.open(encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines]
    random.Random(seed).shuffle(found)
    if skip + count > len(found):
        raise UserError(
            f"{file.name} has {len(found)} rows, not {skip + count}",
            where=str(path),
            fix="ask for fewer",
        )
    for row in found[skip : skip + count]:
        fields = dict(row["input"])
        if "body" in fields:
            fields["question"] = f"{fields.pop('body').rstrip('. ')}. {fields['question']}"
        yield {"id": row["id"], **fields, "target": row["target"]}


def sections(
    folder: str, part: str, count: int, longest: int = 260, words: int = 40
) -> Iterator[dict[str, Any]]:
    """Sections of GovReport's reports: whole paragraphs in a row, at most `longest` words, for
    models that can't read a report as a whole.

    Args:
        folder: As in `rows`.
        part: `test` (sections of every third report) or `inputs` (those of the others).
        count: How many, from the front of each report in turn.
        longest: Words of a section; shorter than half of it, it is left out.
        words: Wanted length of the summary.
    """
    reports = list(rows(folder, "test", 13))
    reports = [
        report for number, report in enumerate(reports) if (number % 3 == 0) == (part == "test")
    ]
    cut: list[list[str]] = []
    for report in reports:
        found, paragraphs = [], list[str]()
        for paragraph in [
            *(line.strip() for line in report["document"].split("\n") if line.strip()),
            "",
        ]:
            if not paragraph or sum(len(p.split()) for p in [*paragraphs, paragraph]) > longest:
                if sum(len(p.split()) for p in paragraphs) in range(longest // 2, longest + 1):
                    found.append("\n".join(paragraphs))
                paragraphs = []
            paragraphs.append(paragraph)
        cut.append(found)
    turns = [
        (number, report["id"], found[number])
        for report, found in zip(reports, cut, strict=True)
        for number in range(len(found))
    ]
    if len(turns) < count:
        raise UserError(
            f"the reports have {len(turns)} sections for '{part}', not {count}",
            where="args.count",
            fix="ask for fewer",
        )
    for number, id_, text in sorted(turns, key=lambda turn: turn[0])[:count]:
        yield {"id": f"{id_}-section-{number}", "document": text, "words": words}
