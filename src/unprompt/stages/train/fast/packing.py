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
    """A batch of a decoder without its padding."""
    given = batch.inputs
    mask_BT = given["attention_mask"].bool()
    length_B = mask_BT.sum(1)
    order_B = length_B.argsort(stable=True)
    sorted_B = length_B[order_B]
    start_B = torch.empty_like(length_B).index_copy(0, order_B, sorted_B.cumsum(0) - sorted_B)
    mask_BT = mask_BT[order_B]
    column_N = (
        given["logits_to_keep"][batch.keep_N] - (mask_BT.shape[1] - length_B)[batch.row_N]
    )  # padding stands on the left
    return Row(
        given["input_ids"][order_B][mask_BT],
        given["position_ids"][order_B][mask_BT],
        sorted_B.tolist(),
        start_B[batch.row_N] + column_N,
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
    kind, dtype = query.dtype, product_dtype(query)
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    found, start = [], 0
    for length, run in itertools.groupby(lesson_lengths):
        count = len(list(run))
        q, k, v = (
            t[0, :, start : start + count * length].unflatten(1, (count, length)).transpose(0, 1)
            for t in (query, key, value)
        )
        band = None
        if sliding_window and length > sliding_window:
            band = (
                torch.ones(length, length, dtype=torch.bool, device=q.device)
                .tril()
                .triu(1 - sliding_window)
            )
        out_BHTD = torch.nn.functional.scaled_dot_product_attention(
            q,
            k,
            v,
            band,
            dropout,
            is_causal=band is None,
            scale=scaling,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        found.append(out_BHTD.transpose(1, 2).reshape(count * length, q.shape[1], -1))
        start += count * length
    return torch.cat(found)[None].to(kind), None


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None


AttentionInterface.register(NAME, forward)
AttentionMaskInterface.register(NAME, _no_mask)
