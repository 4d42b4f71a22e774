"""Grade the systems on held-out examples: teacher, before, and each round's student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from unprompt import metrics
from unprompt.messages import UserError
from unprompt.metrics import Metric
from unprompt.metrics.choices import choice
from unprompt.metrics.json_answers import refuse_schema
from unprompt.recipe import Data, Evaluate, Extract
from unprompt.recipe.names import function
from unprompt.records import Completion, Example, Grade
from unprompt.stages.lessons import extract as extract_
from unprompt.stages.templates.render import value

_ROUNDING = 1e-9


def check(
    evaluation: Evaluate,
    held_out: Sequence[Example],
    where: str,
    modules: str,
    source: tuple[Data, str] | None = None,
) -> None:
    """Before any money is spent: the metrics exist, and the gold answers they need are there and
    such as they can use.

    Args:
        source: What the examples are a share of, and its key in the recipe; the evaluation's own
            data unless given.

    Raises:
        UserError: An unknown metric, an example without a target, a target that one of our metrics
            can't use, or a setting that does not go with a metric.
    """
    if evaluation.group:
        lacking = next((e for e in held_out if evaluation.group not in e.fields), None)
        if lacking is not None:
            fix = f"the data has: {', '.join(lacking.fields)}"
            raise UserError(
                f"example '{lacking.id}' has no field '{evaluation.group}'",
                where=f"{where}.group",
                fix=fix,
            )
    if evaluation.choices:
        return
    wanted = metrics.find_all(evaluation.metrics, f"{where}.metrics", modules)
    for key, rule in (("extract", evaluation.extract), ("lenient", evaluation.lenient)):
        if rule and ":" in rule.keep:
            function(rule.keep, f"{where}.{key}", modules)
    for name, metric in wanted.items():
        _check_metric(name, metric, evaluation, held_out, where)
    data, key = source or (evaluation.data, f"{where}.data")
    field, at = data.target if data else "target", f"{key}.target"
    lacking = next((e for e in held_out if e.target is None), None)
    if lacking is not None and any(metric.needs_gold for metric in wanted.values()):
        raise UserError(
            f"example '{lacking.id}' has no gold answer in field '{field}'",
            where=at,
            fix=(
                f"name the field that holds it (the data has: {', '.join(lacking.fields)}), or set"
                f" {where}.metrics to []"
            ),
        )
    for name in evaluation.metrics:
        refuse_gold(name, held_out, at, modules)


def refuse_gold(
    name: str, examples: Sequence[Example], where: str, modules: str | None = None
) -> None:
    """Before any money is spent: a metric can use the gold answers, if it says so at all.

    Raises:
        UserError: One that it can't.
    """
    metric = metrics.find(name, where, modules)
    for example in examples if metric.refuses_gold else ():
        try:
            metric.function("", example)  # raises for a target only, never for an answer
        except ValueError as error:
            raise UserError(
                f"metric '{name}' can't use the gold answer of example '{example.id}': {error}",
                where=where,
                fix="mend that gold answer, or choose another metric",
            ) from error


def _check_metric(
    name: str, metric: Metric, evaluation: Evaluate, held_out: Sequence[Example], where: str
) -> None:
    for key in ("temperature", "top_p"):
        if metric.needs_labels and getattr(evaluation, key) != 1:
            raise UserError(
                f"the {name} of a model's answers is measured on answers at {key} 1",
                where=f"{where}.{key}",
                fix=f"set it to 1, or leave out {name}",
            )
    if metric.check:
        metric.check(f"{where}.metrics")
    if metric.reads == "source":
        _check_source(name, evaluation, held_out, where)
    if metric.reads == "schema":
        if evaluation.schema_ is None:
            what = f"{name} holds answers to a schema, and there is none"
            raise UserError(what, where=f"{where}.schema", fix="write it, or {file: schema.json}")
        refuse_schema(evaluation.schema_, f"{where}.schema")


def _check_source(
    metric: str, evaluation: Evaluate, held_out: Sequence[Example], where: str
) -> None:
    if evaluation.source is None:
        raise UserError(
            f"{metric} compares an answer with the text that it is about, and no field is named"
            " that holds it",
            where=f"{where}.source",
            fix=f"name it (the data has: {', '.join(held_out[0].fields)})",
        )
    for example in held_out:
        _source(evaluation, example, where)


def _source(evaluation: Evaluate, example: Example, where: str) -> str:
    assert evaluation.source
    found = value(evaluation.source, example, f"{where}.source")
    if not isinstance(found, str) or not found.strip():
        raise UserError(
            f"'{evaluation.source}' of example '{example.id}' is no text",
            where=f"{where}.source",
            fix="name the field that holds the text",
        )
    return found


def grade(
    system: str,
    name: str,
    rule: Extract,
    held_out: Sequence[Example],
    completions: Sequence[Completion],
    evaluation: Evaluate,
    modules: str,
    *,
    shots: int | None = None,
    draw: int | None = None,
) -> list[Grade]:
    """Extract each answer (by `evaluation.extract`, or else by `rule`) and measure it; with
    `evaluation.lenient` once more by that. An answer that can't be extracted is worth 0, and says
    why.
    """
    wanted = metrics.find_all(evaluation.metrics, "evaluate.metrics", modules)
    grades = []
    for example, completion in zip(held_out, completions, strict=True):
        span = _span(evaluation.extract or rule, completion, f"contexts.{name}.extract", modules)
        answer, lenient = _answer(span, completion), None
        if evaluation.lenient:
            more = _span(evaluation.lenient, completion, "evaluate.lenient", modules)
            lenient = _answer(more, completion)
        values = {}
        for metric_name, metric in wanted.items():
            try:
                if metric.reads == "completion":
                    values[metric_name] = _within(metric, float(metric.function(completion)))
                    continue
                values[metric_name] = _value(metric, answer, example, evaluation)
                if evaluation.lenient:
                    values[f"{metric_name}_lenient"] = _value(metric, lenient, example, evaluation)
            except Exception as error:
                raise UserError(
                    f"metric '{metric_name}' failed on example '{example.id}':"
                    f" {type(error).__name__}: {error}",
                    where="evaluate.metrics",
                    fix="mend it",
                ) from error
        failure = span if isinstance(span, str) else None
        made = _grade(system, name, example, completion, answer, failure, values, evaluation)
        cut = _is_cut(span, completion)
        grades.append(replace(made, lenient_answer=lenient, shots=shots, draw=draw, cut=cut))
    return grades


def _value(metric: Metric, answer: str | None, example: Example, evaluation: Evaluate) -> float:
    """What an extracted answer is worth; 0 if nothing could be extracted."""
    if answer is None:
        return 0.0
    beside: Any = example
    if metric.reads == "source":
        beside = _source(evaluation, example, "evaluate")
    elif metric.reads == "schema":
        beside = evaluation.schema_
    return _within(metric, float(metric.function(answer, beside)))


def _within(metric: Metric, number: float) -> float:
    """The number, of which intervals take it that it lies between the metric's bounds."""
    if metric.is_share and not -_ROUNDING <= number <= 1 + _ROUNDING:
        raise ValueError(
            f"it gave {number:g}, but a share lies from 0 to 1; a Metric with is_share=False may"
            " give any number"
        )
    return number


