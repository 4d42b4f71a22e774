"""Draws and labels: what they are drawn from, what they sum to, whom they belong to."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

from unprompt.engines import Can
from unprompt.engines.drawing import Book, Draws, pick, write_labels
from unprompt.engines.labels import KINDS, decided_by, refuse, token_bytes
from unprompt.messages import UserError
from unprompt.recipe import Labels
from unprompt.records import SoftLabels

VOCABULARY = 700  # several blocks, the last one not full


def logp(rows: int = 3) -> torch.Tensor:
    return (
        torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(0)) * 3
    ).log_softmax(-1)


def label(logp_NV: torch.Tensor, labels: Labels, seed: int = 0) -> list[SoftLabels]:
    book, n = Book(), len(logp_NV)
    write_labels(
        logp_NV,
        logp_NV.argmax(-1),
        labels,
        Draws([f"{seed}:{row}" for row in range(n)]),
        range(n),
        book,
    )
    return book.of(n)


def dense(label: SoftLabels) -> np.ndarray:
    found = np.zeros(VOCABULARY)
    found[label.ids] = label.probs
    return found


def test_pick_inverts_the_cumulative_sum() -> None:
    probs_BV = logp().exp()
    probs_BV[1, 256:512] = 0  # a whole block that can't be drawn
    uniform_BD = torch.rand(
        3, 5000, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    cdf_BV = probs_BV.double().cumsum(-1)
    want_BD = torch.searchsorted(cdf_BV, uniform_BD * cdf_BV[:, -1:], right=True)
    got_BD = pick(probs_BV, uniform_BD)
    assert (got_BD != want_BD).float().mean() < 1e-3, "more than rounding"
    assert (probs_BV.gather(1, got_BD) > 0).all()
    ends = pick(probs_BV, torch.tensor([[0.0, 1 - 2**-53]] * 3, dtype=torch.float64))
    assert (probs_BV.gather(1, ends) > 0).all()


@pytest.mark.parametrize(
    "labels", [Labels(draws=50), Labels(kind="top_k_tail", k=6, tail=4)], ids=lambda x: x.kind
)
def test_unbiased(labels: Labels) -> None:
    """The mean of many labels is the distribution, within its standard error."""
    probs_NV, rounds = logp(1).exp().double().numpy(), 4000
    found = np.stack([dense(x) for x in label(logp(1).expand(rounds, -1), labels)])
    error = np.abs(found.mean(0) - probs_NV[0])
    assert (error <= 6 * found.std(0) / rounds**0.5 + 1e-4).all()
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)


def test_top_k_is_biased_and_the_tail_mends_it() -> None:
    """The same tokens kept: the mean of renormalised ones stays off, that of the others does not.
    The test above can fail.
    """
    probs_V = logp(1)[0].exp().double().numpy()
    cut = dense(label(logp(1), Labels(kind="top_k", k=6))[0])
    tail = np.stack(
        [dense(x) for x in label(logp(1).expand(4000, -1), Labels(kind="top_k_tail", k=6, tail=4))]
    ).mean(0)
    assert np.abs(cut - probs_V).sum() > 10 * np.abs(tail - probs_V).sum()


def test_a_long_tail_is_the_exact_distribution() -> None:
    probs_NV = logp().exp().double().numpy()
    for found, probs_V in zip(
        label(logp(), Labels(kind="top_k_tail", k=20, tail=200_000)), probs_NV, strict=True
    ):
        top = np.argsort(-probs_V)[:20]
        np.testing.assert_allclose(dense(found)[top], probs_V[top], rtol=1e-4)
        assert np.abs(dense(found) - probs_V).sum() < 0.02


def test_a_tail_of_nothing() -> None:
    for found, row in zip(label(logp(), Labels(kind="top_k_tail", k=10_000)), logp(), strict=True):
        np.testing.assert_allclose(dense(found), row.exp().numpy(), atol=1e-6)
    certain_NV = torch.full((1, VOCABULARY), -torch.inf).index_fill(1, torch.tensor([7]), 0.0)
    for kind in ("top_k_tail", "sampled", "top_k"):
        [found] = label(certain_NV, Labels(kind=kind))  # pyright: ignore[reportArgumentType]
        assert (
            found.ids[found.probs > 0].tolist(),
            found.probs.max(),
            found.teacher_nll.tolist(),
        ) == ([7], 1.0, [0.0])


def test_labels_go_to_their_owners() -> None:
    book, draw = Book(), Draws(["a", "b", "c"])
    for step, rows in enumerate(([0, 1], [1, 0, 2], [2])):
        token_N = torch.tensor([10 * row + step for row in rows])
        write_labels(logp(len(rows)), token_N, Labels(kind="hard"), draw, rows, book)
    assert [x.ids.tolist() for x in book.of(4)] == [[0, 1], [10, 11], [21, 22], []]
    assert [x.offsets.tolist() for x in book.of(4)] == [[0, 1, 2]] * 3 + [[0]]


def test_every_kind_of_the_recipe_is_there() -> None:
    assert KINDS.keys() == set(get_args(Labels.model_fields["kind"].annotation))


@pytest.mark.parametrize(
    ("labels", "decided", "size"),
    [
        (Labels(kind="sampled", draws=7, k=3), ["sampled", 7], 24),
        (Labels(kind="top_k", tail=3), ["top_k", 50], 250),
        (Labels(kind="top_k_tail", k=5, tail=3), ["top_k_tail", 5, 3], 40),
        (Labels(kind="hard", draws=7), ["hard"], 4),
    ],
    ids=lambda x: x.kind if isinstance(x, Labels) else "",
)
def test_what_decides_a_label(labels: Labels, decided: list[object], size: int) -> None:
    """These stand in the addresses of stored answers: they may not change."""
    assert (decided_by(labels), token_bytes(labels)) == (decided, size)


def test_what_an_engine_does_not_see_is_refused() -> None:
    server = Can("a server", sees="top")
    refuse(Labels(kind="hard"), server)
    refuse(Labels(kind="top_k"), server)
    refuse(Labels(kind="sampled"), Can("all"))
    for kind in ("sampled", "top_k_tail"):
        with pytest.raises(UserError, match=f"a server tells at most .* can't give {kind} labels"):
            refuse(Labels(kind=kind), server)  # pyright: ignore[reportArgumentType]
