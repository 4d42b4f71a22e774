"""A share of a context's own inputs, held out: what proves a student, and is never trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from unprompt.messages import UserError
from unprompt.recipe import Template
from unprompt.records import Example
from unprompt.stages.templates.render import variables


@dataclass(frozen=True)
class Split:
    """The two sides of a context's inputs, each in the order of the rows.

    Attributes:
        left_out: Rows that stand on neither side: of a group that is held out, but equal to a
            training input.
    """

    taught: list[Example]
    held_out: list[Example]
    left_out: int


def split(rows: Sequence[Example], share: float, student: Template, seed: int, where: str) -> Split:
    """Hold a share of the rows out.

    Which rows are held out hangs on the seed and on each row's group (or, without one, on what the
    student's prompt shows of it), so that rows that are appended move none. A group stands on one
    side as a whole, and equal inputs never stand on both. Where some rows are real, only real rows
    are held out: those that a model wrote are for training.

    Args:
        rows: All inputs of the context.
        share: Of the rows that may be held out.
        student: The student's template: rows are equal if it shows the same of them.
        where: The inputs' key in the recipe, for messages.

    Raises:
        UserError: One side would be empty.
    """
    shown = [_shown(row, student) for row in rows]
    keys = [
        f"group {row.group}" if row.group is not None else f"row {text}"
        for row, text in zip(rows, shown, strict=True)
    ]
    real = any(not row.written for row in rows)
    eligible = {key for key, row in zip(keys, rows, strict=True) if not (real and row.written)}
    ranked = sorted((_place(seed, key), key) for key in eligible)
    held = {key for place, key in ranked if place < share} or {key for _, key in ranked[:1]}
    if len(held) == len(set(keys)):
        held.discard(ranked[-1][1])
    taught = [row for row, key in zip(rows, keys, strict=True) if key not in held]
    trained = {text for text, key in zip(shown, keys, strict=True) if key not in held}
    apart = [row for row, key in zip(rows, keys, strict=True) if key in held]
    held_out = [
        row
        for row, text, key in zip(rows, shown, keys, strict=True)
        if key in held and text not in trained
    ]
    if not taught or not held_out:
        what = "they are of one group, or the student's prompt shows the same of all"
        raise UserError(
            f"of {len(rows)} inputs none can be held out: {what}",
            where=where,
            fix="give more inputs, or evaluate.data in place of evaluate.hold_out",
        )
    return Split(taught, held_out, len(apart) - len(held_out))


def _shown(row: Example, student: Template) -> str:
    """What the student's prompt shows of a row; letters' case and blanks count for nothing."""
    try:
        names = variables(student)
    except jinja2.TemplateError:  # said where it is rendered
        names = []
    fields: dict[str, Any] = {name: row.fields[name] for name in names if name in row.fields}
    told = json.dumps(fields or row.fields, sort_keys=True, ensure_ascii=False, default=str)
    return " ".join(told.casefold().split())


def _place(seed: int, key: str) -> float:
    """Where in [0, 1) a group or row stands, by chance, and always there."""
    digest = hashlib.sha256(f"{seed}\n{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) / 2**64
