"""What is asked: everything that decides answers, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unprompt.recipe import Labels, Sampling
from unprompt.stages.prompts import Side
from unprompt.store.files import FORMAT, fingerprint

QUESTION = "question.json"
"""File of a store that says, for people, what it was asked."""
Given = Sequence[tuple[str, list[int]]]
"""For each prompt a continuation (text, token ids)."""


@dataclass(frozen=True, eq=False)
class Question:
    """Prompts to somebody's weights.

    Why it is asked, and what the terminal calls it, are no part of it: equal questions have one
    answer, and it is paid for once.

    Attributes:
        whose: Whose weights answer: `teacher`, `base`, `judge`, or a round's name.
        side: The prompts.
        sampling: How the answers are written.
        labels: What is noted of each token's distribution; None: nothing.
        given: Continuations to score, instead of writing answers.
    """

    whose: str
    side: Side
    sampling: Sampling
    labels: Labels | None = None
    given: Given | None = None

    def decided_by(self, weights: Sequence[str], seed: int) -> dict[str, Any]:
        """All but the prompts, for people to read. `weights` is what fixes the weights."""
        if self.given is not None:  # nothing is drawn
            return {"weights": list(weights), "scored": True}
        return {
            "weights": list(weights),
            "sampling": self.sampling.model_dump(mode="json", exclude={"per_input"}),
            "labels": _kept(self.labels),
            "seed": seed,
        }


def address(decided: dict[str, Any]) -> str:
    """Name of the store of all answers that this decides; in it, each prompt has its own key."""
    return fingerprint(FORMAT, "question", decided)


def _kept(labels: Labels | None) -> list[Any] | None:
    """The label settings that matter for what is written."""
    if labels is None:
        return None
    settings = {
        "sampled": [labels.draws],
        "top_k_tail": [labels.kept, labels.tail],
        "top_k": [labels.kept],
        "hard": [],
    }
    return [labels.kind, *settings[labels.kind]]
