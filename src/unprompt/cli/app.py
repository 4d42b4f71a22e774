"""What all commands share: the app, the arguments that several take, and how lines are shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from unprompt import __version__
from unprompt.visible import visible

if TYPE_CHECKING:
    from unprompt.recipe import Recipe

app = typer.Typer(
    name="unprompt",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RecipeFile = Annotated[Path, Argument(metavar="RECIPE", help="A YAML recipe.")]
_SET = "Override a field, as in --set train.epochs=3. May be repeated."
Overrides = Annotated[list[str] | None, Option("--set", metavar="KEY=VALUE", help=_SET)]
_OUT = "The run's folder [default: runs/<name of the recipe>]."
Out = Annotated[Path | None, Option(metavar="DIR", help=_OUT)]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"unprompt {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Put a prompt into a model's weights, and prove it with numbers."""


def loaded(path: Path, overrides: list[str] | None) -> Recipe:
    """The recipe that a command was given."""
    from unprompt import recipe

    return recipe.load(path, overrides or [])


def printed(lines: list[str]) -> None:
    """Show lines of a command's answer, made safe to look at."""
    for line in lines:
        print(visible(line))
