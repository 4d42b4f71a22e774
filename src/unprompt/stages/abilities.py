"""What an engine can't do, said ahead of loading and asking: one function over `engines.Can`."""

from __future__ import annotations

import importlib.util

from unprompt import metrics
from unprompt.engines import Can, kinds, labels, models, server
from unprompt.engines.server import http
from unprompt.messages import UserError
from unprompt.recipe import Model, Recipe, Server
from unprompt.records import TEACHER
from unprompt.stages import estimate


def refuse(recipe: Recipe, model: Model, where: str) -> None:
    """What a recipe wants of the engine of one of its models, and the engine can't do.

    Args:
        where: The model's key in the recipe: `model`, `teacher_model`, `judge.model` or a writer's.

    Raises:
        UserError: There is such a thing, or the engine is not installed.
    """
    if model.server:
        _refuse_server(recipe, model.server, f"{where}.server")
    can = kinds.of(model).can
    if can.package and importlib.util.find_spec(can.package) is None:
        raise UserError(
            f"{can.name} is not installed",
            where=f"{where}.engine",
            fix=f"{can.install}, {can.instead}",
        )
    if not can.encoder_decoder and models.load_config(model, where).is_encoder_decoder:
        raise UserError(
            f"{can.name} runs decoder-only models", where=f"{where}.engine", fix="write engine: hf"
        )
    if where != "model" and not can.takes_device and model.device != "auto":
        raise UserError(
            f"{can.name} chooses its device itself",
            where=f"{where}.device",
            fix="leave it out, and set CUDA_VISIBLE_DEVICES",
        )
    if where not in ("model", "teacher_model"):
        return
    if model.server and recipe.asks_teacher:
        server.refuse_labels(model.server, recipe.labels, where)
    elif recipe.asks_teacher:
        labels.refuse(recipe.labels, can)
    for name, context in recipe.contexts.items():
        if context.teacher and _asks(recipe, name):
            _refuse_context(recipe, name, can)


def _refuse_server(recipe: Recipe, asked: Server, where: str) -> None:
    """The environment lacks the key, or the budget has no prices."""
    http.key(asked, where)
    limited = asked.budget and asked.budget.dollars is not None
    if limited and estimate.price(recipe, asked) is None:
        raise UserError(
            f"nobody knows what '{asked.model}' costs",
            where=f"{where}.budget.dollars",
            fix="give server.price: {input: ..., output: ...}",
        )


def _asks(recipe: Recipe, context: str) -> bool:
    """Whether the recipe's teacher is asked about a context."""
    return TEACHER in recipe.taught_by(context) or any(
        system.model == "teacher" and context in recipe.systems_contexts(name)
        for name, system in recipe.systems.items()
    )


def _refuse_context(recipe: Recipe, name: str, can: Can) -> None:
    context, evaluation = recipe.contexts[name], recipe.evaluation(name)
    if context.examples and context.examples.prompts > 1:
        can.one_prompt(f"contexts.{name}.examples.prompts", "leave it out")
    if evaluation and evaluation.choices:
        can.given(f"contexts.{name}.evaluate.choices", "evaluate written answers")
    at = f"contexts.{name}.evaluate.metrics"
    for metric in evaluation.metrics if evaluation and can.sees != "all" else ():
        if metrics.find(metric, at, recipe.modules).needs_labels:
            raise UserError(
                f"the {metric} of {can.name}'s answers can't be told from its most probable tokens",
                where=at,
                fix=f"leave out {metric}",
            )