def _span(rule: Extract, completion: Completion, where: str, modules: str) -> extract_.Span | str:
    text, opened = completion.text, completion.opened
    return extract_.extract(rule, text, completion.stop, where, modules, opened=opened)


def _answer(span: extract_.Span | str, completion: Completion) -> str | None:
    return (
        completion.text[span.start : span.end].strip() if isinstance(span, extract_.Span) else None
    )


def _is_cut(span: extract_.Span | str, completion: Completion) -> bool:
    """Whether `max_new_tokens` cut what is graded, or kept it from being extracted."""
    whole = isinstance(span, extract_.Span) and span.end < len(completion.text.rstrip())
    return completion.stop == "length" and not whole


def grade_choices(
    system: str,
    name: str,
    held_out: Sequence[Example],
    right: Sequence[Completion],
    wrong: Sequence[Completion],
    evaluation: Evaluate,
) -> list[Grade]:
    """Which of the two scored continuations is the more probable, and by how much."""
    grades = []
    for example, good, bad in zip(held_out, right, wrong, strict=True):
        assert good.labels is not None
        assert bad.labels is not None
        values = choice(good.labels, bad.labels)
        won = good if values["score"] else bad
        grades.append(
            _grade(system, name, example, won, won.text.strip(), None, values, evaluation)
        )
    return grades


def _grade(
    system: str,
    name: str,
    example: Example,
    completion: Completion,
    answer: str | None,
    failure: str | None,
    values: dict[str, float],
    evaluation: Evaluate,
) -> Grade:
    return Grade(
        example.id,
        name,
        system,
        completion.text,
        answer,
        example.target,
        completion.prompt_tokens,
        len(completion.token_ids),
        failure,
        values,
        group_of(example, evaluation),
    )


def group_of(example: Example, evaluation: Evaluate) -> str | None:
    """What an example belongs to; None: it is alone."""
    return str(example.fields[evaluation.group]) if evaluation.group else None
