"""Which examples people rate: few enough for an hour, unless the user says how many."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from unprompt import recipe
from unprompt.records import Grade, as_text
from unprompt.stages.prompts import rendered
from unprompt.store.folder import RunDir

RESPONSES = 80
"""About so many are rated unless the user says how many examples."""

Asked = Mapping[str, Mapping[str, str]]
"""Context whose answers are written -> held-out example -> what the student was asked."""


def asked(files: RunDir) -> Asked:
    """All that a run asked and may have rated."""
    plan, found = recipe.load(files.recipe), {}
    for name, side in rendered(plan).held_student.items():
        evaluation = plan.evaluation(name)
        if evaluation and not evaluation.choices:
            found[name] = {prompt.example_id: as_text(prompt.content) for prompt in side.prompts}
    return found


def choices(
    files: RunDir, asked: Asked, grades: Sequence[Grade], examples: int | None
) -> Iterator[list[Grade]]:
    """The grades of so many examples of each context, drawn with the recipe's seed. Unless the user
    says how many: of as many as make `RESPONSES`; then all, as earlier versions had them.
    """
    contexts, seed = {g.context for g in grades}, recipe.load(files.recipe).seed
    few = max(1, RESPONSES // len({(g.context, g.row) for g in grades}))
    for count in [examples] if examples else [few, len(grades)]:
        drawn = {
            name: set(
                random.Random(f"{seed}:{name}").sample(
                    list(asked[name]), min(count, len(asked[name]))
                )
            )
            for name in contexts
        }
        yield [g for g in grades if g.example_id in drawn[g.context]]


def said(key: Mapping[str, Any]) -> str:
    """Of how many responses those of a key were drawn, to stand behind a line; nothing, if they are
    all.
    """
    total, every = key.get("total"), key.get("every")
    if total is None or total == len(key["rows"]):
        return ""
    return f" (of {total}, drawn with the recipe's seed; --examples {every} takes all)"
