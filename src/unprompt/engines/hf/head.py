"""What a model's output layer reads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def in_one_piece(model: Any) -> Iterator[None]:
    """Its output layer gets hidden states without gaps. Each row's last tokens are a view with
    gaps, which PyTorch multiplies row by row, and in bfloat16 it copies the vocabulary's weights
    for each.
    """
    layer = model.get_output_embeddings()
    hook = layer and layer.register_forward_pre_hook(_whole)
    try:
        yield
    finally:
        if hook:
            hook.remove()


def _whole(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(each.contiguous() for each in inputs)
