"""The loss against torch's own, and its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from conftest import decoder
from unprompt.engines.drawing import Book, Draws, next_tokens
from unprompt.recipe import Labels, Sampling
from unprompt.records import Lesson, SoftLabels
from unprompt.stages.train.loss import batch_kl, collate, label_loss, padded


def labelled(teacher_NV: torch.Tensor, labels: Labels) -> SoftLabels:
    draw = Draws([f"token {n}" for n in range(len(teacher_NV))])
    book = Book()
    next_tokens(teacher_NV, Sampling(temperature=0), labels, draw, range(len(teacher_NV)), book)
    return SoftLabels.concat(book.of(len(teacher_NV)))


def loss_of(student_NV: torch.Tensor, labels: SoftLabels) -> torch.Tensor:
    token = torch.from_numpy(np.repeat(np.arange(len(labels)), np.diff(labels.offsets)))
    as_tensors = (
        torch.from_numpy(labels.ids).long(),
        torch.from_numpy(labels.probs),
        torch.from_numpy(labels.teacher_nll),
    )
    return label_loss(student_NV, token, *as_tensors)


def full_kl(teacher_NV: torch.Tensor, student_NV: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.kl_div(
        student_NV.log_softmax(-1), teacher_NV.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)


def test_top_k_of_everything_is_torchs_kl() -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(6, 50) * 3, torch.randn(6, 50) * 3
    torch.testing.assert_close(
        loss_of(student, labelled(teacher, Labels(kind="top_k", k=50))),
        full_kl(teacher, student),
        atol=1e-5,
        rtol=1e-5,
    )


def test_sampled_labels_converge_to_the_full_kl() -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(20, 50) * 2, torch.randn(20, 50) * 2
    exact = full_kl(teacher, student)
    errors = [
        (loss_of(student, labelled(teacher, Labels(draws=draws))) - exact).abs().mean().item()
        for draws in (10, 1000, 60000)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.02
    # the error of a mean of draws falls with the square root of their number
    assert 3 < errors[0] / errors[1] < 30


def test_sampled_labels_are_unbiased() -> None:
    torch.manual_seed(1)
    teacher, student = torch.randn(1, 30), torch.randn(1, 30)
    many = labelled(teacher.expand(4000, -1), Labels(draws=10))
    estimates = loss_of(student.expand(4000, -1), many)
    assert abs(estimates.mean() - full_kl(teacher, student)[0]) < 4 * estimates.std() / 4000**0.5


def lesson(ids: list[int], weights: list[float], labels: SoftLabels | None = None) -> Lesson:
    hard = SoftLabels.hard([token for token, weight in zip(ids, weights, strict=True) if weight])
    return Lesson("x", "c", tuple(ids), 2, np.asarray(weights, np.float32), labels or hard)


def test_no_gradient_for_unweighted_tokens() -> None:
    model = decoder()
    seen: dict[str, Any] = {}

    def keep(module: Any, inputs: Any, output: torch.Tensor) -> None:
        output.retain_grad()
        seen["logits"] = output

    handle = model.lm_head.register_forward_hook(keep)
    batch = collate(
        [lesson([5, 6, 7, 8, 9, 10], [0, 0, 1, 0, 2, 0]), lesson([5, 6, 7], [0, 0, 1])], pad=0
    )
    (batch_kl(model, batch) * batch.weight_N).sum().backward()
    handle.remove()
    grad_BKV = seen["logits"].grad
    assert grad_BKV.shape[1] == 2, "logits are computed at the weighted positions of the batch only"
    used = set(zip(batch.row_N.tolist(), padded(batch)[1].tolist(), strict=True))
    for row in range(2):
        for keep_at in range(2):
            assert (grad_BKV[row, keep_at].abs().max() > 0) == ((row, keep_at) in used)


def test_an_unweighted_token_behind_the_last_weighted_one_changes_nothing() -> None:
    model = decoder()
    one = batch_kl(model, collate([lesson([5, 6, 7, 8], [0, 0, 1, 0])], 0))
    two = batch_kl(model, collate([lesson([5, 6, 7, 99], [0, 0, 1, 0])], 0))
    torch.testing.assert_close(one, two)


def test_loss_is_cross_entropy_for_hard_labels() -> None:
    model = decoder()
    ids = [5, 6, 7, 8, 9]
    got = batch_kl(model, collate([lesson(ids, [0, 0, 1, 1, 1])], 0))
    want = torch.nn.functional.cross_entropy(
        model(torch.tensor([ids])).logits[0, 1:4], torch.tensor(ids[2:]), reduction="none"
    )
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
