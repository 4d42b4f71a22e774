"""A model behind a server, ahead of asking it: what it can't do, and what it will be asked at
most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from unprompt.engines import models
from unprompt.engines.server import engine as server_, http
from unprompt.engines.tokens import Reader
from unprompt.messages import UserError
from unprompt.recipe import Model, Recipe, Server, prices
from unprompt.recipe.prices import Price
from unprompt.records import Example, Prompt
from unprompt.stages import inputs
from unprompt.stages.evaluate import judge
from unprompt.stages.inputs import draw
from unprompt.stages.prompts import Side

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def price(recipe: Recipe, server: Server) -> Price | None:
    """What the server costs, if that is known."""
    if server.price:
        return Price(Decimal(str(server.price.input)), Decimal(str(server.price.output)))
    return prices.load(recipe.cost.prices if recipe.cost else None).get(server.model)


def reader(model: Model, student: PreTrainedTokenizerBase, where: str) -> Reader:
    """Who reads its prompts."""
    assert model.server
    own = model.server.tokenizer
    return Reader(
        models.load_tokenizer(own, f"{where}.server.tokenizer") if own else student,
        False,
        model.window,
        model.server,
    )


def refuse(recipe: Recipe, server: Server, where: str) -> None:
    """What can be known before anything is asked or loaded.

    Raises:
        UserError: The environment lacks the key, or the budget has no prices.
    """
    http.key(server, f"{where}.server")
    if server.budget and server.budget.dollars is not None and price(recipe, server) is None:
        raise UserError(
            f"nobody knows what '{server.model}' costs",
            where=f"{where}.server.budget.dollars",
            fix="give server.price: {input: ..., output: ...}",
        )


def refuse_forms(server: Server, asked: Sequence[Prompt], where: str) -> None:
    """Prompts of a form that this endpoint can't be asked.

    Raises:
        UserError: There is one.
    """
    for prompt in asked:
        server_.refuse_content(server, prompt.content, where)


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


def most(
    recipe: Recipe,
    reads: Mapping[str, Reader],
    sides: Mapping[tuple[str, str, str], Side],
    systems: Mapping[tuple[str, str], Side],
    held_out: Mapping[str, Sequence[Example]],
    asked: Mapping[str, Sequence[Prompt]],
) -> list[str]:
    """What each server will be asked at most, nothing of it answered yet: calls, tokens (whole
    prompts, longest answers), and dollars if prices are known.

    Args:
        reads: `teacher` and `judge` -> who reads those prompts.
        sides: As of `estimate.estimate`.
        systems: Those of further systems: (system, context).
        held_out: Context -> its held-out examples.
        asked: Context -> the student's prompts for them.
    """
    lines = []
    for role, reads_ in reads.items():
        if reads_.server is None:
            continue
        counts = (
            _of_teacher(recipe, reads_, sides, systems)
            if role == "teacher"
            else _of_judge(recipe, reads_, held_out, asked)
        )
        calls, read, written = (sum(each) for each in zip(*counts, (0, 0, 0), strict=True))
        known = price(recipe, reads_.server)
        dollars = (
            f", ${(read * known.input + written * known.output) / 1_000_000:.2f}"
            if known
            else ", dollars unknown (no server.price)"
        )
        budget = reads_.server.budget
        limits = [
            *([f"{budget.tokens:,} tokens"] if budget and budget.tokens is not None else []),
            *([f"${budget.dollars:g}"] if budget and budget.dollars is not None else []),
        ]
        lines.append(
            f"server of the {role}: at most {calls:,} calls, {read:,} prompt tokens, {written:,}"
            f" answer tokens{dollars};"
            f" {'stops at ' + ' or '.join(limits) if limits else 'no budget'}"
        )
    return lines


def _of_teacher(
    recipe: Recipe,
    reads: Reader,
    sides: Mapping[tuple[str, str, str], Side],
    systems: Mapping[tuple[str, str], Side],
) -> list[tuple[int, int, int]]:
    """(Calls, tokens of prompts, tokens of answers) of each thing that is asked."""
    found = []

    def ask(side: Side, times: int, longest: int) -> None:
        calls = len(side.prompts) * times
        found.append((calls, sum(side.lengths) * times, calls * longest))

    for (name, who, part), side in sides.items():
        evaluation = recipe.evaluation(name)
        if (
            part == "inputs"
            and who in ("teacher", "hint")
            and name in recipe.used
            and None in recipe.taught_by(name)
        ):
            ask(side, recipe.per_input(name), recipe.sampling.max_new_tokens)
        elif (who, part) == ("teacher", "held") and recipe.taught_by(name)[0] is None:
            longest = recipe.sampling.max_new_tokens
            ask(side, 1, (evaluation and evaluation.max_new_tokens) or longest)
            ask(side.first(recipe.report.self_agreement), 2, longest)
    for (name, context), side in systems.items():
        evaluation = recipe.evaluation(context)
        if recipe.systems[name].model == "teacher":
            ask(
                side,
                1,
                (evaluation and evaluation.max_new_tokens) or recipe.sampling.max_new_tokens,
            )
    for where, sample in draw.sources(recipe).items():
        calls = int(sample.count * sample.tries)
        seeds = inputs.load(sample.seeds, f"{where}.sample.seeds", recipe.modules)
        shown = [
            reads.encode(prompt.content, where)
            for prompt in draw.ask(sample, seeds, 0, min(8, calls), recipe.seed, where)
        ]
        found.append((calls, calls * max(map(len, shown)), calls * sample.max_new_tokens))
    return found


def _of_judge(
    recipe: Recipe,
    reads: Reader,
    held_out: Mapping[str, Sequence[Example]],
    asked: Mapping[str, Sequence[Prompt]],
) -> list[tuple[int, int, int]]:
    settings = recipe.judge
    if settings is None:
        return []
    found = []
    for context, difficulty, tokens in judge.lengths(recipe, held_out, asked, reads):
        evaluation = recipe.evaluation(context)
        longest = (evaluation and evaluation.max_new_tokens) or recipe.sampling.max_new_tokens
        own = sum(context in recipe.systems_contexts(name) for name in recipe.systems)
        calls = settings.repeats * (
            1 if difficulty else 3 + len(recipe.plan) + own
        )  # teacher, before, the last under the teacher's prompt
        found.append(
            (
                calls,
                calls * (tokens + (0 if difficulty else longest)),
                calls * settings.max_new_tokens,
            )
        )
    return found
