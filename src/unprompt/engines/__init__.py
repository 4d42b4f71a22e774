"""Who answers prompts. One protocol, two verbs.

Log-probabilities everywhere are natural logarithms of the model's own distribution at temperature
1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from unprompt.messages import UserError
from unprompt.recipe import Labels, Sampling
from unprompt.records import Completion, Prompt, SoftLabels


class Engine(Protocol):
    """Answers prompts and scores answers. Renders chat messages with its own tokenizer."""

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        labels: Labels | None,
        *,
        seed: int = 0,
        prefix_tokens: Sequence[int] | None = None,
        batch_size: int | None = None,
        progress: Callable[[int], object] = lambda n: None,
        heard: Callable[[int, str], object] | None = None,
    ) -> list[Completion]:
        """Answer each prompt, writing soft labels down on the way.

        Args:
            prompts: Rendered prompts. Of a prompt with several renderings (all
                prompts have as many) the probabilities are averaged, and one answer is written from
                the average.
            labels: How to write labels; None for no labels.
            seed: With the prompt's example id, fixes every draw, whatever else is in the batch.
            prefix_tokens: Tokens that all prompts of the whole job have in common, for each
                rendering; None: found from these prompts.
            batch_size: How many are answered at once; those that wait take the places of finished
                ones. None: as many as fit into memory.
            progress: Told how many prompts were answered since the last call.
            heard: Told a prompt's place and its answer so far, while that is being written.

        Raises:
            Unfinished: It had to stop on the way; what is answered comes with it.
            UserError: It can't begin.
        """
        ...

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Sequence[int]],
        labels: Labels,
        *,
        seed: int = 0,
        prefix_tokens: Sequence[int] | None = None,
        batch_size: int | None = None,
        progress: Callable[[int], object] = lambda n: None,
    ) -> list[SoftLabels]:
        """What the model says about each token of given completions: one soft label a token."""
        ...


class Unfinished(UserError):
    """An engine had to stop ahead of its last prompt.

    Args:
        why: What stopped it.
        answered: Place of a prompt -> its completion, of those that were answered.
    """

    def __init__(self, why: UserError, answered: dict[int, Completion]) -> None:
        super().__init__(why.what, where=why.where, fix=why.fix)
        self.answered = answered
