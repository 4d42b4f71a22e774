"""How far the teacher is from itself without one of its instructions, along its own answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from unprompt.engines.tokens import Reader
from unprompt.records import Completion, Lesson, Prompt, Who
from unprompt.stages import lessons
from unprompt.stages.evaluate import closeness
from unprompt.stages.prompts import Side
from unprompt.stages.weights import Weights


@dataclass(frozen=True)
class Removed:
    """An instruction left out of some prompts.

    Attributes:
        who: The teacher.
        context: Whose prompts they are.
        prompts: Without the instruction.
        answers: What the teacher said to each with it.
        like: Gives the tokens that all of the whole prompts begin with.
    """

    weights: Weights
    who: Who
    reader: Reader
    context: str
    prompts: Sequence[Prompt]
    answers: Sequence[Completion]
    like: Callable[[], Sequence[int]]

    @cached_property
    def ids(self) -> list[str]:
        """Examples of whose answer f keeps something."""
        return [lesson.example_id for lesson in self._built()]

    @cached_property
    def _file(self) -> str:
        return closeness.kl_file(self.weights, self.who, self._built())

    @property
    def nats(self) -> list[list[float]] | None:
        """KL(teacher || teacher without it) of each token of each answer; None: not measured."""
        return self.weights.files.read(self._file)

    def measure(self, progress: Any) -> None:
        """Have the teacher read its answers behind the prompts without it."""
        built = self._built()
        closeness.read_kl(self.weights, self.who, built, self._file, progress, self.like())

    def _built(self) -> list[Lesson]:
        recipe = self.weights.recipe
        return lessons.build(
            self.prompts,
            self.answers,
            self.reader,
            recipe.contexts[self.context].extract,
            end_token=True,
            add_end=False,
            where=f"contexts.{self.context}.extract",
            modules=recipe.modules,
        )[0]


def beginning(reader: Reader, side: Side, context: str) -> Sequence[int]:
    """Tokens that all prompts of the teacher begin with, nothing left out."""
    if reader.encoder_decoder:
        return ()
    whole = reader.encode(side.prompts[0].content, f"contexts.{context}.teacher")
    return whole[: side.prefix[0]]
