"""The loss of `loss.label_loss` from hidden states, without logits of all tokens in memory.

The gradient of a token's loss is known as soon as its logits z are: d/dz = softmax(z) * mass - q,
in nats per logit. So a chunk of tokens goes through the head, leaves its loss and its gradient to
the hidden states (and to the head, if that is trained), and is forgotten.

Shapes: N weighted tokens, H hidden size, V vocabulary, E label entries, C tokens of a chunk.
"""

from __future__ import annotations

from typing import Any

import torch

from unprompt.stages.train.fast.numbers import product_dtype
from unprompt.stages.train.loss import Batch

CHUNK_BYTES = 32 * 2**20
"""Of float32 logits in memory at once."""


def weighted_loss(
    hidden_NH: torch.Tensor, head: torch.nn.Linear, cap: float | None, batch: Batch
) -> torch.Tensor:
    """Sum over the weighted tokens of weight * KL(teacher || student), in nats.

    Args:
        cap: `final_logit_softcapping`: logits are cap * tanh(z / cap).
    """
    return _Loss.apply(hidden_NH, head.weight, head.bias, cap, batch)


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        hidden_NH: torch.Tensor,
        weight_VH: torch.Tensor,
        bias_V: torch.Tensor | None,
        cap: float | None,
        batch: Batch,
    ) -> torch.Tensor:
        dtype, wanted = product_dtype(weight_VH), ctx.needs_input_grad[:3]
        ctx.dtypes = (hidden_NH.dtype, weight_VH.dtype, weight_VH.dtype)
        grad_NH = torch.zeros_like(hidden_NH) if wanted[0] else None
        grad_VH = torch.zeros_like(weight_VH, dtype=torch.float32) if wanted[1] else None
        grad_V = None
        if bias_V is not None:
            grad_V = torch.zeros_like(bias_V, dtype=torch.float32) if wanted[2] else None
            bias_V = bias_V.to(dtype)
        weight_VH = weight_VH.to(dtype)
        total = torch.zeros((), dtype=torch.float32, device=hidden_NH.device)
        size = max(1, CHUNK_BYTES // (4 * len(weight_VH)))
        starts = range(0, len(hidden_NH), size)
        edges = batch.token_E.new_tensor([*starts, len(hidden_NH)])
        ends = torch.searchsorted(batch.token_E, edges).tolist()
        for start, first, last in zip(starts, ends, ends[1:], strict=False):
            rows = slice(start, start + size)
            hidden_CH = hidden_NH[rows].to(dtype)
            z_CV = torch.nn.functional.linear(hidden_CH, weight_VH, bias_V).float()
            total += _chunk(z_CV, cap, batch, rows, slice(first, last), gradient=any(wanted))
            grad_CV = z_CV.to(dtype)
            if grad_NH is not None:
                grad_NH[rows] = grad_CV @ weight_VH
            if grad_VH is not None:
                _accumulate(grad_VH, grad_CV.T, hidden_CH)
            if grad_V is not None:
                grad_V += z_CV.sum(0)
        ctx.save_for_backward(grad_NH, grad_VH, grad_V)
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        saved = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        grads = [None if each is None else (each * grad).to(dtype) for each, dtype in saved]
        return *grads, None, None


def _chunk(
    z_CV: torch.Tensor,
    cap: float | None,
    batch: Batch,
    rows: slice,
    entries: slice,
    *,
    gradient: bool,
) -> torch.Tensor:
    """The loss of the tokens `rows`, with label entries `entries`, from their logits, which are
    overwritten: with their gradient, if it is wanted.
    """
    weight_C, nll_C = batch.weight_N[rows], batch.teacher_nll_N[rows]
    token_E, id_E = batch.token_E[entries] - rows.start, batch.id_E[entries]
    prob_E = batch.prob_E[entries]
    slope_CV = None
    if cap:
        z_CV.div_(cap).tanh_()
        slope_CV = 1 - z_CV.square() if gradient else None
        z_CV.mul_(cap)
    nothing_C = torch.zeros_like(weight_C)
    logit_C = nothing_C.index_add(0, token_E, prob_E * z_CV[token_E, id_E])
    mass_C = nothing_C.index_add(0, token_E, prob_E)
    top_C = z_CV.amax(-1)
    sum_C = z_CV.sub_(top_C[:, None]).exp_().sum(-1)
    if gradient:
        z_CV.mul_((weight_C * mass_C / sum_C)[:, None])
        z_CV.index_put_((token_E, id_E), -prob_E * weight_C[token_E], accumulate=True)
        if slope_CV is not None:
            z_CV.mul_(slope_CV)
    return (weight_C * (mass_C * (top_C + sum_C.log()) - logit_C - nll_C)).sum()


def _accumulate(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """`total` (float32) += left @ right."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
