"""How much of the gold text the answer repeats, in order: ROUGE-L."""

from __future__ import annotations

import functools
from typing import Any

from unprompt.metrics.match import accepted
from unprompt.metrics.metric import Metric
from unprompt.records import Example


def rouge_l(answer: str, example: Example) -> float:
    """F1 of the longest common subsequence of words, Porter-stemmed; a target that is a list holds
    accepted texts, and the best counts.

    The rouge-score package reads only a-z and 0-9, after lower-casing: letters of other scripts are
    blanks to it.

    Returns:
        A number in [0, 1]; 0 for an answer without words.

    Raises:
        ValueError: No target holds a word that the package can read, so that every answer would be
            worth 0.

    Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", section 3; as in
    ROUGE-1.5.5 with `-m`, beta = 1.
    """
    targets = [str(target) for target in accepted(example)]
    if not any(_scorer()._tokenizer.tokenize(target) for target in targets):
        raise ValueError(
            "no target has a word of the letters a-z or digits, which is all that ROUGE reads:"
            f" {targets}"
        )
    return float(_scorer().score_multi(targets, answer)["rougeL"].fmeasure)


ROUGE_L = Metric(rouge_l, refuses_gold=True)


@functools.cache
def _scorer() -> Any:
    # brings nltk: a second that only those who ask for it wait
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)
