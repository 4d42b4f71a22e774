"""KL of each token of given answers, and the text of each token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from unprompt.records import Lesson
from unprompt.stages.train.loss import batch_kl, collate

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
    pad = tokenizer.pad_token_id
    assert isinstance(pad, int)
    decoder_start = model.config.decoder_start_token_id if model.config.is_encoder_decoder else None
    model.eval()
    order = sorted(range(len(lessons)), key=lambda i: len(lessons[i].input_ids))
    found: list[list[float]] = [[] for _ in lessons]
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = collate([lessons[i] for i in chosen], pad, decoder_start).to(model.device)
        for row, value in zip(batch.row_N.tolist(), batch_kl(model, batch).tolist(), strict=True):
            found[chosen[row]].append(value)
        progress(len(chosen))
    return found


def pieces(tokenizer: PreTrainedTokenizerBase, lesson: Lesson) -> list[str]:
    """The text of each weighted token. A character that is torn into several tokens stands in the
    first of them, the others are empty.
    """
    ids = [id_ for id_, weight in zip(lesson.input_ids, lesson.weights, strict=True) if weight]
    found: list[str] = []
    at = 0
    while at < len(ids):
        text, taken = "", 1
        for taken in range(1, min(_LONGEST_CHARACTER, len(ids) - at) + 1):
            text = tokenizer.decode(
                ids[at : at + taken], skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
            assert isinstance(text, str)
            if "�" not in text:
                break
        else:
            taken = 1
        found += [text, *[""] * (taken - 1)]
        at += taken
    return found
