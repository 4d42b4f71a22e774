"""The one loss, equation 1 of Snell, Klein & Zhong (2022): KL of f(y) from the teacher to the
student that was given T_student(x), on weighted tokens only.

Shapes: N weighted tokens in a batch, E label entries, V vocabulary, B lessons, S tokens that are
read of all of them, T of the longest, K positions at which logits are computed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from unprompt.records import Lesson, SoftLabels

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Batch(NamedTuple):
    """Lessons as tensors, one behind the other, without padding.

    Attributes:
        ids_S: What is read of each lesson. The last target, and what stands behind it, predicts
            nothing and is not read.
        row_N, place_N: Which lesson each weighted token is in, and which of the tokens read there
            predicts it (of an encoder-decoder model: of those that its decoder reads).
        weight_N: Its weight, times its lesson's `loss_weight`.
        size: What the loss is divided by, shape (1,): the weight of all its tokens, or with
            `reduction: sum` the number of its lessons.
        token_E, id_E, prob_E: Label entries: the weighted token it belongs to, the id, its
            probability.
        teacher_nll_N: Cross-entropy of the label with the teacher's own distribution, in nats.
        lengths, prompts: Of each lesson, how many tokens are read, and how many its prompt has.
        pad: Id to fill with, where a model needs rows of one length.
        decoder_start: First decoder id of an encoder-decoder model; None for a decoder-only one.
    """

    ids_S: torch.Tensor
    row_N: torch.Tensor
    place_N: torch.Tensor
    weight_N: torch.Tensor
    size: torch.Tensor
    token_E: torch.Tensor
    id_E: torch.Tensor
    prob_E: torch.Tensor
    teacher_nll_N: torch.Tensor
    lengths: list[int]
    prompts: list[int]
    pad: int
    decoder_start: int | None

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        tensors = {k: v.to(device) for k, v in self._asdict().items() if torch.is_tensor(v)}
        return self._replace(**tensors)


def label_loss(
    logits_NV: torch.Tensor,
    token_E: torch.Tensor,
    id_E: torch.Tensor,
    prob_E: torch.Tensor,
    teacher_nll_N: torch.Tensor,
) -> torch.Tensor:
    """Equation 1, by token: KL(teacher || student) in nats, shape (N,), estimated from labels.

    `sum_v q(v) * (log p_teacher(v) - log p_student(v))`. With ids drawn from the teacher (Snell et
    al. 2022, section 2.1) it is unbiased, and so is its gradient; with all of V it is the KL
    itself; for a student equal to the teacher it is 0 whatever was drawn.
    """
    logits_NV = logits_NV.float()
    nothing_N = torch.zeros_like(teacher_nll_N)
    logit_N = nothing_N.index_add(0, token_E, prob_E * logits_NV[token_E, id_E])
    mass_N = nothing_N.index_add(0, token_E, prob_E)
    return mass_N * logits_NV.logsumexp(-1) - logit_N - teacher_nll_N


def collate(
    lessons: Sequence[Lesson],
    pad: int,
    decoder_start: int | None = None,
    reduction: Literal["mean", "sum"] = "mean",
) -> Batch:
    """Lessons to tensors.

    Args:
        reduction: As in `lessons`. Lessons that teach nothing count for nothing.
    """
    weighted = [np.flatnonzero(lesson.weights) for lesson in lessons]
    lengths = [max(1, int(places[-1:].sum())) for places in weighted]
    prompts = [lesson.prompt_length for lesson in lessons]
    # the logits that predict token t stand at t - 1; a decoder behind an encoder begins with its
    # start token at the prompt's end
    begins = [1] * len(lessons) if decoder_start is None else prompts
    labels = SoftLabels.concat([lesson.labels for lesson in lessons])
    counts = [len(at) for at in weighted]
    ids, places, weights, factors = (
        np.concatenate(parts)
        for parts in (
            [x.input_ids[:length] for x, length in zip(lessons, lengths, strict=True)],
            [at - begin for at, begin in zip(weighted, begins, strict=True)],
            [x.weights[at] for x, at in zip(lessons, weighted, strict=True)],
            [np.full(n, x.loss_weight) for x, n in zip(lessons, counts, strict=True)],
        )
    )
    weight_N = torch.from_numpy(weights).float()
    summed = reduction == "sum"
    return Batch(
        torch.from_numpy(ids).long(),
        torch.from_numpy(np.repeat(np.arange(len(lessons)), counts)).long(),
        torch.from_numpy(places).long(),
        weight_N * torch.from_numpy(factors).float(),
        weight_N.new_tensor([np.count_nonzero(counts)]) if summed else weight_N.sum()[None],
        torch.from_numpy(np.repeat(np.arange(len(labels)), np.diff(labels.offsets))).long(),
        torch.from_numpy(labels.ids).long(),
        torch.from_numpy(labels.probs).float(),
        torch.from_numpy(labels.teacher_nll).float(),
        lengths,
        prompts,
        pad,
        decoder_start,
    )


def collator(
    model: Any, tokenizer: PreTrainedTokenizerBase, reduction: Literal["mean", "sum"] = "mean"
) -> Callable[[Sequence[Lesson]], Batch]:
    """`collate` as a model and its tokenizer want it."""
    pad, config = tokenizer.pad_token_id, model.config
    assert isinstance(pad, int)
    start = config.decoder_start_token_id if config.is_encoder_decoder else None
    return functools.partial(collate, pad=pad, decoder_start=start, reduction=reduction)


def padded(batch: Batch) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """What a model is called with, and where in each row the logits stand that predict the weighted
    tokens, shape (N,).

    For decoders on the left, so that targets line up and few positions need logits
    (`logits_to_keep` names the K).
    """
    read = batch.ids_S.split(batch.lengths)
    if batch.decoder_start is None:
        ids_BT, mask_BT = _filled(read, batch.pad, "left")
        free_B = ids_BT.shape[1] - mask_BT.sum(1)
        keep_K, keep_N = torch.unique(batch.place_N + free_B[batch.row_N], return_inverse=True)
        position_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
        return {
            "input_ids": ids_BT,
            "attention_mask": mask_BT,
            "position_ids": position_BT,
            "logits_to_keep": keep_K,
        }, keep_N
    start = batch.ids_S.new_tensor([batch.decoder_start])
    asked = [ids[:length] for ids, length in zip(read, batch.prompts, strict=True)]
    answers = [torch.cat([start, ids[n:]]) for ids, n in zip(read, batch.prompts, strict=True)]
    ids_BT, mask_BT = _filled(asked, batch.pad, "right")
    decoder_ids_BT, _ = _filled(answers, batch.pad, "right")
    return {
        "input_ids": ids_BT,
        "attention_mask": mask_BT,
        "decoder_input_ids": decoder_ids_BT,
    }, batch.place_N


def _filled(rows: Sequence[torch.Tensor], pad: int, side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of one length, and where they are not filled."""
    there = [torch.ones_like(row) for row in rows]
    return pad_sequence(list(rows), True, pad, side), pad_sequence(there, True, 0, side)


def batch_kl(model: Any, batch: Batch) -> torch.Tensor:
    """KL of each weighted token of a batch, shape (N,), in nats; unweighted."""
    inputs, keep_N = padded(batch)
    logits_BKV = model(**inputs, use_cache=False).logits
    return label_loss(
        logits_BKV[batch.row_N, keep_N],
        batch.token_E,
        batch.id_E,
        batch.prob_E,
        batch.teacher_nll_N,
    )
