"""How spread out a model's answers are: the entropy of whole outputs, in nats.

Two estimates. `from_logprobs` is the better one wherever log-probabilities are at hand: unbiased, whatever the number of samples.
`from_counts` needs only the texts; the plug-in value is biased downwards (it can't exceed log N for N samples), and Miller and Madow's
term takes away most of that bias only while most of the possible outputs have been seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from unprompt.metrics.statistics import bootstrap


def from_logprobs(logprobs: Sequence[float]) -> tuple[float, float, float]:
    """Monte Carlo estimate: the mean of -log p(y|x) over sampled completions y, with its 95 % bootstrap interval.

    Unbiased for the model's entropy if each y was drawn from the model itself at temperature 1 with no top-p, and its log-probability
    includes the end token. Of a completion cut at `max_new_tokens`, it measures the entropy of the cut output. With one completion for
    each of many inputs it is the entropy given the input, averaged over inputs.

    Args:
        logprobs: log p(y|x) of each whole completion (`metrics.edits.sequence_logprob`), nats, shape (N,).

    Returns:
        Mean, low, high, in nats a completion.

    Raises:
        ValueError: No samples, or a value that is no log-probability (above 0, infinite, nan).
    """
    values = np.asarray(logprobs, float)
    if not values.size or not np.isfinite(values).all() or (values > 1e-4).any():
        raise ValueError(f"log-probabilities are finite and at most 0, and there is at least one; here are {values}")
    # not `interval`: values that happen to be 0 or 1 are no shares
    return float(-values.mean()), *bootstrap(-values)


@dataclass(frozen=True, slots=True)
class CountEntropy:
    """Entropy of a sample of outputs, nats.

    Attributes:
        plug_in: -sum (n/N) log (n/N) over distinct outputs: the sample's own entropy, biased downwards.
        miller_madow: `plug_in` + (distinct - 1) / 2N, the first-order correction of that bias.
        distinct: Distinct outputs seen (K).
        samples: Outputs seen (N).
    """

    plug_in: float
    miller_madow: float
    distinct: int
    samples: int


def from_counts(outputs: Sequence[Hashable]) -> CountEntropy:
    """Entropy from how often each distinct output occurs among the samples of one input.

    Where nearly every sample is distinct, both numbers say only that N is too small.

    Args:
        outputs: Texts, labels or token tuples, drawn independently.

    Raises:
        ValueError: No samples.

    Source: Miller 1955, "Note on the bias of information estimates".
    """
    if not outputs:
        raise ValueError("the entropy of no samples is not defined")
    counts = np.array(list(Counter(outputs).values()), float)
    share = counts / counts.sum()
    plug_in = float(np.abs((share * np.log(share)).sum()))  # abs: not -0.0
    return CountEntropy(plug_in, plug_in + (len(counts) - 1) / (2 * len(outputs)), len(counts), len(outputs))
