"""Which instructions of the teacher's prompt the inputs exercise that a model wrote from it; those
that none exercises get inputs of their own, once.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from unprompt.messages import bar, say
from unprompt.recipe import FromPrompt, Recipe
from unprompt.records import TEACHER, Example
from unprompt.stages import drawn
from unprompt.stages.evaluate import instructions
from unprompt.stages.evaluate.removed import Removed, beginning
from unprompt.stages.inputs import written
from unprompt.stages.plan import why_not_covered
from unprompt.stages.prompts import Prompts, rendered
from unprompt.stages.questions import Question
from unprompt.stages.weights import Weights

EDGE = 0.01
"""Nats per token of the teacher's answer from which leaving an instruction out changes it: where
the report's context gain begins."""


Looked = dict[str, list[bool]]
"""Instruction -> of each input that was looked at, whether it exercises it."""


def cover(
    weights: Weights,
    first: Prompts,
    recipe: Recipe,
    prompts: Prompts,
    draws: Mapping[str, drawn.Drawn],
) -> tuple[Recipe, dict[str, drawn.Drawn]]:
    """Measure it, and top up where no input exercises an instruction.

    Args:
        first: Prompts ahead of the draws.
        recipe: Reads what was drawn, as `prompts` do.

    Returns:
        The recipe that reads the inputs, and the draws with their coverage.
    """
    found = dict(draws)
    for where, settings in weights.recipe.covered.items():
        name = where.split(".")[1]
        if why_not_covered(recipe, name):  # check says so
            continue
        looked = _look(weights, prompts, name, settings, set())
        idle, added = [text for text, exercised in looked.items() if not any(exercised)], 0
        rules = list(map(written.rule, idle))
        if idle and _may_top_up(weights.recipe, where, settings):
            say(f"{where}: no input exercises {len(idle)} instructions; more are written for them")
            known = {row.id for row in prompts.inputs.taught[name]}
            found[where] = drawn.topped_up(weights, first, where, settings, draws[where], rules)
            added = found[where].counts["kept"] - draws[where].counts["kept"]
            recipe = drawn.resolve(weights, found)
            prompts = rendered(recipe)
            again = _look(weights, prompts, name, settings, known)
            looked |= {text: looked[text] + again[text] for text in idle}
        _tell(name, looked)
        found[where] = replace(
            found[where], coverage={"edge": EDGE, "added": added, "instructions": _counts(looked)}
        )
    return recipe, found


def _may_top_up(recipe: Recipe, where: str, settings: FromPrompt) -> bool:
    """Not in a mixture, which takes its parts by their shares."""
    inputs = recipe.contexts[where.split(".")[1]].inputs
    kind = settings.kinds.get("instruction")
    assert inputs
    assert settings.covered
    alone = inputs.from_prompt is not None and inputs.limit is None
    return alone and bool(settings.covered.top_up) and (kind is None or kind.share > 0)


def _look(
    weights: Weights, prompts: Prompts, name: str, settings: FromPrompt, known: set[str]
) -> Looked:
    """Of each listed instruction, which inputs exercise it.

    Args:
        known: Inputs that were looked at before.
    """
    recipe, side = weights.recipe, prompts.teacher[name]
    assert settings.covered
    found = instructions.find(side.prompts)
    rows = prompts.inputs.taught[name]
    chosen = [chosen_for(item.text, rows, settings.covered.examples, known) for item in found]
    places = sorted({place for own in chosen for place in own})
    if not places:
        return {item.text: [] for item in found}
    question = Question(TEACHER, side.only(places), recipe.sampling, recipe.labels)
    told = weights.collect(f"{name}: teacher answers for coverage", question)
    answers = dict(zip(places, told, strict=True))
    reader = prompts.readers.of(TEACHER)
    like = functools.cache(lambda: tuple(beginning(reader, side, name)))
    looked = Looked()
    with bar(f"{name}: prompt without each instruction", sum(map(len, chosen))) as progress:
        for item, own in zip(found, chosen, strict=True):
            removed = Removed(
                weights,
                TEACHER,
                reader,
                name,
                [item.without[n] for n in own],
                [answers[n] for n in own],
                like,
            )
            if own and removed.nats is None:
                removed.measure(progress)
            looked[item.text] = [fmean(nats) >= EDGE for nats in removed.nats or [] if nats]
    return looked


def chosen_for(item: str, rows: Sequence[Example], count: int, known: set[str]) -> list[int]:
    """Places of inputs that are looked at for an instruction: of those that a model wrote, first
    those that it wrote for this one.

    Args:
        known: Inputs that are left out.
    """
    rule = written.rule(item)
    own = [n for n, row in enumerate(rows) if row.written and row.id not in known]
    own.sort(key=lambda n: not str(rows[n].fields.get("case", "")).endswith(rule))
    return sorted(own[:count])


def _tell(name: str, looked: Looked) -> None:
    idle = [text for text, exercised in looked.items() if not any(exercised)]
    if looked:
        say(f"{name}: inputs exercise {len(looked) - len(idle)} of {len(looked)} instructions")
    for text in idle:
        say(f"  no input exercises: {' '.join(text.split())[:100]}")


def _counts(looked: Looked) -> list[dict[str, Any]]:
    return [
        {"text": text, "inputs": len(exercised), "exercised": sum(exercised)}
        for text, exercised in looked.items()
    ]
