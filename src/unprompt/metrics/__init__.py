"""What an answer is worth. One small file a family, which defines its metrics; here they get their
names. A user's own is named `package.module:name`.
"""

from __future__ import annotations

from collections.abc import Iterable

from unprompt.messages import UserError
from unprompt.metrics import calls, entities, entropy, json_answers, match, numeric, rouge
from unprompt.metrics.metric import Metric
from unprompt.recipe.names import function, named
from unprompt.recipe.section import nearest

__all__ = ["METRICS", "Metric", "find", "find_all", "need_labels"]

METRICS = {
    "accuracy": match.ACCURACY,
    "exact_match": match.EXACT_MATCH,
    "numeric_match": numeric.NUMERIC_MATCH,
    "numeric_match_first": numeric.NUMERIC_MATCH_FIRST,
    "rouge_l": rouge.ROUGE_L,
    "tool_call": calls.TOOL_CALL,
    "tool_call_name": calls.TOOL_CALL_NAME,
    "tool_call_arguments": calls.TOOL_CALL_ARGUMENTS,
    "json_valid": json_answers.JSON_VALID,
    "json_schema": json_answers.JSON_SCHEMA,
    "json_fields": json_answers.JSON_FIELDS,
    "entropy": entropy.ENTROPY,
    "entity_density": entities.ENTITY_DENSITY,
    "entity_density_in_text": entities.ENTITY_DENSITY_IN_TEXT,
}


def find(name: str, where: str, modules: str | None = None) -> Metric:
    """A metric by its name here, or by the dotted path of a `Metric` or of a plain function of
    (extracted answer, `Example`), which is a share and needs gold answers.

    Args:
        modules: The folder that is searched last for a dotted path.

    Raises:
        UserError: There is none of that name.
    """
    if ":" in name:
        metric = named(name, where, modules)
        return metric if isinstance(metric, Metric) else Metric(function(name, where, modules))
    if name not in METRICS:
        fix = nearest(name, METRICS, f"use {', '.join(METRICS)} or package.module:function")
        raise UserError(f"there is no metric '{name}'", where=where, fix=fix)
    return METRICS[name]


def find_all(names: Iterable[str], where: str, modules: str | None = None) -> dict[str, Metric]:
    """Name -> metric, as `find` finds it."""
    return {name: find(name, where, modules) for name in names}


def need_labels(names: Iterable[str], where: str, modules: str | None = None) -> bool:
    """Whether one of these metrics reads soft labels of the graded answers."""
    return any(metric.needs_labels for metric in find_all(names, where, modules).values())
