"""How spread out a model's answers are: the entropy of whole outputs, in nats."""

from __future__ import annotations

from unprompt.metrics.metric import Metric
from unprompt.records import Completion


def entropy(completion: Completion) -> float:
    """One answer's estimate of H(y | x), in nats: the sum over its tokens of the model's
    uncertainty there, the end token's included.

    By the chain rule H(y | x) is the mean over answers y of sum_t H(p(. | x, y_<t)); each token's
    entropy is estimated from its draws as the mean of -log p. Unbiased if the answer was written at
    temperature 1 without top-p; of an answer cut at `max_new_tokens` it measures the cut output.
    The mean over inputs is the entropy given the input.

    Raises:
        ValueError: The completion has no labels.
    """
    if completion.labels is None:
        raise ValueError("entropy is estimated from soft labels, and this answer has none")
    return max(0.0, float(completion.labels.teacher_nll.sum()))


ENTROPY = Metric(entropy, reads="completion", needs_gold=False, is_share=False, needs_labels=True)
