"""What an answer is worth: `metric(answer, example) -> float`. One small file a family; a user's
own is `package.module:function`.
"""

from __future__ import annotations

from collections.abc import Callable

from unprompt.messages import UserError
from unprompt.metrics.entities import entity_density
from unprompt.metrics.entropy import entropy
from unprompt.metrics.match import accuracy, exact_match
from unprompt.metrics.numeric import numeric_match
from unprompt.metrics.rouge import rouge_l
from unprompt.metrics.sentiment import sentiment
from unprompt.metrics.sql import exact_set_match
from unprompt.recipe.names import function
from unprompt.records import Completion, Example

Metric = Callable[[str, Example], float]
"""From the extracted answer and its example (with the gold `target`) to a number, 1 for right where
it is a share."""

METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "exact_match": exact_match,
    "numeric_match": numeric_match,
    "rouge_l": rouge_l,
    "sentiment": sentiment,
    "sql_exact_set": exact_set_match,
}

OF_COMPLETION: dict[str, Callable[[Completion], float]] = {"entropy": entropy}
"""Metrics of what a model thought while it wrote, not of what it wrote."""

OF_SOURCE: dict[str, Callable[[str, str], float]] = {"entity_density": entity_density}
"""Metrics of an answer and the text that it is about (`evaluate.source`)."""

NO_GOLD = frozenset({"sentiment", *OF_COMPLETION, *OF_SOURCE})
"""Metrics that need no gold answer."""


def find(name: str, where: str, modules: str | None = None) -> Callable[..., float]:
    """A metric by name or dotted path."""
    if name in OF_COMPLETION:
        return OF_COMPLETION[name]
    if name in OF_SOURCE:
        return OF_SOURCE[name]
    if ":" in name:
        return function(name, where, modules)
    if name not in METRICS:
        import difflib

        known = [*METRICS, *OF_COMPLETION, *OF_SOURCE]
        near = difflib.get_close_matches(name, known, 1)
        fix = (
            f"did you mean '{near[0]}'?"
            if near
            else f"use {', '.join(known)} or package.module:function"
        )
        raise UserError(f"there is no metric '{name}'", where=where, fix=fix)
    return METRICS[name]
