"""Which of two continuations does a model find the more probable? Scores of fact editing, and of
any two-way choice.

What a probe of CounterFact tests lies in its data: for `rewrite`, `paraphrase` and `attribute`
prompts the new object is the right continuation, for `neighbourhood` prompts (other subjects, for
which the old object is true) the old one is.
"""

from __future__ import annotations

import math

import numpy as np

from unprompt.metrics.statistics import SHARE, Bounds
from unprompt.records import SoftLabels


def sequence_logprob(labels: SoftLabels) -> float:
    """Log-probability of a token sequence under a prompt, log p(tokens | prompt) in nats, from
    `engine.score` with labels of kind `hard`.

    A hard label's `teacher_nll` is -log p(token), so the sequence's log-probability is minus their
    sum. (`SoftLabels.hard` without `teacher_nll` holds zeros, which no check can tell from
    certainty.)

    Raises:
        ValueError: The labels aren't hard: `teacher_nll` is then a cross-entropy, not -log p of a
            given token.
    """
    if not (np.diff(labels.offsets) == 1).all() or not (labels.probs == 1).all():
        raise ValueError(
            "a sequence's log-probability needs labels of kind hard; these spread over several"
            " tokens"
        )
    return -math.fsum(labels.teacher_nll.tolist())


BOUNDS: dict[str, Bounds] = {"score": SHARE, "magnitude": (-1.0, 1.0)}
"""Between which the figures of `choice` lie."""


def choice(right: SoftLabels, wrong: SoftLabels) -> dict[str, float]:
    """Score and magnitude of one prompt.

    P is the probability of the whole continuation, the product over its tokens: of two, the one
    with more tokens is at a disadvantage, as in the papers' definition. (Some evaluation scripts
    compare means over tokens instead.)

    Args:
        right: Hard labels of the continuation that should win.
        wrong: Of the other.

    Returns:
        `score`: 1 if P(right) > P(wrong), else 0; a tie is lost. `magnitude`: P(right) - P(wrong),
        in [-1, 1].

    Source: Meng et al. 2022, "Locating and Editing Factual Associations in GPT" (efficacy,
    paraphrase and neighbourhood scores and magnitudes); Snell, Klein & Zhong 2022 for their use
    with context distillation.
    """
    good, bad = sequence_logprob(right), sequence_logprob(wrong)
    score = float(good > bad)  # of the logarithms: exp may underflow to a tie
    return {"score": score, "magnitude": math.exp(good) - math.exp(bad)}
