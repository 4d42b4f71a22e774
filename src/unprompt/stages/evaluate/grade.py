"""Grade the systems on held-out examples: teacher, before, and each round's student."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from unprompt import metrics
from unprompt.messages import UserError
from unprompt.metrics import entities
from unprompt.metrics.choices import choice
from unprompt.recipe import Evaluate, Extract, Recipe, Sampling, Template
from unprompt.recipe.names import function
from unprompt.records import Completion, Example, Grade
from unprompt.stages.lessons import extract as extract_
from unprompt.stages.templates.render import render, value


def sampling_of(recipe: Recipe, evaluation: Evaluate) -> Sampling:
    """How graded answers are written: as the teacher writes, but at the evaluation's
    temperature.
    """
    longest = evaluation.max_new_tokens or recipe.sampling.max_new_tokens
    return recipe.sampling.model_copy(
        update={
            "temperature": evaluation.temperature,
            "top_p": 1.0,
            "max_new_tokens": longest,
            "per_input": 1,
        }
    )


def check(evaluation: Evaluate, held_out: Sequence[Example], where: str, modules: str) -> None:
    """Before any money is spent: the metrics exist, and the gold answers they need are there and
    such as they can use.

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
    for name in evaluation.metrics:
        metrics.find(name, f"{where}.metrics", modules)
    for key, rule in (("extract", evaluation.extract), ("lenient", evaluation.lenient)):
        if rule and ":" in rule.keep:
            function(rule.keep, f"{where}.{key}", modules)
    if metrics.OF_COMPLETION.keys() & set(evaluation.metrics) and evaluation.temperature != 1:
        raise UserError(
            "the entropy of a model's answers is measured on answers at temperature 1",
            where=f"{where}.temperature",
            fix="set it to 1, or leave out entropy",
        )
    if metrics.OF_SOURCE.keys() & set(evaluation.metrics):
        _check_source(evaluation, held_out, where)
    lacking = next((e for e in held_out if e.target is None), None)
    if lacking is not None and not metrics.NO_GOLD.issuperset(evaluation.metrics):
        raise UserError(
            f"example '{lacking.id}' has no gold answer in field '{evaluation.data.target}'",
            where=f"{where}.data.target",
            fix=(
                f"name the field that holds it (the data has: {', '.join(lacking.fields)}), or set"
                f" {where}.metrics to []"
            ),
        )
    for name in evaluation.metrics:
        refuse_gold(name, held_out, f"{where}.data.target")


def refuse_gold(name: str, examples: Sequence[Example], where: str) -> None:
    """Before any money is spent: one of our metrics can use the gold answers.

    Raises:
        UserError: One that it can't.
    """
    for example in examples if name in metrics.METRICS else ():
        try:
            metrics.METRICS[name]("", example)  # ours raise for a target only, never for an answer
        except ValueError as error:
            raise UserError(
                f"metric '{name}' can't use the gold answer of example '{example.id}': {error}",
                where=where,
                fix="mend that gold answer, or choose another metric",
            ) from error


def _check_source(evaluation: Evaluate, held_out: Sequence[Example], where: str) -> None:
    entities.check(f"{where}.metrics")
    if evaluation.source is None:
        raise UserError(
            "entity_density compares an answer with the text that it is about, and no field is"
            " named that holds it",
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


def continuations(
    evaluation: Evaluate, held_out: Sequence[Example], where: str
) -> dict[str, list[str]]:
    """`right` and `wrong` -> that continuation of each example."""
    assert evaluation.choices
    found = {}
    for side, source in (("right", evaluation.choices.right), ("wrong", evaluation.choices.wrong)):
        texts = [
            render(Template(text=source), "", example, None, f"{where}.choices.{side}")
            for example in held_out
        ]
        found[side] = [str(prompt.content) for prompt in texts]
    return found


def grade(
    system: str,
    name: str,
    rule: Extract,
    held_out: Sequence[Example],
    completions: Sequence[Completion],
    evaluation: Evaluate,
    modules: str,
) -> list[Grade]:
    """Extract each answer (by `evaluation.extract`, or else by `rule`) and measure it; with
    `evaluation.lenient` once more by that. An answer that can't be extracted is worth 0, and says
    why.
    """
    rules = {
        metric: _rule(metric, evaluation, modules)
        for metric in evaluation.metrics
        if metric not in metrics.OF_COMPLETION
    }
    grades = []
    for example, completion in zip(held_out, completions, strict=True):
        span = extract_.extract(
            evaluation.extract or rule,
            completion.text,
            completion.stop,
            f"contexts.{name}.extract",
            modules,
        )
        answer, lenient = _answer(span, completion), None
        if evaluation.lenient:
            lenient = _answer(
                extract_.extract(
                    evaluation.lenient,
                    completion.text,
                    completion.stop,
                    "evaluate.lenient",
                    modules,
                ),
                completion,
            )
        values = {}
        for metric in evaluation.metrics:
            try:
                if metric in rules:
                    values[metric] = (
                        float(rules[metric](answer, example)) if answer is not None else 0.0
                    )
                    if evaluation.lenient:
                        values[f"{metric}_lenient"] = (
                            float(rules[metric](lenient, example)) if lenient is not None else 0.0
                        )
                else:
                    values[metric] = metrics.OF_COMPLETION[metric](completion)
            except Exception as error:
                raise UserError(
                    f"metric '{metric}' failed on example '{example.id}': {type(error).__name__}:"
                    f" {error}",
                    where="evaluate.metrics",
                    fix="mend it",
                ) from error
        failure = span if isinstance(span, str) else None
        grades.append(
            replace(
                _grade(system, name, example, completion, answer, failure, values, evaluation),
                lenient_answer=lenient,
            )
        )
    return grades


def _rule(name: str, evaluation: Evaluate, modules: str) -> Callable[[str, Example], float]:
    if name in metrics.OF_SOURCE:
        return lambda answer, example: metrics.OF_SOURCE[name](
            answer, _source(evaluation, example, "evaluate")
        )
    return metrics.find(name, "evaluate.metrics", modules)


def _answer(span: extract_.Span | str, completion: Completion) -> str | None:
    return (
        completion.text[span.start : span.end].strip() if isinstance(span, extract_.Span) else None
    )


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
    group = str(example.fields[evaluation.group]) if evaluation.group else None
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
        group,
    )
