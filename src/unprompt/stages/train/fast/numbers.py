"""In which number format products are fast."""

from __future__ import annotations

import functools

import torch


def product_dtype(tensor: torch.Tensor) -> torch.dtype:
    """The format in which to multiply what is stored as `tensor` is: its own, or float32 on a
    processor that has no bf16 or fp16 products (there they take 8 to 40 times as long as float32
    ones).
    """
    dtype = tensor.dtype
    half = dtype in (torch.bfloat16, torch.float16) and tensor.device.type == "cpu"
    return torch.float32 if half and not _cpu_has_half(dtype) else dtype


@functools.cache
def _cpu_has_half(dtype: torch.dtype) -> bool:
    """Asked and not measured, so that a training that goes on after a stop computes the same."""
    names = ["_is_amx_fp16_supported"]
    if dtype == torch.bfloat16:
        names = ["_is_avx512_bf16_supported", "_is_amx_tile_supported"]
    return any(getattr(torch.cpu, name, bool)() for name in names)
