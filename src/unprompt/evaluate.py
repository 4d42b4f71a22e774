"""Grade the systems on held-out examples: teacher, before, after, and the student under the teacher's prompt."""

from __future__ import annotations

from collections.abc import Sequence

from unprompt import extract as extract_, metrics
from unprompt.errors import UserError
from unprompt.recipe import Context, Evaluate, Recipe, Sampling
from unprompt.records import Completion, Example, Grade

SYSTEMS: dict[str, tuple[str, str]] = {
    "teacher": ("teacher", "teacher"),
    "before": ("base", "student"),
    "after": ("student", "student"),
    "after_teacher_prompt": ("student", "teacher"),
}
"""Name of a system -> (whose weights, whose prompt)."""


def sampling_of(recipe: Recipe) -> Sampling:
    """How graded answers are written: as the teacher writes, but at the evaluation's temperature."""
    assert recipe.evaluate is not None
    longest = recipe.evaluate.max_new_tokens or recipe.sampling.max_new_tokens
    return recipe.sampling.model_copy(update={"temperature": recipe.evaluate.temperature, "top_p": 1.0, "max_new_tokens": longest})


def check(evaluate: Evaluate, held_out: Sequence[Example], modules: str) -> None:
    """Before any money is spent: the metrics exist, and the gold answers they need are there and such as they can use.

    Raises:
        UserError: An unknown metric, an example without a target, or a target that one of our metrics can't use.
    """
    for name in evaluate.metrics:
        metrics.find(name, "evaluate.metrics", modules)
    lacking = next((e for e in held_out if e.target is None), None)
    if lacking is not None and not metrics.NO_GOLD.issuperset(evaluate.metrics):
        raise UserError(
            f"example '{lacking.id}' has no gold answer in field '{evaluate.data.target}'",
            where="evaluate.data.target",
            fix=f"name the field that holds it (the data has: {', '.join(lacking.fields)}), or set evaluate.metrics to []",
        )
    for name in (name for name in evaluate.metrics if name in metrics.METRICS):
        for example in held_out:
            try:
                metrics.METRICS[name]("", example)  # ours raise for a target only, never for an answer
            except ValueError as error:
                raise UserError(
                    f"metric '{name}' can't use the gold answer of example '{example.id}': {error}",
                    where="evaluate.data.target",
                    fix="mend that gold answer, or choose another metric",
                ) from error


def grade(
    system: str,
    name: str,
    context: Context,
    held_out: Sequence[Example],
    completions: Sequence[Completion],
    evaluate: Evaluate,
    modules: str,
) -> list[Grade]:
    """Extract each answer and measure it. An answer that can't be extracted is worth 0, and says why."""
    rules = {metric: metrics.find(metric, "evaluate.metrics", modules) for metric in evaluate.metrics}
    grades = []
    for example, completion in zip(held_out, completions, strict=True):
        span = extract_.extract(context.extract, completion.text, completion.stop, f"contexts.{name}.extract", modules)
        answer = completion.text[span.start : span.end].strip() if isinstance(span, extract_.Span) else None
        values = {}
        for metric, rule in rules.items():
            try:
                values[metric] = float(rule(answer, example)) if answer is not None else 0.0
            except Exception as error:
                raise UserError(
                    f"metric '{metric}' failed on example '{example.id}': {type(error).__name__}: {error}",
                    where="evaluate.metrics",
                    fix="mend it",
                ) from error
        failure = span if isinstance(span, str) else None
        grades.append(
            Grade(
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
            )
        )
    return grades
