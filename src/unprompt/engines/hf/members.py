"""The members of a prompt ensemble, as one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from unprompt.engines.hf import sequences


class Members:
    """A reader for each member of a prompt ensemble, whose probabilities are averaged: log p =
    logsumexp over members of log p_member - log (number of members), which stands for the logits.
    Of a single member the logits are its own.
    """

    def __init__(self, members: list[sequences.Sequences]) -> None:
        self._members = members
        self.joins = all(member.joins for member in members)

    def join(self, ids: Sequence[list[list[int]]], last: int = 1) -> torch.Tensor:
        """Logits (n, last, V) of new prompts, each of several renderings."""
        members = enumerate(self._members)
        return self._mean([member.join([each[m] for each in ids], last) for m, member in members])

    def keep(self, rows: Sequence[int]) -> None:
        """See `Slots.keep`."""
        for member in self._members:
            member.keep(rows)

    def step(self, token_B: torch.Tensor) -> torch.Tensor:
        """See `Slots.step`."""
        return self._mean([member.step(token_B) for member in self._members])

    def score(self, ids: Sequence[list[list[int]]], given: Sequence[Sequence[int]]) -> torch.Tensor:
        """Logits (B, T, V) that predict each given token, in one pass, those of shorter answers at
        the end of their rows.
        """
        members = enumerate(self._members)
        return self._mean(
            [sequences.score(member, [each[m] for each in ids], given) for m, member in members]
        )

    def _mean(self, logits: list[torch.Tensor]) -> torch.Tensor:
        if len(logits) == 1:
            return logits[0]
        logp = torch.stack([each.float().log_softmax(-1) for each in logits])
        return logp.logsumexp(0) - math.log(len(logits))
