"""Has a fact been edited, and only that fact? Scores of CounterFact.

Every prompt is asked with two continuations, the new object and the old (true) one. A prompt's kind says which of them should win.

    pairs = [(prompt, ids) for prompt, new, old in asked for ids in (new, old)]     # token ids of " Rome" and of " Paris"
    labels = engine.score([p for p, _ in pairs], [ids for _, ids in pairs], Labels(kind="hard"))
    logps = [sequence_logprob(label) for label in labels]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from unprompt.metrics.statistics import bootstrap, interval
from unprompt.records import SoftLabels

Kind = Literal["rewrite", "paraphrase", "neighbourhood", "attribute"]

WINNER: dict[Kind, Literal["new", "old"]] = {"rewrite": "new", "paraphrase": "new", "neighbourhood": "old", "attribute": "new"}
"""Which object should win: `rewrite` is the edited fact's own prompt and `paraphrase` says it in other words; `neighbourhood` asks about other
subjects for which the old object is true, `attribute` about other subjects for which the new object is true."""


def sequence_logprob(labels: SoftLabels) -> float:
    """Log-probability of a token sequence under a prompt, log p(tokens | prompt) in nats, from `engine.score` with labels of kind `hard`.

    A hard label's `teacher_nll` is -log p(token), so the sequence's log-probability is minus their sum. (`SoftLabels.hard` without
    `teacher_nll` holds zeros, which no check can tell from certainty.)

    Raises:
        ValueError: The labels aren't hard: `teacher_nll` is then a cross-entropy, not -log p of a given token.
    """
    if not (np.diff(labels.offsets) == 1).all() or not (labels.probs == 1).all():
        raise ValueError("a sequence's log-probability needs labels of kind hard; these spread over several tokens")
    return -math.fsum(labels.teacher_nll.tolist())


@dataclass(frozen=True, slots=True)
class Probe:
    """One prompt's answer.

    Attributes:
        case: The edit it belongs to.
        kind: Which object should win, by `WINNER`.
        new: log p(new object | prompt), nats.
        old: log p(old object | prompt), nats.
    """

    case: str
    kind: Kind
    new: float
    old: float


@dataclass(frozen=True, slots=True)
class EditScore:
    """Of one kind of prompt: (mean, low, high) over cases with 95 % intervals, each oriented so that higher is better.

    Attributes:
        score: 1[P(new) > P(old)] where the new object should win, 1[P(old) > P(new)] where the old one should; in [0, 1]. A tie is lost.
        magnitude: P(new) - P(old), or P(old) - P(new) where the old one should win; in [-1, 1].
        cases: Edits that have such prompts.
        prompts: Prompts of this kind.
    """

    score: tuple[float, float, float]
    magnitude: tuple[float, float, float]
    cases: int
    prompts: int


def edit_scores(probes: Sequence[Probe]) -> dict[Kind, EditScore]:
    """Scores of each kind of prompt that occurs.

    Prompts are averaged within their case first: the ten neighbourhood prompts of one edit are not ten independent observations, and an
    interval that took them for that would be too narrow.

    P is the probability of the whole object, the product over its tokens: of two objects the one with more tokens is at a
    disadvantage, as in the paper's definition. (Some evaluation scripts compare means over tokens instead.)

    Raises:
        ValueError: A log-probability above 0 or nan.

    Source: Meng et al. 2022, "Locating and Editing Factual Associations in GPT", section 3.3 and appendix (efficacy, paraphrase and
    neighbourhood scores and magnitudes); Snell, Klein & Zhong 2022 for their use with context distillation.
    """
    found: dict[Kind, EditScore] = {}
    for kind, winner in WINNER.items():
        scores: dict[str, list[float]] = {}
        magnitudes: dict[str, list[float]] = {}
        for probe in probes:
            if probe.kind != kind:
                continue
            if not (probe.new <= 1e-4 and probe.old <= 1e-4):
                raise ValueError(f"case '{probe.case}', {kind}: {probe.new} and {probe.old} are not log-probabilities")
            better, worse = (probe.new, probe.old) if winner == "new" else (probe.old, probe.new)
            scores.setdefault(probe.case, []).append(float(better > worse))  # of the logarithms: exp may underflow to a tie
            magnitudes.setdefault(probe.case, []).append(math.exp(better) - math.exp(worse))
        if scores:
            size = np.array([np.mean(values) for values in magnitudes.values()])
            found[kind] = EditScore(
                interval([float(np.mean(values)) for values in scores.values()]),
                (float(size.mean()), *bootstrap(size)),  # not `interval`: a difference is no share, even if it is 0 or 1
                len(scores),
                sum(map(len, scores.values())),
            )
    return found
