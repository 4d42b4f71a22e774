"""Attention to a prefix that a whole batch shares, with its keys and values standing once in memory.

What it computes, in plain words: for each query, softmax attention over [prefix keys, own keys]. The two parts are attended to apart, the prefix by
the queries of all sequences in one product, and merged by their log-sum-exp (Juravsky et al. 2024, "Hydragen"; the same as one softmax over both):

    out = (exp(lse_prefix) * out_prefix + exp(lse_own) * out_own) / (exp(lse_prefix) + exp(lse_own))

It registers as an attention function of transformers, for decoders with plain softmax attention (rotary or learned positions, grouped queries).
`supported` tries it on the model itself, against the plain path; where it does not give the same, the engine copies the prefix to every sequence instead.

Shapes: B sequences, H query heads, G key-value heads, Q queries of each, P prefix tokens, S own tokens so far, D head size.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "unprompt_shared_prefix"

_Prefix = list[tuple[torch.Tensor, torch.Tensor]]
_PREFIX: contextvars.ContextVar[_Prefix | None] = contextvars.ContextVar("prefix", default=None)
"""Keys and values (1, G, P, D) of every layer, while a batch attends to them."""


@contextlib.contextmanager
def attending_to(cache: DynamicCache) -> Iterator[None]:
    """Every forward pass inside sees `cache` (of one row) ahead of each sequence."""
    layers: Any = cache.layers
    token = _PREFIX.set([(layer.keys, layer.values) for layer in layers])
    try:
        yield
    finally:
        _PREFIX.reset(token)


def forward(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """The attention function: transformers' own outside of `attending_to`, prefix and own part merged inside. Returns (B, Q, H, D)."""
    prefix = _PREFIX.get()
    if prefix is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
    keys_GPD, values_GPD = (tensor[0] for tensor in prefix[module.layer_idx])  # pyright: ignore[reportCallIssue, reportArgumentType]
    b, h, q, d = query.shape
    g = keys_GPD.shape[0]
    # the group of query heads that share a key-value head, all sequences and all queries are rows of one product
    rows_GRD = query.reshape(b, g, h // g, q, d).permute(1, 0, 2, 3, 4).reshape(g, -1, d)
    out_GRD, lse_GR = _attend(rows_GRD, keys_GPD, values_GPD, scale, None)
    out_p = out_GRD.view(g, b, h // g, q, d).transpose(0, 1)
    lse_p = lse_GR.view(g, b, h // g, q).transpose(0, 1)

    s = key.shape[2]
    if attention_mask is None and q > 1:
        attention_mask = torch.ones(q, s, dtype=torch.bool, device=query.device).tril(s - q)[None, None]
    mask = None if attention_mask is None else attention_mask[..., :s].expand(b, 1, q, s)[:, :, None]
    grouped = query.reshape(b, g, (h // g) * q, d)
    mask_rows = None if mask is None else mask.expand(b, 1, h // g, q, s).reshape(b, 1, (h // g) * q, s)
    out_o, lse_o = _attend(grouped, key, value, scale, mask_rows)
    out_o, lse_o = out_o.view(b, g, h // g, q, d), lse_o.view(b, g, h // g, q)

    share = torch.sigmoid(lse_p - lse_o)[..., None].to(query.dtype)
    out = out_o + share * (out_p - out_o)
    return out.reshape(b, h, q, d).transpose(1, 2).contiguous(), None


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax attention and the log-sum-exp of its scores, over the last two dimensions. A fully masked row gives lse -inf and output 0."""
    if mask is None and query.device.type == "cpu":
        four = [tensor if tensor.dim() == 4 else tensor[None] for tensor in (query, key, value)]
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*four, scale=scale)  # the same, fused
        return out.view(query.shape), lse.view(query.shape[:-1])
    scores = torch.matmul(query * scale, key.transpose(-1, -2)).float()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    lse = scores.logsumexp(-1)
    probs = torch.exp(scores - lse.nan_to_num(neginf=0.0)[..., None]).to(value.dtype)
    return torch.matmul(probs, value), lse


AttentionInterface.register(NAME, forward)
AttentionMaskInterface.register(NAME, sdpa_mask)


@torch.no_grad()
def enable(model: Any) -> str | None:
    """Switch the model to this attention if it gives what the plain path gives, tried on random tokens.

    Returns:
        None, or why not; the model is then left as it was.
    """
    config = model.config.get_text_config()
    before = config._attn_implementation
    if before == NAME:
        return None
    if before != "sdpa":
        return f"its attention is '{before}', not 'sdpa'"
    if getattr(config, "sliding_window", None) or any("full" not in kind for kind in getattr(config, "layer_types", None) or ()):
        return "it has layers that do not attend to everything"
    ids = torch.randint(0, config.vocab_size, (2, 12), generator=torch.Generator().manual_seed(0)).to(model.device)
    ids[1, :8] = ids[0, :8]
    try:
        plain = model(input_ids=ids, use_cache=False).logits[:, 8:].float()
        model.set_attn_implementation(NAME)
        cache, own = DynamicCache(config=model.config), DynamicCache(config=model.config)
        model(input_ids=ids[:1, :8], past_key_values=cache, use_cache=True)
        with attending_to(cache):
            given = {"position_ids": torch.arange(8, 12, device=ids.device).expand(2, -1), "attention_mask": torch.ones_like(ids[:, 8:])}
            shared = model(input_ids=ids[:, 8:], past_key_values=own, use_cache=True, **given).logits.float()
        near = 1e-4 if model.dtype == torch.float32 else 0.1
        if torch.allclose(shared, plain, atol=near * float(plain.abs().max()), rtol=0):
            return None
        reason = "it gave other numbers"
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        reason = f"{type(error).__name__}: {error}"
    model.set_attn_implementation(before)
    return reason
