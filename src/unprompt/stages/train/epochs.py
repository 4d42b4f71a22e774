"""The lessons of a training, in the order in which they are taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler
from transformers import TrainerCallback

from unprompt.records import Lesson, SoftLabels

_NOTHING = -1
"""Number of a lesson that teaches nothing."""


class Epochs(Dataset[Lesson]):
    """The lessons of the epoch that the training is in.

    Args:
        variants: Of how many epochs `lessons` are, one after the other.
    """

    def __init__(self, lessons: Sequence[Lesson], variants: int) -> None:
        self._lessons, self._variants, self.epoch = lessons, variants, 0

    def __len__(self) -> int:
        return len(self._lessons) // self._variants

    def __getitem__(self, number: int) -> Lesson:
        if number == _NOTHING:
            return Lesson("", "", (0,), 1, np.zeros(1, np.float32), SoftLabels.hard([]))
        return self._lessons[self.epoch % self._variants * len(self) + number]


class SharedOrder(Sampler[int]):
    """The lessons in the order in which one process takes them, then lessons that teach nothing, so
    that every process gets as many micro-batches.

    accelerate deals the micro-batches out in turns, so that a step's are dealt to all processes; it
    would fill up with lessons from the front, which would count twice.

    Args:
        whole: Lessons in one micro-batch of all processes.
    """

    def __init__(self, taught: Epochs, seed: int, whole: int) -> None:
        self._taught, self._seed, self._whole = taught, seed, whole

    def __len__(self) -> int:
        return math.ceil(len(self._taught) / self._whole) * self._whole

    def __iter__(self) -> Iterator[int]:
        # as accelerate's SeedableRandomSampler
        generator = torch.Generator().manual_seed(self._seed + self._taught.epoch)
        yield from torch.randperm(len(self._taught), generator=generator).tolist()
        yield from [_NOTHING] * (len(self) - len(self._taught))


class Follow(TrainerCallback):
    """Tells the lessons which epoch it is, after a resumption in the middle of one, too; and moves
    our bar instead of the trainer's.
    """

    def __init__(self, taught: Epochs, advance: Callable[[int], None]) -> None:
        self._taught, self._advance, self._seen = taught, advance, 0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Turn to its lessons."""
        self._taught.epoch = math.floor((state.epoch or 0) + 1e-6)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar, at first by all steps before a resumption."""
        self._advance(state.global_step - self._seen)
        self._seen = state.global_step
