"""What runs inside vLLM's workers: the next token of each sequence and its label, from the logits
at hand, by the functions that `hf/` uses.

vLLM's own log-probabilities would have to bring the whole vocabulary of every token back for labels
that are drawn. Here they are drawn where the logits are, so they cost no more than in `hf/`, and
the same seed draws the same. A logits processor is vLLM's documented place for it: it leaves one
token possible.

Shapes: B running sequences, V vocabulary.
"""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Sequence
from typing import Any

import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor  # pyright: ignore[reportMissingImports]
from vllm.v1.sample.logits_processor.builtin import process_dict_updates  # pyright: ignore[reportMissingImports]

from unprompt.engines import drawing
from unprompt.recipe import Labels, Sampling
from unprompt.records import SoftLabels


class Job:
    """Answers that are being written, or scored.

    Args:
        keys: Fixes the draws of each answer.
        given: Token ids of each answer that is scored; None: they are written.
    """

    def __init__(
        self,
        sampling: Sampling,
        labels: Labels | None,
        keys: Sequence[str],
        given: Sequence[Sequence[int]] | None,
    ) -> None:
        self._sampling, self._labels, self._given = sampling, labels, given
        self._draw = drawing.Draws(keys)
        self._last: list[tuple[int, Any]] = [(-1, None)] * len(keys)
        """Each answer's last place, and the state of its draws ahead of it."""
        self._written: list[dict[int, SoftLabels]] = [{} for _ in keys]
        """Each answer's places -> label."""
        self._sees = False
        """Whether labels are written here."""

    def step(
        self, logits_BV: torch.Tensor, rows: Sequence[int], places: Sequence[int]
    ) -> torch.Tensor:
        """The next token (B,) of the answers `rows`, at these places; their labels are written
        down.

        vLLM throws away what comes of half a prompt, and asks again for the same place: then the
        same is drawn.
        """
        for row, place in zip(rows, places, strict=True):
            last, state = self._last[row]
            if last == place:
                self._draw.back(row, state)
            else:
                self._last[row] = place, self._draw.state(row)
        draw, order, book = self._draw.of(rows), range(len(rows)), drawing.Book()
        if self._given is None:
            next_B = drawing.next_tokens(logits_BV, self._sampling, self._labels, draw, order, book)
        else:
            given = [self._given[row][place] for row, place in zip(rows, places, strict=True)]
            next_B = torch.tensor(given, device=logits_BV.device)
            assert self._labels
            logp_BV = logits_BV.float().log_softmax(-1)
            drawing.write_labels(logp_BV, next_B, self._labels, draw, order, book)
        if self._labels:
            self._sees = True
            for row, place, label in zip(rows, places, book.of(len(rows)), strict=True):
                self._written[row][place] = label
        return next_B

    def labels(self, lengths: dict[int, int]) -> dict[int, SoftLabels] | None:
        """The labels of the first so many tokens of some answers, which are forgotten; None if
        there are none here.
        """
        if not self._sees:
            return None
        found = {
            n: SoftLabels.concat([self._written[n][place] for place in range(size)])
            for n, size in lengths.items()
        }
        for n in lengths:
            self._written[n].clear()
        return found


_job: Job | None = None
OWNER = "UNPROMPT_VLLM_OWNER"
"""Environment variable with the id of the process that started vLLM."""


def _leave_with(owner: int) -> None:
    """End this worker, and so vLLM, when its owner is gone: vLLM itself would go on, and keep the
    GPU, where a run is killed.
    """
    while True:
        time.sleep(1)
        try:
            os.kill(owner, 0)
        except ProcessLookupError:
            os._exit(1)


class Extension:
    """What the workers can be asked."""

    def begin(self, job: bytes) -> None:
        """From here on these answers are written."""
        global _job
        _job = Job(*pickle.loads(job))

    def labels(self, lengths: dict[int, int]) -> bytes:
        """The labels of some answers, that are whole, by their numbers of tokens. None from a
        worker that sees no logits.
        """
        return pickle.dumps(_job and _job.labels(lengths))


class Writer(LogitsProcessor):
    """Leaves the token possible that was chosen, and no other."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        threading.Thread(target=_leave_with, args=(int(os.environ[OWNER]),), daemon=True).start()
        self._rows: dict[int, tuple[int, list[int]]] = {}
        """Row of the batch -> the answer's number, and its tokens so far (vLLM goes on with this
        list)."""

    def is_argmax_invariant(self) -> bool:
        """No: it decides."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Who came, left and moved."""
        process_dict_updates(
            self._rows,
            batch_update,
            lambda params, _, written: ((params.extra_args or {})["row"], written),
        )

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """See `LogitsProcessor.apply`."""
        assert _job
        running = [self._rows[row] for row in range(len(logits))]
        next_B = _job.step(
            logits, [row for row, _ in running], [len(written) for _, written in running]
        )
        return torch.full_like(logits, -torch.inf).scatter_(1, next_B[:, None], 0.0)
