"""A run's folder, opened again."""

from __future__ import annotations

from pathlib import Path

from unprompt import recipe as recipe_
from unprompt.messages import UserError
from unprompt.recipe import Recipe
from unprompt.store.folder import RunDir


def opened(folder: Path) -> tuple[RunDir, Recipe]:
    """The folder and its recipe, however far the run has got.

    Raises:
        UserError: There is no run here.
    """
    files = RunDir(folder)
    if not files.recipe.is_file():
        raise UserError(
            "there is no run here", where=str(folder), fix="run `unprompt run RECIPE` first"
        )
    return files, recipe_.load(files.recipe)


def named_round(recipe: Recipe, round_: str | None) -> str:
    """A round's name; the last one's unless given.

    Raises:
        UserError: There is no such round.
    """
    name = round_ or list(recipe.plan)[-1]
    if name not in recipe.plan:
        raise UserError(
            f"there is no round '{name}'",
            where="--round",
            fix=f"there are: {', '.join(recipe.plan)}",
        )
    return name
