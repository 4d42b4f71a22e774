"""KL of each token of given answers, and the text of each token."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from unprompt.engines.models import rope_switch
from unprompt.records import Lesson
from unprompt.stages.train.loss import batch_kl, collator

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LONGEST_CHARACTER = 4
"""Bytes of UTF-8, and so tokens that one character may be torn into."""


@torch.no_grad()
def token_kl(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    lessons: Sequence[Lesson],
    batch_size: int,
    progress: Callable[[int], object] = lambda n: None,
) -> list[list[float]]:
    """KL(label || model) of each weighted token of each lesson, in nats (see `loss.label_loss`)."""
    collated = collator(model, tokenizer)
    model.eval()
    order = sorted(range(len(lessons)), key=lambda i: len(lessons[i].input_ids))
    nats: list[list[float]] = [[] for _ in lessons]
    switch = rope_switch(model.config) or math.inf
    while order:
        short = bisect.bisect(order, switch, key=lambda i: len(lessons[i].input_ids) - 1)
        chosen = order[: min(batch_size, short or batch_size)]  # none with one over the switch
        order = order[len(chosen) :]
        batch = collated([lessons[i] for i in chosen]).to(model.device)
        for row, value in zip(batch.row_N.tolist(), batch_kl(model, batch).tolist(), strict=True):
            nats[chosen[row]].append(value)
        progress(len(chosen))
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
