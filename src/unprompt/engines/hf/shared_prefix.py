"""Attention to a prefix that a whole batch shares, with its keys and values standing once in
memory.

What it computes, in plain words: for each query, softmax attention over [prefix keys, own keys].
The two parts are attended to apart, the prefix by the queries of all sequences in one product, and
merged by their log-sum-exp (Juravsky et al. 2024, "Hydragen"; the same as one softmax over both):

    out = (exp(lse_prefix) * out_prefix + exp(lse_own) * out_own) / (exp(lse_prefix) + exp(lse_own))

It registers as an attention function of transformers, for decoders with plain softmax attention
(rotary or learned positions, grouped queries, sliding windows). `enable` tries it on the model
itself, against the plain path.

Shapes: B sequences, H query heads, G key-value heads, Q queries of each, P prefix tokens, S own
tokens so far, D head size.
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


class Reading:
    """Where the queries of one forward pass stand.

    Args:
        prefix: Keys and values (1, G, P, D) of every layer; None without a prefix.
        at_BQ: Place of each query behind the prefix; its own keys are those in columns up to it.
        width: S, the columns of own keys.
        dtype: Of the masks.
    """

    def __init__(
        self, prefix: DynamicCache | None, at_BQ: torch.Tensor, width: int, dtype: torch.dtype
    ) -> None:
        layers: Any = prefix.layers if prefix else []
        self.prefix = [(layer.keys, layer.values) for layer in layers]
        self.length = prefix.get_seq_length() if prefix else 0
        self._at, self._width, self._dtype = at_BQ, width, dtype
        self._least = int(at_BQ.min())
        self._masks: dict[Any, torch.Tensor] = {}

    def own_mask(self, window: int | None, group: int) -> torch.Tensor:
        """What each query sees of its own keys, additive, (B, 1, group * Q, S)."""
        if (window, group) not in self._masks:
            column_S = torch.arange(self._width, device=self._at.device)
            seen_BQS = column_S <= self._at[..., None]
            if window is not None:
                seen_BQS &= column_S > self._at[..., None] - window
            mask_BQS = self._additive(seen_BQS)
            self._masks[window, group] = mask_BQS[:, None].repeat(1, 1, group, 1)
        return self._masks[window, group]

    def prefix_mask(self, window: int | None, group: int) -> tuple[int, torch.Tensor | None]:
        """The first prefix token that any query sees, and what each sees from there on, additive
        (1, 1, B * group * Q, P - first); None: everything.
        """
        if window is None:
            return 0, None
        first = min(max(0, self._least + self.length - window + 1), self.length)
        if int(self._at.max()) + self.length < window or first == self.length:
            return first, None
        key = (window, group, "prefix")
        if key not in self._masks:
            column_P = torch.arange(first, self.length, device=self._at.device)
            seen_BQP = column_P > self._at[..., None] + self.length - window
            mask_B1QP = self._additive(seen_BQP)[:, None]
            self._masks[key] = mask_B1QP.repeat(1, group, 1, 1).view(1, 1, -1, len(column_P))
        return first, self._masks[key]

    def _additive(self, seen: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros(seen.shape, dtype=self._dtype, device=seen.device)
        return mask.masked_fill_(~seen, -torch.inf)


_READING: contextvars.ContextVar[Reading | None] = contextvars.ContextVar("reading", default=None)


@contextlib.contextmanager
def reading(state: Reading) -> Iterator[None]:
    """A forward pass inside attends as `state` says."""
    token = _READING.set(state)
    try:
        yield
    finally:
        _READING.reset(token)


def forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function: transformers' own outside of `reading`, prefix and own part merged
    inside. Returns (B, Q, H, D).
    """
    state = _READING.get()
    if state is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    scaling, window = kwargs.get("scaling"), kwargs.get("sliding_window")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    b, h, q, d = query.shape
    g = key.shape[1]
    # the group of query heads that share a key-value head are rows of one product; for the prefix,
    # those of all sequences
    rows_BGRD = query.reshape(b, g, (h // g) * q, d)
    out_o, lse_o = _attend(rows_BGRD, key, value, scale, state.own_mask(window, h // g))
    first, mask = state.prefix_mask(window, h // g)
    if first == state.length:
        return out_o.reshape(b, h, q, d).transpose(1, 2).contiguous(), None
    keys, values = (tensor[0, :, first:] for tensor in state.prefix[module.layer_idx])  # pyright: ignore[reportCallIssue, reportArgumentType]
    all_GRD = rows_BGRD.transpose(0, 1).reshape(1, g, -1, d)
    out_p, lse_p = _attend(all_GRD, keys[None], values[None], scale, mask)
    if mask is not None:  # the fused kernel says 0 of a row that sees nothing
        lse_p = lse_p.masked_fill(mask.amax(-1) == -torch.inf, -torch.inf)
    out_p, lse_p = out_p.view(g, b, -1, d).transpose(0, 1), lse_p.view(g, b, -1).transpose(0, 1)
    share = torch.sigmoid(lse_p - lse_o)[..., None].to(query.dtype)
    return torch.lerp(out_o, out_p, share).reshape(b, h, q, d).transpose(1, 2).contiguous(), None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    mask: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax attention (B, G, R, D) and the log-sum-exp of its scores (B, G, R). A fully masked
    row gives lse -inf and output 0.
    """
    if query.device.type == "cpu":
        if mask is not None:
            mask = mask.expand(query.shape[0], 1, query.shape[2], key.shape[2])
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, attn_mask=mask, scale=scale
        )  # the same, fused
    scores = torch.matmul(query * scale, key.transpose(-1, -2)).float()
    if mask is not None:
        scores = scores + mask
    lse = scores.logsumexp(-1)
    probs = torch.exp(scores - lse.nan_to_num(neginf=0.0)[..., None]).to(value.dtype)
    return torch.matmul(probs, value), lse


def _mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    return sdpa_mask(*args, **kwargs) if _READING.get() is None else None


AttentionInterface.register(NAME, forward)
AttentionMaskInterface.register(NAME, _mask)
