"""Lessons one after the other in one row, and attention that keeps them apart.

Shapes: B lessons, T their longest, S tokens of all, N weighted tokens, H query heads, G key-value
heads, D head size.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from unprompt.stages.train.fast.numbers import product_dtype
from unprompt.stages.train.loss import Batch

NAME = "unprompt_packed"


class Row(NamedTuple):
    """Lessons in one row, the shortest first.

    Attributes:
        ids_S, position_S: Token ids, and each one's place in its lesson.
        lengths: Of each lesson.
        at_N: Where in the row the logits stand that predict each weighted token.
    """

    ids_S: torch.Tensor
    position_S: torch.Tensor
    lengths: list[int]
    at_N: torch.Tensor


def pack(batch: Batch) -> Row:
    """A batch of a decoder, sorted by length."""
    read, places_T = batch.ids_S.split(batch.lengths), torch.arange(max(batch.lengths))
    places_T = places_T.to(batch.ids_S.device)
    order = sorted(range(len(read)), key=batch.lengths.__getitem__)
    lengths = [batch.lengths[n] for n in order]
    start = dict(zip(order, itertools.accumulate(lengths, initial=0), strict=False))
    start_B = batch.row_N.new_tensor([start[n] for n in range(len(read))])
    return Row(
        torch.cat([read[n] for n in order]),
        torch.cat([places_T[:length] for length in lengths]),
        lengths,
        start_B[batch.row_N] + batch.place_N,
    )


def forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    lesson_lengths: list[int] | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each lesson, from (1, H or G, S, D) to (1, S, H, D): one call for all
    lessons of a length, on views, without a mask.

    Args:
        lesson_lengths: Of the lessons in the row; the model is called with it and passes it on.

    Raises:
        ValueError: The model does not.
    """
    if lesson_lengths is None:
        raise ValueError("it does not pass the lengths of lessons on to its attention")
    dtype, outs, start = product_dtype(query), list[torch.Tensor](), 0
    for length, run in itertools.groupby(lesson_lengths):
        count = len(list(run))
        stop = start + count * length
        q, k, v = (
            t[0, :, start:stop].to(dtype).unflatten(1, (count, length)).transpose(0, 1)
            for t in (query, key, value)
        )
        band = None
        if sliding_window and length > sliding_window:
            band = torch.ones(length, length, dtype=torch.bool, device=q.device)
            band = band.tril().triu(1 - sliding_window)
        out_BHTD = torch.nn.functional.scaled_dot_product_attention(
            *(q, k, v, band, dropout),
            is_causal=band is None,
            scale=scaling,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        outs.append(out_BHTD.transpose(1, 2).reshape(count * length, q.shape[1], -1))
        start = stop
    return torch.cat(outs)[None].to(query.dtype), None


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None


AttentionInterface.register(NAME, forward)
AttentionMaskInterface.register(NAME, _no_mask)
