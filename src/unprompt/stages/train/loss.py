"""The one loss: KL from soft labels to the student, on weighted tokens only.

Shapes: N weighted tokens in a batch, E label entries, V vocabulary, B lessons, T their longest, K
positions at which logits are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from unprompt.records import Lesson, SoftLabels


class Batch(NamedTuple):
    """Lessons as tensors.

    Attributes:
        inputs: What the model is called with (`logits_to_keep` names the K positions).
        row_N, keep_N: Which lesson, and which of the K positions, predicts each weighted token.
        weight_N: Its weight.
        token_E, id_E, prob_E: Label entries: the weighted token it belongs to, the id, its
            probability.
        teacher_nll_N: Cross-entropy of the label with the teacher's own distribution, in nats.
    """

    inputs: dict[str, torch.Tensor]
    row_N: torch.Tensor
    keep_N: torch.Tensor
    weight_N: torch.Tensor
    token_E: torch.Tensor
    id_E: torch.Tensor
    prob_E: torch.Tensor
    teacher_nll_N: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(
            {k: v.to(device) for k, v in self.inputs.items()},
            *(tensor.to(device) for tensor in self[1:]),
        )


def label_loss(
    logits_NV: torch.Tensor,
    token_E: torch.Tensor,
    id_E: torch.Tensor,
    prob_E: torch.Tensor,
    teacher_nll_N: torch.Tensor,
) -> torch.Tensor:
    """KL(teacher || student) of each token in nats, shape (N,), estimated from its label.

    `sum_v q(v) * (log p_teacher(v) - log p_student(v))`. With ids drawn from the teacher (Snell et
    al. 2022, section 2.1) it is unbiased, and so is its gradient; with all of V it is the KL
    itself; for a student equal to the teacher it is 0 whatever was drawn.
    """
    logits_NV = logits_NV.float()
    said_N = torch.zeros_like(teacher_nll_N).index_add(
        0, token_E, prob_E * logits_NV[token_E, id_E]
    )
    mass_N = torch.zeros_like(teacher_nll_N).index_add(0, token_E, prob_E)
    return mass_N * logits_NV.logsumexp(-1) - said_N - teacher_nll_N


def collate(lessons: Sequence[Lesson], pad: int, decoder_start: int | None = None) -> Batch:
    """Lessons to tensors; padded on the left for decoders, so that targets line up and few
    positions need logits. The last target, and what stands behind it, predicts nothing and is not
    fed.

    Args:
        pad: Id to fill with.
        decoder_start: First decoder id of an encoder-decoder model; None for a decoder-only one.
    """
    rows, places, weights = [], [], []
    read = [
        list(lesson.input_ids[: max(1, np.flatnonzero(lesson.weights)[-1:].sum())])
        for lesson in lessons
    ]
    longest = max(map(len, read))
    for row, lesson in enumerate(lessons):
        weighted = np.flatnonzero(lesson.weights)
        rows.append(np.full(len(weighted), row))
        weights.append(lesson.weights[weighted])
        # the logits that predict token t stand at t - 1; a decoder behind an encoder begins with
        # its start token at the prompt's end
        places.append(
            weighted - lesson.prompt_length
            if decoder_start is not None
            else weighted - 1 + longest - len(read[row])
        )
    place_N = torch.from_numpy(np.concatenate(places)).long()
    inputs: dict[str, torch.Tensor]
    if decoder_start is None:
        keep_K, keep_N = torch.unique(place_N, return_inverse=True)
        ids_BT = _filled(read, longest, pad, left=True)
        mask_BT = _filled([[1] * len(ids) for ids in read], longest, 0, left=True)
        position_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
        inputs = {
            "input_ids": ids_BT,
            "attention_mask": mask_BT,
            "position_ids": position_BT,
            "logits_to_keep": keep_K,
        }
    else:
        keep_N = place_N
        asked = [list(lesson.input_ids[: lesson.prompt_length]) for lesson in lessons]
        told = [
            [decoder_start, *ids[lesson.prompt_length :]]
            for ids, lesson in zip(read, lessons, strict=True)
        ]
        width = max(map(len, asked))
        inputs = {
            "input_ids": _filled(asked, width, pad, left=False),
            "attention_mask": _filled([[1] * len(ids) for ids in asked], width, 0, left=False),
            "decoder_input_ids": _filled(told, max(map(len, told)), pad, left=False),
        }
    labels = SoftLabels.concat([lesson.labels for lesson in lessons])
    return Batch(
        inputs,
        torch.from_numpy(np.concatenate(rows)).long(),
        keep_N,
        torch.from_numpy(np.concatenate(weights)).float(),
        torch.from_numpy(np.repeat(np.arange(len(labels)), np.diff(labels.offsets))).long(),
        torch.from_numpy(labels.ids).long(),
        torch.from_numpy(labels.probs).float(),
        torch.from_numpy(labels.teacher_nll).float(),
    )


def _filled(rows: Sequence[list[int]], width: int, value: int, *, left: bool) -> torch.Tensor:
    empty = [[value] * (width - len(row)) for row in rows]
    return torch.tensor(
        [e + row if left else row + e for row, e in zip(rows, empty, strict=True)], dtype=torch.long
    )


def batch_kl(model: Any, batch: Batch) -> torch.Tensor:
    """KL of each weighted token of a batch, shape (N,), in nats; unweighted."""
    logits_BKV = model(**batch.inputs, use_cache=False).logits
    return label_loss(
        logits_BKV[batch.row_N, batch.keep_N],
        batch.token_E,
        batch.id_E,
        batch.prob_E,
        batch.teacher_nll_N,
    )
