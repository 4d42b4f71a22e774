"""The next token of each sequence and its label, from the logits of one step; all rows of a batch
at once.

Shapes: B sequences, N tokens, V vocabulary, D draws, E label entries.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unprompt.engines.labels import KINDS
from unprompt.recipe import Labels, Sampling
from unprompt.records import SoftLabels

_BLOCK = 256
_BELOW_ONE = 1 - 1e-12


class Draws:
    """A stream of uniform numbers for each prompt: the same draws whatever else is in the batch,
    and on every device.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        seeds = [int.from_bytes(hashlib.sha256(key.encode()).digest()[:16]) for key in keys]
        self._streams = [np.random.Generator(np.random.Philox(seed)) for seed in seeds]

    def __call__(self, rows: Sequence[int], count: int) -> torch.Tensor:
        """Uniform numbers in [0, 1), float64, shape (len(rows), count). A row that is there several
        times goes on in its stream.
        """
        return torch.from_numpy(np.stack([self._streams[row].random(count) for row in rows]))

    def of(self, rows: Sequence[int]) -> Draws:
        """The streams of some rows, as rows 0, 1, ..."""
        some = Draws(())
        some._streams = [self._streams[row] for row in rows]
        return some

    def state(self, row: int) -> Any:
        """Where a row's stream is."""
        return self._streams[row].bit_generator.state

    def back(self, row: int, state: Any) -> None:
        """Put a row's stream back to where it was."""
        self._streams[row].bit_generator.state = state


def pick(probs_BV: torch.Tensor, uniform_BD: torch.Tensor) -> torch.Tensor:
    """Draws from each row's distribution, which need not sum to 1, by inverting its cumulative sum
    (float64): ids of shape (B, D).

    The sum is taken over blocks of the vocabulary, and within a block only where a draw fell into
    it.
    """
    b, v = probs_BV.shape
    blocks_BKW = torch.nn.functional.pad(probs_BV, (0, -v % _BLOCK)).view(b, -1, _BLOCK)
    cdf_BK = blocks_BKW.sum(-1).double().cumsum(-1)
    target_BD = uniform_BD.to(cdf_BK.device).clamp(max=_BELOW_ONE) * cdf_BK[:, -1:]
    block_BD = torch.searchsorted(cdf_BK, target_BD, right=True).clamp(max=cdf_BK.shape[1] - 1)
    end_BD = cdf_BK.gather(1, block_BD)
    start_BD = torch.where(block_BD > 0, cdf_BK.gather(1, (block_BD - 1).clamp(min=0)), 0.0)
    share_BD = ((target_BD - start_BD) / (end_BD - start_BD)).nan_to_num(0.0).clamp(0, _BELOW_ONE)
    at_BD = block_BD + torch.arange(b, device=block_BD.device)[:, None] * cdf_BK.shape[1]
    hit_U, which_BD = torch.unique(at_BD, return_inverse=True)
    # of all blocks that were hit, one behind the other
    cdf_T = blocks_BKW.reshape(-1, _BLOCK)[hit_U].double().view(-1).cumsum(0)
    ends_U = cdf_T[_BLOCK - 1 :: _BLOCK]
    starts_U = torch.cat([ends_U.new_zeros(1), ends_U[:-1]])
    sought_BD = torch.lerp(starts_U[which_BD], ends_U[which_BD], share_BD)
    inside_BD = torch.searchsorted(cdf_T, sought_BD, right=True) - which_BD * _BLOCK
    return (block_BD * _BLOCK + inside_BD.clamp(0, _BLOCK - 1)).clamp(max=v - 1)


