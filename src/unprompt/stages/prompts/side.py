"""Rendered prompts with their lengths. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from unprompt.records import Lookup, Prompt, as_text


def sample_ids(id_: str, count: int) -> list[str]:
    """Ids of an input's completions: the input's own, then `id/2`, `id/3`, ..."""
    return [id_, *(f"{id_}/{number}" for number in range(2, count + 1))]


def several(asked: Sequence[Prompt], count: int) -> Sequence[Prompt]:
    """Each prompt `count` times, under the ids of the input's completions."""
    return Chosen(asked, range(len(asked)), count)


class Chosen(Lookup[Prompt]):
    """Some prompts of others, each `count` times, looked up when they are read: together they may
    be longer than memory.
    """

    def __init__(self, prompts: Sequence[Prompt], places: Sequence[int], count: int = 1) -> None:
        self._prompts, self._places, self._copies = prompts, places, count

    def __len__(self) -> int:
        return len(self._places) * self._copies

    def at(self, place: int) -> Prompt:
        """The prompt, under the id of its completion."""
        which, copy = divmod(place, self._copies)
        prompt = self._prompts[self._places[which]]
        return replace(prompt, example_id=sample_ids(prompt.example_id, self._copies)[copy])


def plain(prompt: Prompt) -> str:
    """A prompt for telling whether two are the same: letter case and blanks aside."""
    return " ".join(as_text(prompt.content).casefold().split())


@dataclass(frozen=True)
class Side:
    """Rendered prompts of one template over one data set, with their lengths in tokens and the
    prefix that all share (of an ensemble: each rendering's prefix; the length is of all
    renderings).

    Attributes:
        opened: The thought that the prompts open ahead of the answer (`<think>`); empty: none.
    """

    prompts: Sequence[Prompt]
    lengths: list[int]
    prefix: tuple[int, ...]
    opened: str = ""

    @property
    def read(self) -> int:
        """Tokens that are read when all prompts are answered, the shared prefix once."""
        shared = sum(self.prefix)
        return shared + sum(self.lengths) - shared * len(self.lengths)

    def first(self, count: int) -> Side:
        """The first so many of the prompts, or all."""
        return replace(self, prompts=self.prompts[:count], lengths=self.lengths[:count])

    def only(self, places: Sequence[int], count: int = 1) -> Side:
        """Some of the prompts, each `count` times (under the ids of an input's completions)."""
        lengths = [self.lengths[n] for n in places for _ in range(count)]
        return replace(self, prompts=Chosen(self.prompts, places, count), lengths=lengths)

    def again(self, places: Sequence[int], number: int) -> Side:
        """Some of the prompts, each asked for its input's completion of this number (from 1 on)."""
        prompts = [
            replace(prompt, example_id=sample_ids(prompt.example_id, number)[-1])
            for prompt in (self.prompts[n] for n in places)
        ]
        return Side(prompts, [self.lengths[n] for n in places], self.prefix)

    def times(self, count: int) -> Side:
        """All prompts, each `count` times."""
        return self if count == 1 else self.only(range(len(self.prompts)), count)
