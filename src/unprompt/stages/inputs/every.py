"""All examples that a recipe names, read once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from unprompt.recipe import Recipe
from unprompt.recipe.names import join
from unprompt.records import Example
from unprompt.stages.inputs.hold_out import Split, split
from unprompt.stages.inputs.load import load, subsets


@dataclass(frozen=True)
class Inputs:
    """D of each context, by its name.

    Attributes:
        taught: Inputs of the contexts that some round teaches or replays.
        held_out: Examples of the contexts that are evaluated.
        left_out: Inputs that `hold_out` puts on neither side.
        pools: All rows of the few-shot pool; None without one.
        shown: The rows in each rendering of the teacher's prompt.
    """

    taught: dict[str, list[Example]]
    held_out: dict[str, list[Example]]
    pools: dict[str, list[dict[str, Any]] | None]
    shown: dict[str, list[list[dict[str, Any]]] | list[None]]
    left_out: dict[str, int]

    def of(self, context: str) -> list[Example]:
        """Held-out examples, or the inputs where none are held out."""
        return self.held_out.get(context) or self.taught.get(context) or []


def every(recipe: Recipe) -> Inputs:
    """Read all data.

    Raises:
        UserError: Some of it can't be read, or is not as the recipe says.
    """
    join(recipe.modules, recipe.functions)
    inputs = Inputs({}, {}, {}, {}, {})
    for name, context in recipe.contexts.items():
        where = f"contexts.{name}"
        parts = _split(recipe, name)
        if context.inputs and name in recipe.used:
            inputs.taught[name] = (
                parts.taught if parts else load(context.inputs, f"{where}.inputs", recipe.modules)
            )
        inputs.pools[name], inputs.shown[name] = None, [None]
        if context.examples:
            pool = load(context.examples.pool, f"{where}.examples", recipe.modules)
            rows = [example.fields for example in pool]
            shown = subsets(context.examples, rows, recipe.seed, f"{where}.examples")
            inputs.pools[name], inputs.shown[name] = rows, shown
        if parts:
            inputs.held_out[name], inputs.left_out[name] = parts.held_out, parts.left_out
        elif recipe.evaluation(name):
            inputs.held_out[name] = held_out(recipe, name)
    return inputs


def held_out(recipe: Recipe, context: str) -> list[Example]:
    """What a context that is evaluated is proven on.

    Raises:
        UserError: It can't be read, or nothing can be held out.
    """
    source, parts = recipe.held_out_from(context), _split(recipe, context)
    assert source
    return parts.held_out if parts else load(*source, recipe.modules)


def _split(recipe: Recipe, name: str) -> Split | None:
    """Both sides of a context's inputs; None where none of them is held out."""
    evaluation, context = recipe.evaluation(name), recipe.contexts[name]
    if evaluation is None or evaluation.hold_out is None or context.inputs is None:
        return None
    where = f"contexts.{name}.inputs"
    rows = load(context.inputs, where, recipe.modules)
    return split(rows, evaluation.hold_out, context.student, recipe.seed, where)
