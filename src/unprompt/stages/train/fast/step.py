"""The fast training step of a student: switched on, tried against the plain one, off."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from unprompt.stages.train.fast import adapter, head, packing
from unprompt.stages.train.loss import Batch, batch_kl

_LAYERS = {"full_attention", "sliding_attention"}
"""Kinds of layers that attention in packing.py knows."""


class Step:
    """A student's loss on a batch: `(batch_kl(student, batch) * batch.weight_N).sum()`."""

    def __init__(self, student: Any) -> None:
        model = _model(student)
        self._body, self._head = model.base_model, model.get_output_embeddings()
        self._cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Sum over the weighted tokens of weight * KL(teacher || student), in nats."""
        row = packing.pack(batch)
        given = {
            "input_ids": row.ids_S[None],
            "position_ids": row.position_S[None],
            "lesson_lengths": row.lengths,
        }
        hidden_1SH = self._body(**given, use_cache=False).last_hidden_state
        return head.weighted_loss(hidden_1SH[0, row.at_N], self._head, self._cap, batch)


def _model(student: Any) -> Any:
    """The model itself, of a student with an adapter, too."""
    return student.get_base_model() if hasattr(student, "peft_config") else student


@contextlib.contextmanager
def enabled(student: Any, probe: Batch) -> Iterator[Step | str]:
    """The fast step while the student is set up for it; or, in one line, why there is none.

    Args:
        probe: On which it is tried: it must give the plain path's loss (to 1e-4 in float32, 5e-2 in
            16 bits, relative).
    """
    with contextlib.ExitStack() as undo:
        step = _switched_on(student, probe, undo)
        if isinstance(step, str):
            undo.close()
        yield step


@contextlib.contextmanager
def called_through(student: Any, step: Step) -> Iterator[None]:
    """Inside, `student(fast_batch=batch)` takes the step: so does whatever wraps the student, as
    DDP, which averages the gradients of what is called through it.
    """
    plain = student.forward

    def forward(*args: Any, fast_batch: Batch | None = None, **kwargs: Any) -> Any:
        return plain(*args, **kwargs) if fast_batch is None else step(fast_batch)

    student.forward = forward
    try:
        yield
    finally:
        del student.forward


@contextlib.contextmanager
def paused(student: Any) -> Iterator[None]:
    """The student in the middle of a fast training, reading padded rows as on the plain path."""
    model = _model(student)
    attention = model.config.get_text_config()._attn_implementation
    if attention != packing.NAME:
        yield
        return
    model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(attention)


@torch.no_grad()
def _switched_on(student: Any, probe: Batch, undo: contextlib.ExitStack) -> Step | str:
    model = _model(student)
    config = model.config.get_text_config()
    if reason := _unknown(model, config):
        return reason
    near = 1e-4 if model.dtype == torch.float32 else 5e-2
    training = student.training
    student.eval()  # without dropout, and no random numbers used up
    try:
        want = (batch_kl(student, probe) * probe.weight_N).sum()
        undo.callback(model.set_attn_implementation, config._attn_implementation)
        model.set_attn_implementation(packing.NAME)
        step = Step(student)
        undo.enter_context(adapter.fused(student, lambda: step(probe)))
        got = step(probe)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError) as error:
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:120]}"
    finally:
        student.train(training)
    if not torch.allclose(got, want, rtol=near, atol=near * float(probe.weight_N.sum())):
        return f"it gave other numbers ({got:.6g} for {want:.6g})"
    return step


def _unknown(model: Any, config: Any) -> str | None:
    """What of the model the fast step does not know; None if nothing."""
    if config.is_encoder_decoder:
        return "it has an encoder"
    attention = config._attn_implementation
    if attention != "sdpa" and not str(attention).startswith("unprompt_"):
        return f"its attention is '{attention}', not 'sdpa'"
    if any(kind not in _LAYERS for kind in getattr(config, "layer_types", None) or ()):
        return "it has layers that are no plain attention"
    if type(model.get_output_embeddings()) is not torch.nn.Linear:
        return "its output layer is not a plain linear one"
    return None
