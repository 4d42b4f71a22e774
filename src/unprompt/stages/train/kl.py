"""KL of each token of given answers, and the text of each token."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Container, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from unprompt.engines import Options
from unprompt.engines.models import rope_switch
from unprompt.records import Lesson, SoftLabels
from unprompt.stages.train.loss import batch_kl, collator, label_loss

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from unprompt.engines.hf.engine import HFEngine

_LONGEST_CHARACTER = 4
"""Bytes of UTF-8, and so tokens that one character may be torn into."""


def token_kl(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    lessons: Sequence[Lesson],
    batch_size: int,
) -> list[list[float]]:
    """KL(label || model) of each weighted token of each lesson, in nats (see `loss.label_loss`)."""
    nats: list[list[float]] = [[] for _ in lessons]
    for numbers, found in batched_kl(model, tokenizer, lessons, batch_size):
        for number, each in zip(numbers, found, strict=True):
            nats[number] = each
    return nats


@torch.no_grad()
def batched_kl(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    lessons: Sequence[Lesson],
    batch_size: int,
    done: Container[int] = (),
) -> Iterator[tuple[list[int], list[list[float]]]]:
    """The same, a batch at a time: the numbers of its lessons, and their nats.

    Args:
        done: Lessons that are known: a batch of nothing else is passed over. The batches stay the
            same, and so does each number to its last digit.
    """
    collated = collator(model, tokenizer)
    model.eval()
    order = sorted(range(len(lessons)), key=lambda i: len(lessons[i].input_ids))
    switch = rope_switch(model.config) or math.inf
    while order:
        short = bisect.bisect(order, switch, key=lambda i: len(lessons[i].input_ids) - 1)
        chosen = order[: min(batch_size, short or batch_size)]  # none with one over the switch
        order = order[len(chosen) :]
        if all(number in done for number in chosen):
            continue
        nats: dict[int, list[float]] = {number: [] for number in chosen}
        batch = collated([lessons[i] for i in chosen]).to(model.device)
        for row, value in zip(batch.row_N.tolist(), batch_kl(model, batch).tolist(), strict=True):
            nats[chosen[row]].append(value)
        yield chosen, list(nats.values())


def shared_kl(
    engine: HFEngine,
    lessons: Sequence[Lesson],
    batch_size: int,
    like: Sequence[int] = (),
    progress: Callable[[int], object] = lambda n: None,
) -> list[list[float]]:
    """As `token_kl`, with what all prompts begin with read once.

    Args:
        like: Token ids of a prompt that these begin like, as in `HFEngine.read`.
    """
    nats: list[list[float]] = [[] for _ in lessons]
    weighted = [np.flatnonzero(lesson.weights) for lesson in lessons]
    given = [
        lesson.input_ids[lesson.prompt_length : at[-1] + 1]
        for lesson, at in zip(lessons, weighted, strict=True)
    ]

    def compared(places: list[int], logits_NV: torch.Tensor) -> None:
        ends = np.cumsum([0, *(len(given[n]) for n in places)])
        rows = [
            int(start) + weighted[n] - lessons[n].prompt_length
            for n, start in zip(places, ends, strict=False)
        ]
        labels = SoftLabels.concat([lessons[n].labels for n in places])
        token_E = np.repeat(np.arange(len(labels)), np.diff(labels.offsets))
        values = label_loss(
            logits_NV[torch.from_numpy(np.concatenate(rows)).to(logits_NV.device)],
            *(
                torch.from_numpy(each).to(logits_NV.device)
                for each in (token_E, labels.ids.astype(np.int64), labels.probs, labels.teacher_nll)
            ),
        ).tolist()
        for n in places:
            nats[n], values = values[: len(weighted[n])], values[len(weighted[n]) :]

    asked = [[list(lesson.input_ids[: lesson.prompt_length])] for lesson in lessons]
    options: Options = {"batch_size": batch_size, "progress": progress}
    engine.read(asked, given, compared, like, **options)
    return nats


def pieces(tokenizer: PreTrainedTokenizerBase, lesson: Lesson) -> list[str]:
    """The text of each weighted token. A character that is torn into several tokens stands in the
    first of them, the others are empty.
    """
    ids = [id_ for id_, weight in zip(lesson.input_ids, lesson.weights, strict=True) if weight]
    texts: list[str] = []
    while len(texts) < len(ids):
        rest, text, count = ids[len(texts) :][:_LONGEST_CHARACTER], "", 1
        for count in range(1, len(rest) + 1):
            text = tokenizer.decode(
                rest[:count], skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
            assert isinstance(text, str)
            if "�" not in text:
                break
        else:
            count = 1
        texts += [text, *[""] * (count - 1)]
    return texts
