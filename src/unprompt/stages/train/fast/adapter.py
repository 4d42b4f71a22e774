"""LoRA layers as a few matrix products: y = x W' + b + scale * (x A') B' (Hu et al. 2021, section
4.1).

peft computes the same with a product, a scaling and an addition over the whole output for each
layer, and autograd keeps what each of them read. Here additions happen inside the products, layers
that read the same input (queries, keys and values; gate and up) share one product with all their A,
and only x and x A' are kept. The parameters stay peft's.

Shapes: S tokens, I inputs, O outputs, R ranks of all layers of a group.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from unprompt.stages.train.fast.numbers import product_dtype


@contextlib.contextmanager
def fused(student: torch.nn.Module, run: Callable[[], object]) -> Iterator[None]:
    """Inside, plain LoRA layers of the student are computed in groups.

    Args:
        run: A forward pass of the student; it shows which layers read the same input.
    """
    groups = _groups(student, run)
    try:
        for group in groups:
            for number, layer in enumerate(group.layers):
                layer.forward = group.call(number)
        yield
    finally:
        for group in groups:
            for layer in group.layers:
                layer.__dict__.pop("forward", None)


def _plain(module: torch.nn.Module) -> bool:
    """A LoRA layer of one adapter on a frozen plain `Linear`, without dropout and variants."""
    from peft.tuners.lora import Linear

    if not isinstance(module, Linear):
        return False
    names = list(module.lora_A)
    return (
        type(module.base_layer) is torch.nn.Linear
        and not module.merged
        and not module.disable_adapters
        and len(names) == 1
        and list(module.active_adapters) == names
        and not module.lora_variant
        and isinstance(module.lora_dropout[names[0]], torch.nn.Identity)
        and not module.lora_bias[names[0]]
        and not module.base_layer.weight.requires_grad
        and "forward" not in module.__dict__
    )


def _groups(student: torch.nn.Module, run: Callable[[], object]) -> list[_Group]:
    read: list[tuple[Any, torch.Tensor]] = []
    layers = [module for module in student.modules() if _plain(module)]
    hooks = [
        layer.register_forward_pre_hook(lambda module, args: read.append((module, args[0])))
        for layer in layers
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    times = Counter(layer for layer, _ in read)
    # of one that stands in several places nobody knows beside whom
    once = [(layer, x) for layer, x in read if times[layer] == 1]
    runs = itertools.groupby(once, key=lambda pair: id(pair[1]))
    return [_Group([layer for layer, _ in members]) for _, members in runs]


class _Group:
    """Layers that read one input. The first that is called computes all; their outputs wait."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self.layers = layers
        named = [(layer, next(iter(layer.lora_A))) for layer in layers]
        self._scales = [layer.scaling[name] for layer, name in named]
        self._tensors = (
            *(layer.base_layer.weight for layer in layers),
            *(layer.base_layer.bias for layer in layers),
            *(layer.lora_A[name].weight for layer, name in named),
            *(layer.lora_B[name].weight for layer, name in named),
        )
        self._x: torch.Tensor | None = None
        self._waiting: dict[int, torch.Tensor] = {}

    def call(self, number: int) -> Callable[[torch.Tensor], torch.Tensor]:
        """The forward pass of one of the layers."""

        def forward(x: torch.Tensor) -> torch.Tensor:
            if x is not self._x or number not in self._waiting:
                outs = _Products.apply(x, self._scales, *self._tensors)
                self._x, self._waiting = x, dict(enumerate(outs))
            out = self._waiting.pop(number)
            if not self._waiting:
                self._x = None
            return out

        return forward


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scales: list[float], *tensors: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        weights, biases, downs, ups = _quarters(tensors)
        dtype = product_dtype(weights[0])
        x_SI = x.reshape(-1, x.shape[-1]).to(dtype)
        low_SR = x_SI @ _joined(downs, dtype).T
        lows, outs = low_SR.split([len(a) for a in downs], 1), []
        for weight, bias, low, up, scale in zip(weights, biases, lows, ups, scales, strict=True):
            bias_O = None if bias is None else bias.to(dtype)
            y_SO = torch.nn.functional.linear(x_SI, weight.to(dtype), bias_O)
            y_SO.addmm_(low, up.to(dtype).T, alpha=scale)
            outs.append(y_SO.to(x.dtype).view(*x.shape[:-1], -1))
        ctx.save_for_backward(x, low_SR, *tensors)
        ctx.scales = scales
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, low_SR, *tensors = ctx.saved_tensors
        weights, _, downs, ups = _quarters(tensors)
        dtype = low_SR.dtype
        x_SI = x.reshape(-1, x.shape[-1]).to(dtype)
        lows = low_SR.split([len(a) for a in downs], 1)
        grads = tuple(grad.reshape(-1, grad.shape[-1]).to(dtype) for grad in grads)
        scaled = zip(grads, ups, ctx.scales, strict=True)
        back_SR = torch.cat([grad @ up.to(dtype) * scale for grad, up, scale in scaled], 1)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_SI = grads[0] @ weights[0].to(dtype)
            for grad, weight in zip(grads[1:], weights[1:], strict=True):
                grad_SI.addmm_(grad, weight.to(dtype))
            grad_x = grad_SI.addmm_(back_SR, _joined(downs, dtype)).to(x.dtype).view_as(x)
        grad_downs = (back_SR.T @ x_SI).to(downs[0].dtype).split([len(a) for a in downs])
        grad_ups = [
            ((grad.T @ low) * scale).to(up.dtype)
            for grad, low, up, scale in zip(grads, lows, ups, ctx.scales, strict=True)
        ]
        nothing = [None] * (2 * len(weights))
        return grad_x, None, *nothing, *grad_downs, *grad_ups


def _quarters(tensors: Sequence[Any]) -> list[Sequence[Any]]:
    count = len(tensors) // 4
    return [tensors[start : start + count] for start in range(0, len(tensors), count)]


def _joined(downs: Sequence[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    return torch.cat([down.to(dtype) for down in downs]) if len(downs) > 1 else downs[0].to(dtype)