def next_tokens(
    logits_BV: torch.Tensor,
    sampling: Sampling,
    labels: Labels | None,
    draw: Draws,
    rows: Sequence[int],
    book: Book,
) -> torch.Tensor:
    """Choose each row's next token (B,) and write its label down in `book`."""
    logp_BV = logits_BV.float().log_softmax(-1)
    if sampling.temperature == 0:
        next_B = logp_BV.argmax(-1)
    else:
        even = sampling.temperature == 1
        probs_BV = logp_BV.exp() if even else (logp_BV / sampling.temperature).softmax(-1)
        if sampling.top_p < 1:
            top_BV, order_BV = probs_BV.sort(-1, descending=True)
            outside = top_BV.cumsum(-1) - top_BV >= sampling.top_p
            probs_BV = probs_BV.scatter(-1, order_BV, top_BV.masked_fill(outside, 0))
        next_B = pick(probs_BV, draw(rows, 1))[:, 0]
    if labels is not None:
        write_labels(logp_BV, next_B, labels, draw, rows, book)
    return next_B


def write_labels(
    logp_NV: torch.Tensor,
    token_N: torch.Tensor,
    labels: Labels,
    draw: Draws,
    rows: Sequence[int],
    book: Book,
) -> None:
    """Write the label of N tokens down, of which the n-th belongs to the prompt `rows[n]`."""

    def drawn(probs_NV: torch.Tensor, count: int) -> torch.Tensor:
        return pick(probs_NV, draw(rows, count))

    ids_NE, q_NE = KINDS[labels.kind].write(logp_NV, token_N, labels, drawn)
    logp_NE = logp_NV.gather(-1, ids_NE)
    nll_N = -(q_NE * logp_NE).nan_to_num(0.0).sum(-1)  # 0 * log 0 = 0
    book.add(rows, ids_NE.cpu().numpy(), q_NE.double().cpu().numpy(), nll_N.float().cpu().numpy())


class Book:
    """Labels of many prompts, written step by step."""

    def __init__(self) -> None:
        self._steps: list[tuple[NDArray[Any], ...]] = []
        """Of each step: owners, entries and cross-entropy of its tokens, ids and q of its entries.
        """

    def add(
        self,
        owners: Sequence[int],
        ids_NE: NDArray[np.int64],
        q_NE: NDArray[np.float64],
        nll_N: NDArray[np.float32],
    ) -> None:
        """Labels of N tokens of the prompts `owners`. An id that is there several times has the sum
        of its probabilities.
        """
        order_NE = ids_NE.argsort(1, kind="stable")
        ids_NE = np.take_along_axis(ids_NE, order_NE, 1)
        q_NE = np.take_along_axis(q_NE, order_NE, 1)
        first_NE = np.ones(ids_NE.shape, bool)
        first_NE[:, 1:] = ids_NE[:, 1:] != ids_NE[:, :-1]
        probs = np.add.reduceat(q_NE.ravel(), np.flatnonzero(first_NE)).astype(np.float32)
        there = probs > 0
        sizes = np.bincount(np.nonzero(first_NE)[0][there], minlength=len(ids_NE))
        ids = ids_NE[first_NE].astype(np.int32)[there]
        self._steps.append((np.asarray(owners), sizes, nll_N, ids, probs[there]))

    def of(self, count: int) -> list[SoftLabels]:
        """Each prompt's labels, in the order in which they were written."""
        if not self._steps:
            return [SoftLabels.concat([])] * count
        owners, sizes, nll, ids, probs = map(np.concatenate, zip(*self._steps, strict=True))
        order = owners.argsort(kind="stable")
        starts = (np.cumsum(sizes) - sizes)[order]
        sizes = sizes[order]
        ends = np.concatenate([[0], np.cumsum(sizes)])
        entry = np.repeat(starts - ends[:-1], sizes) + np.arange(ends[-1])
        ids, probs, nll = ids[entry], probs[entry], nll[order]
        bounds = np.searchsorted(owners[order], np.arange(count + 1))
        return [
            SoftLabels(
                ids[ends[a] : ends[b]],
                probs[ends[a] : ends[b]],
                (ends[a : b + 1] - ends[a]).astype(np.int32),
                nll[a:b],
            )
            for a, b in itertools.pairwise(bounds)
        ]
