"""What is asked: everything that decides answers, and nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unprompt.engines.labels import decided_by
from unprompt.recipe import Labels, Sampling
from unprompt.records import Chat, Prompt, Who
from unprompt.stages.prompts import Side
from unprompt.stages.prompts.rendered import Given
from unprompt.store.answers import Parts
from unprompt.store.files import FORMAT, fingerprint, read_json
from unprompt.store.journal import fold
from unprompt.store.places import Place, reached
from unprompt.store.tables import Broken, part_files, part_tokens

QUESTION = "question.json"
"""File of a store that says, for people, what it was asked."""


@dataclass(frozen=True, eq=False)
class Question:
    """Prompts to somebody's weights.

    Why it is asked, and what the terminal calls it, are no part of it: equal questions have one
    answer, and it is paid for once.

    Attributes:
        who: Whose weights answer.
        side: The prompts.
        sampling: How the answers are written.
        labels: What is noted of each token's distribution; None: nothing.
        given: Continuations to score, instead of writing answers.
    """

    who: Who
    side: Side
    sampling: Sampling
    labels: Labels | None = None
    given: Given | None = None

    @property
    def answer_tokens(self) -> int:
        """Tokens of all answers, at most."""
        if self.given is not None:
            return sum(len(ids) for _, ids in self.given)
        return len(self.side.prompts) * self.sampling.max_new_tokens

    def keys(self) -> list[str]:
        """What each prompt's answer is kept under, in its store."""
        given = [None] * len(self.side.prompts) if self.given is None else self.given
        return [
            key_of(prompt, own and own[1])
            for prompt, own in zip(self.side.prompts, given, strict=True)
        ]

    def decided_by(self, weights: Sequence[str], seed: int) -> dict[str, Any]:
        """All but the prompts, for people to read. `weights` is what fixes the weights."""
        if self.given is not None:  # nothing is drawn
            return {"weights": list(weights), "scored": True}
        return {
            "weights": list(weights),
            "sampling": self.sampling.model_dump(mode="json", exclude={"per_input"}),
            "labels": decided_by(self.labels) if self.labels else None,
            "seed": seed,
        }


def key_of(prompt: Prompt, given: Sequence[int] | None = None) -> str:
    """Fingerprint of one prompt, with the continuation (token ids) that is scored behind it."""
    scored = [] if given is None else [list(given)]
    read = [each.decides if isinstance(each, Chat) else each for each in prompt.renderings]
    return fingerprint(prompt.example_id, prompt.context, *read, *scored, digits=24)


def address(decided: dict[str, Any]) -> str:
    """Name of the store of all answers that this decides; in it, each prompt has its own key."""
    return fingerprint(FORMAT, "question", decided)


def answered_by(weights: Sequence[str], folder: Path) -> tuple[int, int]:
    """Tokens of prompts and of answers that a folder of stores has of just these weights."""
    found = [0, 0]
    for path in sorted(folder.glob(f"*/{QUESTION}")):
        decided = read_json(path)
        if not isinstance(decided, dict) or decided.get("weights") != list(weights):
            continue
        fold(path.parent)
        for part in part_files(path.parent):
            with contextlib.suppress(Broken):  # who asks for its answers says so
                found = [a + b for a, b in zip(found, part_tokens(part), strict=True)]
    prompts, answers = found
    return prompts, answers


def of_an_older_version(folder: Place) -> list[str]:
    """A line if the stores in a folder hold answers whose address held what they were asked for: up
    to version 0.1 each purpose had a store of its own, and nothing tells what it was asked.
    """
    old = reached(
        folder, lambda: [each for each in folder.glob("*") if not (each / QUESTION).exists()]
    )
    answers = sum(len(Parts(store).places) for store in old)
    if not answers:
        return []
    return [
        f"note: {answers} answers in {folder} were kept by a version before 0.2; they can't be told"
        " from one another, and what is needed is asked again. To free the space, delete"
        f" {', '.join(store.name for store in old)} there"
    ]
