"""What a run will take: sums over its plan. Nothing is loaded."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from unprompt.engines import models
from unprompt.engines.labels import token_bytes
from unprompt.recipe import Recipe, Server, prices
from unprompt.recipe.prices import Price
from unprompt.records import JUDGE, TEACHER, WRITER
from unprompt.stages.asks import NOTHING, Plan, Sizes, answering
from unprompt.stages.prompts import Prompts, Readers


def estimate(
    recipe: Recipe,
    prompts: Prompts,
    plan: Plan,
    asked: Sizes,
    weights: int,
    others: Mapping[str, int],
) -> str:
    """Tokens, label storage and time, from the models' sizes and a short matrix product on this
    machine.

    Args:
        asked: What `plan.sizes` says.
        weights: Of the student.
        others: Of the teacher, the judge and the writer; 0 of one behind a server, whose time is
            not counted.
    """
    work, of_bars = 0.0, 0.0
    """Weights times tokens, a token that is trained on counted thrice; those of instruction bars
    apart."""
    read = 0
    for who, (size, _) in asked.items():
        read += size.read
        work += others.get(who.role, weights) * (size.read + size.answer_tokens)
    longest = recipe.sampling.max_new_tokens
    for what, who, side in plan.passes:
        read += side.read
        more = others.get(who.role, weights) * (side.read + longest * len(side.prompts))
        work, of_bars = (work, of_bars + more) if what == "instructions" else (work + more, of_bars)
    taught = _taught(recipe, prompts)
    work += 3 * weights * taught
    collected = sum(ask.size.answer_tokens for ask in plan.of("lessons", "hint"))
    stored = token_bytes(recipe.labels) * collected
    speed = _speed(models.device(recipe.model), models.dtype(recipe.model))
    bars, limit = 2 * of_bars / speed, recipe.report.instructions.seconds
    bars = bars if limit is None else min(bars, limit)
    seconds = 2 * work / speed + bars
    count = sum(each.what == "instructions" for each in plan.passes)
    within = f", {_spent(bars)} of it for the bars of {count} instructions" if count else ""
    both = f"{weights / 1e6:.0f}M weights" + (
        f", the teacher {others['teacher'] / 1e6:.0f}M"
        if recipe.teacher_model and others["teacher"]
        else ""
    )
    return (
        f"estimate: {both}; {read:,.0f} prompt tokens read (shared prefixes once), at most"
        f" {collected:,.0f} answer tokens collected, {taught:,.0f} trained on; labels at"
        f" most {stored / 1e6:.1f} MB; at most {_spent(seconds)} on this machine{within}"
    )


def _taught(recipe: Recipe, prompts: Prompts) -> float:
    """Tokens that are trained on, of all rounds and epochs, at most."""
    taught, longest = 0.0, recipe.sampling.max_new_tokens
    for round_ in recipe.plan.values():
        shots = round_.lessons.n if round_.lessons.kind == "shots" else 1
        of_round = 0.0
        for name in round_.contexts:
            lengths = prompts.student[name].lengths
            of_round += (sum(lengths) + longest * len(lengths)) * recipe.per_input(name) * shots
        share = round_.replay.share if round_.replay else 0
        taught += round_.train.epochs * of_round / (1 - share)
    return taught


def answers(asked: Sizes) -> str:
    """Whose answers are asked for, and how many."""
    counts = ", ".join(
        f"{'' if exact else 'at most '}{size.calls:,} by {who}"
        for who, (size, exact) in asked.items()
    )
    return f"answers, if none is stored: {counts}"


def price(recipe: Recipe, server: Server) -> Price | None:
    """What the server costs, if that is known."""
    if server.price:
        return Price(Decimal(str(server.price.input)), Decimal(str(server.price.output)))
    return prices.load(recipe.cost.prices if recipe.cost else None).get(server.model)


def most(recipe: Recipe, asked: Sizes, readers: Readers) -> list[str]:
    """What each server will be asked at most, nothing of it answered yet: calls, tokens (whole
    prompts, longest answers), and dollars if prices are known.
    """
    lines = []
    for who in (TEACHER, JUDGE, WRITER):
        server = readers.of(who).server
        if server is None or answering(recipe, who) != who:
            continue
        size = asked.get(who, (NOTHING, True))[0]
        dollars = ", dollars unknown (no server.price)"
        if known := price(recipe, server):
            spent = size.prompt_tokens * known.input + size.answer_tokens * known.output
            dollars = f", ${spent / 1_000_000:.2f}"
        budget = server.budget
        limits = [
            *([f"{budget.tokens:,} tokens"] if budget and budget.tokens is not None else []),
            *([f"${budget.dollars:g}"] if budget and budget.dollars is not None else []),
        ]
        lines.append(
            f"server of the {who}: at most {size.calls:,} calls, {size.prompt_tokens:,} prompt"
            f" tokens, {size.answer_tokens:,} answer tokens{dollars};"
            f" {'stops at ' + ' or '.join(limits) if limits else 'no budget'}"
        )
    return lines


def _spent(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@functools.cache
def _speed(device: Any, dtype: Any) -> float:
    """Floating-point operations a second to count on: half of a matrix product's, measured in a
    fifth of a second.
    """
    import torch

    a = torch.ones(512, 1024, device=device, dtype=dtype)
    b = torch.ones(1024, 1024, device=device, dtype=dtype)
    (a @ b).sum().item()
    began, rounds = time.perf_counter(), 0
    while time.perf_counter() - began < 0.2:
        (a @ b).sum().item()
        rounds += 1
    return 0.5 * rounds * 2 * 512 * 1024 * 1024 / (time.perf_counter() - began)
