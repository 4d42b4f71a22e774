"""Digests of everything outside the recipe that a run depends on. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unprompt.engines import models
from unprompt.recipe import Data, Extract, FromPrompt, Recipe, prices
from unprompt.stages import inputs
from unprompt.stages.evaluate import judge
from unprompt.stages.inputs import written
from unprompt.store.files import file_digest, module_digest


def digests(recipe: Recipe) -> list[str]:
    """Of models, data files and the user's functions, and of our tables as far as they are used."""
    digests = [models.identity(recipe.model, "model")]
    if recipe.teacher_model:
        digests.append(models.identity(recipe.teacher_model, "teacher_model"))
    if recipe.judge:
        if recipe.judge.model:
            digests.append(models.identity(recipe.judge.model, "judge.model"))
        digests.append(file_digest(judge.OURS))
    if any(isinstance(source, FromPrompt) for source in recipe.drawn.values()):
        digests.append(file_digest(written.OURS))
    if recipe.writer:
        where, model = recipe.writer
        digests.append(models.identity(model, where))
    if recipe.cost:
        digests.append(_file(prices.OURS))
        if recipe.cost.prices:
            digests.append(_file(Path(recipe.cost.prices)))
    for source in _sources(recipe):
        digests += inputs.digests(source, recipe.modules)
    named = [name for name in _functions(recipe) if ":" in name]
    return [*digests, *(module_digest(name, recipe.modules) for name in named)]


def _file(path: Path) -> str:
    return file_digest(path) if path.is_file() else "missing"


def _functions(recipe: Recipe) -> Iterator[str]:
    """Names of metrics and extractions, ours among them."""
    rules: list[Extract | None] = []
    for name, context in recipe.contexts.items():
        rules.append(context.extract)
        if evaluation := recipe.evaluation(name):
            yield from evaluation.metrics
            rules += [evaluation.extract, evaluation.lenient]
        if context.filter:
            yield context.filter.metric
            rules.append(context.filter.extract)
    yield from (rule.keep for rule in rules if rule)


def _sources(recipe: Recipe) -> Iterator[Data]:
    """All data that the recipe names."""
    sources: list[Data | None] = [recipe.drift and recipe.drift.inputs]
    for name, context in recipe.contexts.items():
        sources += [context.inputs, context.examples and context.examples.pool]
        if evaluation := recipe.evaluation(name):
            sources += [evaluation.data, evaluation.shots and evaluation.shots.pool]
    yield from filter(None, sources)
