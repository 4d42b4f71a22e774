"""A model behind a server, ahead of asking it: what it can't do."""

from __future__ import annotations

from unprompt import metrics
from unprompt.engines.server import http
from unprompt.messages import UserError
from unprompt.recipe import Recipe, Server
from unprompt.stages import estimate


def refuse(recipe: Recipe, server: Server, where: str) -> None:
    """What can be known before anything is asked or loaded.

    Raises:
        UserError: The environment lacks the key, the budget has no prices, or the recipe wants what
            a server can't do.
    """
    http.key(server, f"{where}.server")
    if (
        server.budget
        and server.budget.dollars is not None
        and estimate.price(recipe, server) is None
    ):
        raise UserError(
            f"nobody knows what '{server.model}' costs",
            where=f"{where}.server.budget.dollars",
            fix="give server.price: {input: ..., output: ...}",
        )
    if where != "teacher_model":
        return
    asked = [name for name, context in recipe.contexts.items() if context.teacher]
    if recipe.labels.kind not in ("hard", "top_k") and recipe.asks_teacher:
        raise UserError(
            "a server tells at most its most probable tokens, so it can't give"
            f" {recipe.labels.kind} labels",
            where="labels.kind",
            fix=(
                "write top_k (with server.tokenizer, and k as large as the server allows, often 20)"
                " or hard"
            ),
        )
    if recipe.labels.kind == "top_k" and not server.tokenizer:
        raise UserError(
            "top_k labels need the server's tokenizer",
            where=f"{where}.server.tokenizer",
            fix="name it, or write labels.kind: hard",
        )
    for name in asked:
        context, evaluation = recipe.contexts[name], recipe.evaluation(name)
        if context.examples and context.examples.prompts > 1:
            raise UserError(
                "a server can't average the probabilities of several prompts",
                where=f"contexts.{name}.examples.prompts",
                fix="leave it out",
            )
        if evaluation and evaluation.choices:
            raise UserError(
                "a server writes answers and can't score given ones",
                where=f"contexts.{name}.evaluate.choices",
                fix="evaluate written answers",
            )
        at = f"contexts.{name}.evaluate.metrics"
        for metric in evaluation.metrics if evaluation else ():
            if metrics.find(metric, at, recipe.modules).needs_labels:
                raise UserError(
                    f"the {metric} of a server's answers can't be told from its most probable"
                    " tokens",
                    where=at,
                    fix=f"leave out {metric}",
                )


def describe(role: str, server: Server) -> list[str]:
    """Lines for the terminal."""
    read = (
        "its own tokenizer"
        if server.tokenizer
        else "no tokenizer: lengths are estimates by the student's"
    )
    lines = [f"{role}: {server.model} at {server.url} ({server.api}), {read}"]
    if (
        server.api_key_env
        and server.url.startswith("http://")
        and "//localhost" not in server.url
        and "//127.0.0.1" not in server.url
    ):
        lines.append(f"  note: the key goes to {server.url} unencrypted")
    return lines
