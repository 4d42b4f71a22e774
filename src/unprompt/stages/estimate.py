"""What a run will cost on this machine, from prompts, settings and the models' sizes. Nothing is
loaded.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from unprompt.engines import models
from unprompt.engines.labels import token_bytes
from unprompt.recipe import Recipe
from unprompt.stages.evaluate import instructions
from unprompt.stages.prompts import Side


def estimate(
    recipe: Recipe,
    sides: Mapping[tuple[str, str, str], Side],
    further: Sequence[Side],
    systems: Mapping[tuple[str, str], Side],
    weights: int,
    teachers: int,
) -> str:
    """Tokens, label storage and time, from the models' sizes and a short matrix product on this
    machine.

    Args:
        sides: Every context's prompts: (context, `teacher`, `student` or `hint`, `inputs` or
            `held`).
        further: Prompts that every student reads besides.
        systems: Those of further systems: (system, context).
        weights: Of the student.
        teachers: Of the teacher; 0 of one behind a server, whose time is not counted.
    """
    longest = recipe.sampling.max_new_tokens
    collected = read = taught = 0.0
    work = 0.0
    """Weights times tokens, a token that is trained on counted thrice."""

    def ask(side: Side, times: float, size: int, answers: float = 1) -> None:
        nonlocal read, work
        read += times * _read(side)
        work += size * times * (_read(side) + answers * longest * len(side.prompts))

    for (name, who, part), side in sides.items():
        if part == "inputs" and who in ("teacher", "hint"):
            whose = {*recipe.taught_by(name), *recipe.replayed_by(name)}
            for each in whose:
                ask(side, recipe.per_input(name), teachers if each is None else weights)
            collected += len(whose) * recipe.per_input(name) * len(side.prompts)
        elif part == "held":
            evaluation = recipe.evaluation(name)
            twice = 2 if evaluation and evaluation.choices else 1  # two continuations are scored
            if who == "teacher":
                ask(side, twice, teachers)
                ask(side, twice, weights)
                ask(side.first(recipe.report.self_agreement), 2, teachers)
                for bars in _without_each_item(side.first(recipe.report.instructions)):
                    ask(bars, 1, teachers)
            elif who == "student":
                ask(side, 2 * (1 + len(recipe.plan)), weights, 0.5)  # answers, and their KL
    for side in further:
        ask(side, 1 + len(recipe.plan), weights)
    for (name, _), side in systems.items():
        ask(side, 1, teachers if recipe.systems[name].model == "teacher" else weights)
    for round_ in recipe.plan.values():
        own = sum(
            (sum(side.lengths) + longest * len(side.prompts))
            * recipe.per_input(name)
            * (round_.lessons.n if round_.lessons.kind == "shots" else 1)
            for name in round_.contexts
            for side in [sides[name, "student", "inputs"]]
        )
        taught += round_.train.epochs * own / (1 - round_.replay.share if round_.replay else 1)
    work += 3 * weights * taught
    size = token_bytes(recipe.labels) * collected * longest
    seconds = 2 * work / _speed(models.device(recipe.model), models.dtype(recipe.model))
    both = f"{weights / 1e6:.0f}M weights" + (
        f", the teacher {teachers / 1e6:.0f}M" if recipe.teacher_model and teachers else ""
    )
    return (
        f"estimate: {both}; {read:,.0f} prompt tokens read (shared prefixes once), at most"
        f" {collected * longest:,.0f} answer tokens collected, {taught:,.0f} trained on; labels at"
        f" most {size / 1e6:.1f} MB; at most {_spent(seconds)} on this machine"
    )


def _spent(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _without_each_item(side: Side) -> list[Side]:
    """What the report asks to see how much each instruction of a prompt matters, at most: with an
    item left out, little is shared.
    """
    return [replace(side, prefix=(0,)) for _ in instructions.find(side.prompts)]


def _read(side: Side) -> int:
    shared = sum(side.prefix)
    return shared + sum(length - shared for length in side.lengths)


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
