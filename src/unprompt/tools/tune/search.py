"""What `unprompt tune` searches: the combinations, the evaluation split, and what each variant of
the prompt asks.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unprompt import metrics
from unprompt.messages import UserError
from unprompt.recipe import Context, Data, Evaluate, Lessons, Recipe, Sampling
from unprompt.recipe.measuring import Tune
from unprompt.recipe.names import join
from unprompt.records import Example
from unprompt.stages import evaluate, inputs
from unprompt.stages.inputs.every import held_out
from unprompt.stages.prompts import Side, plain, rendered
from unprompt.stages.templates.render import render
from unprompt.stages.weights import Weights
from unprompt.store.folder import RunDir

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Combination = tuple[str, ...]
"""The variant's name, then each setting's value as JSON, in the recipe's order."""


@dataclass(frozen=True)
class Search:
    """What is searched, checked before anything is asked."""

    recipe: Recipe
    wanted: Tune
    """The recipe's `tune`."""
    space: dict[str, list[str]]
    """`variant` and each setting -> what it may be, as a `Combination` has it."""
    combinations: dict[Combination, Sampling]
    """How the answers of each are written."""
    trials: int
    """How many of them are tried."""
    rows: list[Example]
    evaluation: Evaluate
    """How answers to them are graded."""
    sides: dict[str, Side]
    """Variant -> what is asked."""
    weights: Weights

    @property
    def grid(self) -> bool:
        """Whether every combination is tried."""
        return self.trials == len(self.combinations)


def search_of(recipe: Recipe, files: RunDir) -> Search:
    """What a recipe's `tune` searches.

    Raises:
        UserError: There is none, or something in it is not in order.
    """
    if recipe.tune is None:
        raise UserError(
            "the recipe does not say what to tune",
            where="tune",
            fix="add tune: {context: ..., data: ..., settings: {...}}",
        )
    wanted = recipe.tune.model_copy(update={"variants": recipe.tune.variants or {"own": None}})
    space = {"variant": list(wanted.variants)}
    space |= {key: [*map(json.dumps, values)] for key, values in wanted.settings.items()}
    rows = _split(recipe, wanted)
    # as the context is evaluated, but on the evaluation split, by the one metric
    evaluation = (recipe.evaluation(wanted.context) or Evaluate(data=wanted.data)).model_copy(
        update={"data": wanted.data, "hold_out": None, "metrics": (wanted.metric,)}
        | dict.fromkeys(("choices", "lenient", "shots"))
    )
    evaluate.check(evaluation, rows, "tune", recipe.modules)
    known = recipe.sampling
    if wanted.who == "student":
        known = recipe.sampling_of(evaluation)
    combinations = {
        combination: _sampling(known, in_section(settings(wanted, combination)))
        for combination in itertools.product(*space.values())
    }
    longest = {"max_new_tokens": max(how.max_new_tokens for how in combinations.values())}
    held_out = evaluation.model_copy(update=longest)
    asked = {name: _asked(recipe, wanted, name, held_out) for name in wanted.variants}
    return Search(
        recipe,
        wanted,
        space,
        combinations,
        min(wanted.trials or len(combinations), len(combinations)),
        rows,
        evaluation,
        {name: side for name, (side, _) in asked.items()},
        Weights(recipe, files, next(iter(asked.values()))[1]),
    )


def _split(recipe: Recipe, wanted: Tune) -> list[Example]:
    """The evaluation split: with gold answers, and not what the recipe holds out."""
    join(recipe.modules, recipe.functions)
    metric = metrics.find(wanted.metric, "tune.metric", recipe.modules)
    if metric.needs_labels:
        raise UserError(
            f"'{wanted.metric}' does not say how good an answer is",
            where="tune.metric",
            fix="choose another metric",
        )
    rows = inputs.load(wanted.data, "tune.data", recipe.modules)
    lacking = next((row for row in rows if row.target is None), None)
    if lacking is not None and metric.needs_gold:
        raise UserError(
            f"example '{lacking.id}' has no gold answer in field '{wanted.data.target}'",
            where="tune.data.target",
            fix=f"name the field that holds it (the data has: {', '.join(lacking.fields)})",
        )
    for name in recipe.contexts:
        _refuse_what_proves(recipe, wanted, rows, name)
    return rows


def _refuse_what_proves(recipe: Recipe, wanted: Tune, rows: list[Example], name: str) -> None:
    """The split may share neither a file nor an example with what a context is proven on."""
    if recipe.evaluation(name) is None:
        return
    context = recipe.contexts[wanted.context]
    proves = held_out(recipe, name)
    held = {_shown(context, row) for row in proves} - {None}
    ids = {_shown(context, row): row.id for row in rows}
    both = [id_ for shown, id_ in ids.items() if shown in held]
    source = recipe.held_out_from(name)
    files = _files(wanted.data) & _files(source[0]) if source else set()
    if files:
        what = f"the file {files.pop()} is"
    elif both:
        what = f"{len(both)} of its examples (as '{both[0]}') are"
    else:
        return
    raise UserError(
        f"{what} what context '{name}' is proven on: settings chosen on the test split flatter the"
        " result",
        where="tune.data",
        fix="tune on another split",
    )


def _sources(data: Data) -> list[Data]:
    """A data set, and those that it is mixed from."""
    return [data, *(source for part in data.mix or () for source in _sources(part.data))]


def _files(data: Data) -> set[str]:
    return {source.file for source in _sources(data) if source.file is not None}


def _shown(context: Context, row: Example) -> str | None:
    """A row as the student's prompt shows it, letter case and blanks aside; None if it lacks the
    fields, and so can't be one of ours.
    """
    try:
        return plain(render(context.student, "", row, [{}] if context.examples else None, ""))
    except UserError:
        return None


def _asked(
    recipe: Recipe, wanted: Tune, variant: str, held_out: Evaluate
) -> tuple[Side, PreTrainedTokenizerBase]:
    """A variant's prompts, against the model's window at the longest answer tried."""
    context = with_variant(recipe, wanted, variant).model_copy(
        update=dict.fromkeys(("inputs", "filter", "hint")) | {"evaluate": held_out}
    )
    others = ("association", "margins", "drift", "judge", "cost", "tune", "evaluate")
    update = {"rounds": {}, "systems": {}, "lessons": Lessons(), **dict.fromkeys(others)}
    update["contexts"] = {wanted.context: context}
    prompts = rendered(recipe.model_copy(update=update))
    side = prompts.side(wanted.context, wanted.who, held_out=True)
    assert side
    return side, prompts.readers.student.tokenizer


def with_variant(recipe: Recipe, wanted: Tune, variant: str) -> Context:
    """The context with a variant of its prompt."""
    context, template = recipe.contexts[wanted.context], wanted.variants[variant]
    return context.model_copy(update={wanted.who: template}) if template else context


def settings(wanted: Tune, combination: Combination) -> dict[str, Any]:
    """Setting -> value."""
    return dict(zip(wanted.settings, map(json.loads, combination[1:]), strict=True))


def in_section(of: dict[str, Any]) -> dict[str, Any]:
    """Settings by the names that they have in their section."""
    return {key.partition(".")[2]: value for key, value in of.items()}


def _sampling(known: Sampling, tried: dict[str, Any]) -> Sampling:
    kept = known.model_dump(include={"temperature", "top_p", "max_new_tokens", "stop"})
    sampling = Sampling.model_validate({**kept, **tried})
    # greedy is greedy: not asked twice
    return sampling if sampling.temperature else sampling.model_copy(update={"top_p": 1.0})
