"""The kinds of soft labels: how each is written down, what it needs to see, what decides it, and
how large it is. A new kind is a function and a line of `KINDS` here, and its name and settings in
the recipe's `Labels`.

Shapes: N tokens, V vocabulary, K kept, E label entries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from unprompt.engines import Can, Seen
from unprompt.messages import UserError
from unprompt.recipe import Labels
from unprompt.records import SoftLabels

if TYPE_CHECKING:
    import torch

_SEEN = get_args(Seen)
Draw = Callable[["torch.Tensor", int], "torch.Tensor"]
"""Draws so many ids (N, draws) from each row of probabilities (N, V), which need not sum to 1."""
Written = tuple["torch.Tensor", "torch.Tensor"]
"""Ids (N, E) and label probabilities (N, E). An id may be there several times."""


@dataclass(frozen=True)
class Kind:
    """One way to write the label of a token down.

    Attributes:
        write: From log p (N, V) and the tokens that were drawn (N,).
        needs: What has to be seen of the distribution.
        settings: Which of the settings in `Labels` decide it.
        token_bytes: On disk for each token, roughly.
        entry_bytes: And for each entry, where the settings say how many there are.
    """

    write: Callable[[torch.Tensor, torch.Tensor, Labels, Draw], Written]
    needs: Seen
    settings: tuple[str, ...] = ()
    token_bytes: int = 0
    entry_bytes: int = 0


def decided_by(labels: Labels) -> list[Any]:
    """The kind, and the settings that matter for what is written."""
    return [labels.kind, *(getattr(labels, name) for name in KINDS[labels.kind].settings)]


def token_bytes(labels: Labels) -> int:
    """Rough bytes on disk for one token."""
    kind, [_, *entries] = KINDS[labels.kind], decided_by(labels)
    return kind.token_bytes + kind.entry_bytes * sum(entries)


def refuse(labels: Labels, can: Can) -> None:
    """Labels that an engine can't give.

    Raises:
        UserError: They need more of the distribution than it sees.
    """
    if _SEEN.index(KINDS[labels.kind].needs) > _SEEN.index(can.sees):
        raise UserError(
            f"{can.name} tells at most its most probable tokens, so it can't give {labels.kind}"
            " labels",
            where="labels.kind",
            fix=(
                "write top_k (with server.tokenizer, and k as large as the server allows, often 20)"
                " or hard"
            ),
        )


def of_most_probable(logp: dict[int, float]) -> SoftLabels:
    """The label of one token from the log-probabilities of its most probable ids, where no more is
    seen: renormalised as `top_k` is.
    """
    ids = sorted(logp)
    logp_E = np.array([logp[id_] for id_ in ids])
    q_E = np.exp(logp_E - logp_E.max())
    q_E /= q_E.sum()
    nll_1 = np.array([-(q_E * logp_E).sum()], np.float32)
    offsets = np.array([0, len(ids)], np.int32)
    return SoftLabels(np.array(ids, np.int32), q_E.astype(np.float32), offsets, nll_1)


def _hard(logp_NV: torch.Tensor, token_N: torch.Tensor, labels: Labels, draw: Draw) -> Written:
    return token_N[:, None], logp_NV.new_ones(len(token_N), 1)


def _top_k(logp_NV: torch.Tensor, token_N: torch.Tensor, labels: Labels, draw: Draw) -> Written:
    top_NK, ids_NK = _most_probable(logp_NV, labels)
    return ids_NK, top_NK.softmax(-1)


def _sampled(logp_NV: torch.Tensor, token_N: torch.Tensor, labels: Labels, draw: Draw) -> Written:
    ids_NE = draw(logp_NV.exp(), labels.draws)
    return ids_NE, ids_NE.new_ones(ids_NE.shape).double() / labels.draws


def _top_k_tail(
    logp_NV: torch.Tensor, token_N: torch.Tensor, labels: Labels, draw: Draw
) -> Written:
    """The k most probable with their own probability; draws from the rest share what is left."""
    import torch

    top_NK, ids_NK = _most_probable(logp_NV, labels)
    rest_NV = logp_NV.exp().scatter(-1, ids_NK, 0.0)
    ids_NE = torch.cat([ids_NK, draw(rest_NV, labels.tail)], -1)
    each_N1 = rest_NV.sum(-1, keepdim=True) / labels.tail
    q_NE = torch.cat([top_NK.exp(), each_N1.expand(-1, labels.tail)], -1)
    return ids_NE, q_NE / q_NE.sum(-1, keepdim=True)


def _most_probable(logp_NV: torch.Tensor, labels: Labels) -> Written:
    return logp_NV.topk(min(labels.kept, logp_NV.shape[-1]), -1)


KINDS = {
    "hard": Kind(_hard, "token", token_bytes=4),
    "top_k": Kind(_top_k, "top", ("kept",), entry_bytes=5),
    "top_k_tail": Kind(_top_k_tail, "all", ("kept", "tail"), entry_bytes=5),
    "sampled": Kind(_sampled, "all", ("draws",), token_bytes=24),
}
