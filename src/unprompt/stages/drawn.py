"""Inputs that a model writes, asked for and put into files; from then on they are read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from unprompt.messages import say
from unprompt.recipe import Recipe, Sample, Sampling
from unprompt.records import TEACHER, Completion, Example, Prompt
from unprompt.stages import inputs
from unprompt.stages.inputs import draw
from unprompt.stages.inputs.every import Inputs
from unprompt.stages.prompts import Side
from unprompt.stages.questions import Question
from unprompt.stages.weights import Weights
from unprompt.store.answers import Answers
from unprompt.store.files import FORMAT, fingerprint


@dataclass(frozen=True)
class Drawn:
    """What became of one source's draws.

    Attributes:
        counts: `kept`, and each reason for throwing one away -> draws.
        answers: What was asked, for its cost.
    """

    counts: dict[str, int]
    answers: list[tuple[Question, Answers]] = field(default_factory=list)


def draw_inputs(weights: Weights, known: Inputs) -> tuple[Recipe, dict[str, Drawn]]:
    """Sample the inputs that the recipe wants from its teacher. Gives the recipe that reads them,
    and each source's draws.

    Args:
        known: What was read so far; held-out examples among it, which no input may copy (other
            contexts may be proven on them).

    Raises:
        UserError: Too few draws are new inputs.
    """
    recipe, files = weights.recipe, weights.files
    held = [
        example
        for examples in known.held_out.values()
        for example in examples
        if not example.written  # else it is a stand-in
    ]
    paths, drawn = dict[str, str](), dict[str, Drawn]()
    for where, sample in draw.sources(recipe).items():
        seeds = inputs.load(sample.seeds, f"{where}.sample.seeds", recipe.modules)
        decided = [
            FORMAT,
            where,
            weights.identity(TEACHER),
            sample.model_dump(mode="json"),
            recipe.seed,
            [example.fields for example in seeds],
            [example.fields for example in held],
        ]
        key = fingerprint(*decided)
        target, counted = f"inputs/{key}.json", f"inputs/{key}.counts.json"
        answers: list[tuple[Question, Answers]] = []
        if files.read(target) is None or files.read(counted) is None or recipe.cost:
            # what was drawn is in its store: for its cost it is only counted again
            rows, counts = _draw(weights, where, sample, seeds, held, answers)
            files.keep(counted, json.dumps(counts))
            files.keep(target, json.dumps(rows, ensure_ascii=False, indent=0))
        paths[where] = str((files.folder / target).resolve())
        drawn[where] = Drawn(files.read(counted), answers)
        counts = ", ".join(f"{count} {what}" for what, count in drawn[where].counts.items())
        say(f"{where}: {counts}")
    if not paths:
        (files.folder / "resolved.yaml").unlink(missing_ok=True)
        files.notes.drop("resolved.yaml")
        return recipe, {}
    resolved = draw.resolved(recipe, paths)
    files.keep("resolved.yaml", resolved.to_yaml())
    return resolved, drawn


def _draw(
    weights: Weights,
    where: str,
    sample: Sample,
    seeds: Sequence[Example],
    held: Sequence[Example],
    answers: list[tuple[Question, Answers]],
) -> tuple[list[dict[str, object]], dict[str, int]]:
    recipe = weights.recipe
    sampling = Sampling(**sample.settings)

    def answer(asked: list[Prompt]) -> Sequence[Completion]:
        side = Side(asked, [len(str(prompt.content)) for prompt in asked], (0,))
        question = Question(TEACHER, side, sampling)
        answers.append((question, weights.collect(f"{where}: draws", question)))
        return answers[-1][1]

    say(f"{where}: sampling {sample.count} inputs")
    return draw.draw(sample, seeds, held, answer, recipe.batch_size or 32, recipe.seed, where)
