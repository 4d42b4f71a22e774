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
        wanted, head_wanted, bias_wanted = ctx.needs_input_grad[:3]
        dtype = product_dtype(weight_VH)
        stored_VH, weight_VH = weight_VH, weight_VH.to(dtype)
        bias = None if bias_V is None else bias_V.to(dtype)
        grad_NH = torch.zeros_like(hidden_NH)
        grad_VH = torch.zeros_like(stored_VH, dtype=torch.float32) if head_wanted else None
        grad_V = (
            torch.zeros_like(bias_V, dtype=torch.float32)
            if bias_wanted and bias_V is not None
            else None
        )
        total = torch.zeros((), dtype=torch.float32, device=hidden_NH.device)
        size = max(1, CHUNK_BYTES // (4 * len(weight_VH)))
        starts = range(0, len(hidden_NH), size)
        ends = torch.searchsorted(
            batch.token_E, torch.tensor([*starts, len(hidden_NH)], device=hidden_NH.device)
        ).tolist()
        for start, first, last in zip(starts, ends, ends[1:], strict=False):
            rows = slice(start, start + size)
            token_E, id_E, prob_E = (
                batch.token_E[first:last] - start,
                batch.id_E[first:last],
                batch.prob_E[first:last],
            )
            hidden_CH, weight_C = hidden_NH[rows].to(dtype), batch.weight_N[rows]
            z_CV = torch.nn.functional.linear(hidden_CH, weight_VH, bias).float()
            slope_CV = None
            if cap:
                z_CV.div_(cap).tanh_()
                slope_CV = 1 - z_CV.square() if wanted or head_wanted else None
                z_CV.mul_(cap)
            said_C = torch.zeros_like(weight_C).index_add(0, token_E, prob_E * z_CV[token_E, id_E])
            mass_C = torch.zeros_like(weight_C).index_add(0, token_E, prob_E)
            top_C = z_CV.amax(-1)
            z_CV.sub_(top_C[:, None]).exp_()
            sum_C = z_CV.sum(-1)
            total += (
                weight_C * (mass_C * (top_C + sum_C.log()) - said_C - batch.teacher_nll_N[rows])
            ).sum()
            if not (wanted or head_wanted or bias_wanted):
                continue
            z_CV.mul_((weight_C * mass_C / sum_C)[:, None])
            z_CV.index_put_((token_E, id_E), -prob_E * weight_C[token_E], accumulate=True)
            if slope_CV is not None:
                z_CV.mul_(slope_CV)
            grad_CV = z_CV.to(dtype)
            grad_NH[rows] = grad_CV @ weight_VH
            if grad_VH is not None:
                _accumulate(grad_VH, grad_CV.T, hidden_CH)
            if grad_V is not None:
                grad_V += z_CV.sum(0)
        ctx.save_for_backward(grad_NH, *(grad for grad in (grad_VH, grad_V) if grad is not None))
        ctx.wanted, ctx.dtype = (wanted, grad_VH is not None, grad_V is not None), stored_VH.dtype
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        saved = list(ctx.saved_tensors)
        grad_NH = saved.pop(0) * grad.to(saved[0].dtype if saved else torch.float32)
        more = [
            (saved.pop(0) * grad).to(ctx.dtype) if wanted else None for wanted in ctx.wanted[1:]
        ]
        return (grad_NH if ctx.wanted[0] else None), *more, None, None


def _accumulate(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """`total` (float32) += left @ right."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
