"""All examples that a recipe names, read once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from unprompt.recipe import Recipe
from unprompt.recipe.names import join
from unprompt.records import Example
from unprompt.stages.inputs.load import load, subsets


@dataclass(frozen=True)
class Inputs:
    """D of each context, by its name.

    Attributes:
        taught: Inputs of the contexts that some round teaches or replays.
        held_out: Examples of the contexts that are evaluated.
        pools: All rows of the few-shot pool; None without one.
        shown: The rows in each rendering of the teacher's prompt.
    """

    taught: dict[str, list[Example]]
    held_out: dict[str, list[Example]]
    pools: dict[str, list[dict[str, Any]] | None]
    shown: dict[str, list[list[dict[str, Any]]] | list[None]]

    def of(self, context: str) -> list[Example]:
        """Held-out examples, or the inputs where none are held out."""
        return self.held_out.get(context) or self.taught.get(context) or []


def every(recipe: Recipe) -> Inputs:
    """Read all data.

    Raises:
        UserError: Some of it can't be read, or is not as the recipe says.
    """
    join(recipe.modules, recipe.functions)
    inputs = Inputs({}, {}, {}, {})
    for name, context in recipe.contexts.items():
        where = f"contexts.{name}"
        if context.inputs and name in recipe.used:
            inputs.taught[name] = load(context.inputs, f"{where}.inputs", recipe.modules)
        inputs.pools[name], inputs.shown[name] = None, [None]
        if context.examples:
            pool = load(context.examples.pool, f"{where}.examples", recipe.modules)
            rows = [example.fields for example in pool]
            shown = subsets(context.examples, rows, recipe.seed, f"{where}.examples")
            inputs.pools[name], inputs.shown[name] = rows, shown
        if evaluation := recipe.evaluation(name):
            at = f"{recipe.evaluated_at(name)}.data"
            inputs.held_out[name] = load(evaluation.data, at, recipe.modules)
    return inputs
