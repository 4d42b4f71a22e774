"""Who answers prompts. One protocol, two verbs, and what each engine can do.

Log-probabilities everywhere are natural logarithms of the model's own distribution at temperature
1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypedDict, Unpack, runtime_checkable

from unprompt.messages import UserError
from unprompt.recipe import Labels, Sampling
from unprompt.recipe.prices import Price
from unprompt.records import Completion, Prompt, SoftLabels

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


DONE_EVERY = 30.0
"""Seconds of a local model's work that a kill may cost, beside the answers that are half written.
"""


class Options(TypedDict, total=False):
    """How prompts are asked, beside what decides their answers. Each may be left out.

    Attributes:
        seed: With the prompt's example id, fixes every draw, whatever else is in the batch; 0.
        prefix_tokens: Tokens that all prompts of the whole job have in common, for each rendering;
            None: found from these prompts.
        batch_size: How many are answered at once; those that wait take the places of finished
            ones. None: as many as fit into memory.
        progress: Told how many prompts were answered since the last call.
        heard: Told a prompt's place and its answer so far, while that is being written.
        done: Told answers that are whole, by their prompts' places: of a server each as it comes,
            else those of `DONE_EVERY` seconds together, and what there is when something stops the
            engine. The last ones are only given back.
        scored: The same of `score`.
    """

    seed: int
    prefix_tokens: Sequence[int] | None
    batch_size: int | None
    progress: Callable[[int], object]
    heard: Callable[[int, str], object] | None
    done: Callable[[dict[int, Completion]], object] | None
    scored: Callable[[dict[int, SoftLabels]], object] | None


class Engine(Protocol):
    """Answers prompts and scores answers. Renders chat messages with its own tokenizer."""

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        labels: Labels | None,
        **options: Unpack[Options],
    ) -> list[Completion]:
        """Answer each prompt, writing soft labels down on the way.

        Args:
            prompts: Rendered prompts. Of a prompt with several renderings (all
                prompts have as many) the probabilities are averaged, and one answer is written from
                the average.
            labels: How to write labels; None for no labels.

        Raises:
            UserError: It can't begin, or has to stop on the way.
        """
        ...

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Sequence[int]],
        labels: Labels,
        **options: Unpack[Options],
    ) -> list[SoftLabels]:
        """What the model says about each token of given completions: one soft label a token."""
        ...


@runtime_checkable
class Apart(Protocol):
    """An engine that holds a device's memory outside of this process."""

    def start(self) -> None:
        """Be ready to be asked."""
        ...

    def close(self) -> None:
        """Give the memory back; it starts again when it is asked again."""
        ...


Seen = Literal["token", "top", "all"]
"""What an engine sees of a token's distribution: the token that was drawn, the most probable ones
besides, or all. Each holds the one ahead of it."""


@dataclass(frozen=True)
class Can:
    """What an engine can do. `stages/abilities.py` refuses a recipe that wants more, ahead of all.

    Attributes:
        name: What messages call it.
        sees: Of a token's distribution, which label kinds and some metrics need.
        scores: Answers that are given.
        averages: The probabilities of several prompts.
        encoder_decoder: Runs such models.
        takes_device: Runs where `Model.device` says; else it chooses itself.
        package: What has to be installed for it.
        install: How.
        instead: Another way, behind what mends a recipe.
    """

    name: str
    sees: Seen = "all"
    scores: bool = True
    averages: bool = True
    encoder_decoder: bool = True
    takes_device: bool = True
    package: str = ""
    install: str = ""
    instead: str = ""

    def one_prompt(self, where: str, fix: str) -> None:
        """Of an input that has several prompts.

        Raises:
            UserError: The engine can't average their probabilities.
        """
        if not self.averages:
            raise UserError(
                f"{self.name} can't average the probabilities of several prompts",
                where=where,
                fix=", ".join(filter(None, (fix, self.instead))),
            )

    def given(self, where: str, fix: str) -> None:
        """Of answers that somebody else wrote.

        Raises:
            UserError: The engine can't score them.
        """
        if not self.scores:
            raise UserError(
                f"{self.name} writes answers and can't score given ones", where=where, fix=fix
            )


@dataclass(frozen=True)
class Lent:
    """What a run lends an engine that is made.

    Attributes:
        role: Whom it answers for (`teacher`, `judge`).
        tokenizer: The student's, where the engine's model has none of its own.
        batch_size: Sequences that run together at most; None: the engine's own choice.
        asked: File in which a server's answers are counted.
        kept: Tokens of prompts and of answers that the run's folder has of that server.
        price: What a server costs, if that is known.
    """

    role: str
    tokenizer: PreTrainedTokenizerBase
    batch_size: int | None = None
    asked: Path | None = None
    kept: tuple[int, int] = (0, 0)
    price: Price | None = None
