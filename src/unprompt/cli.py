"""The commands: each a function and its docstring. No logic here, and nothing heavy imported until
a command needs it.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from unprompt import __version__
from unprompt.messages import STOPPED, UserError, say, stop_at_sigterm
from unprompt.tools import screen
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
_STOPPED = 130
_SET = "Override a field, as in --set train.epochs=3. May be repeated."
Overrides = Annotated[list[str] | None, Option("--set", metavar="KEY=VALUE", help=_SET)]
_OUT = "The run's folder [default: runs/<name of the recipe>]."
Out = Annotated[Path | None, Option(metavar="DIR", help=_OUT)]
RunFolder = Annotated[Path, Argument(metavar="RUN", help="A run's folder.")]
_RATED = "Rate only this system. May be repeated."
Rated = Annotated[list[str] | None, Option(metavar="NAME", help=_RATED)]


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


@app.command()
def run(recipe: RecipeFile, overrides: Overrides = None, out: Out = None) -> None:
    """Distil: check, ask the teacher, train the student, evaluate, report. Goes on where an earlier
    run stopped.
    """
    from unprompt import pipeline

    screen.show_run(pipeline.run(_load(recipe, overrides), out))


_RAY = "Ask by many workers on a Ray cluster: local, auto, host:port or ray://host:port."
_WORKERS = "How many share the cluster [default: one for each GPU, or each machine]."


@app.command()
def collect(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Out = None,
    ray: Annotated[str | None, Option(metavar="ADDRESS", help=_RAY)] = None,
    workers: Annotated[int | None, Option(min=1, help=_WORKERS)] = None,
) -> None:
    """Only ask the teacher: the part of a run that many machines can share. `run` goes on from
    there.
    """
    from unprompt import pipeline
    from unprompt.stages.cluster import Workers

    if workers and not ray:
        raise UserError(
            "there are no workers without a cluster",
            where="--workers",
            fix="add --ray local, or the cluster's address",
        )
    shared = Workers(ray, workers) if ray else None
    _print(pipeline.collect(_load(recipe, overrides), out, shared))


@app.command()
def check(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Check a recipe and all it names, and estimate what it costs. Loads no weights."""
    from unprompt.stages import check as check_

    say(*check_.check(_load(recipe, overrides)).lines, "the recipe is in order")


@app.command()
def demo(overrides: Overrides = None, out: Out = None) -> None:
    """Run the quickstart: a 48-example prompt disappears into a 135M-parameter model."""
    from unprompt.tools import demo as demo_

    run(demo_.recipe_path(), overrides, out)


_ID = "An input's or held-out example's id; the first input unless given."


@app.command()
def show(
    folder: RunFolder,
    example: Annotated[str | None, Argument(metavar="[ID]", help=_ID)] = None,
) -> None:
    """One example through every stage: both prompts, completion, span, tokens with their labels,
    grades.
    """
    from unprompt.tools import show as show_

    show_.show(folder, example)


@app.command()
def compare(
    folders: Annotated[list[Path], Argument(metavar="RUN...", help="Folders of finished runs.")],
    out: Annotated[Path, Option(metavar="FILE", help="Where the page goes.")] = Path(
        "compare.html"
    ),
) -> None:
    """Several runs in one page: their students side by side, and what differs in their recipes."""
    from unprompt.tools import compare as compare_

    say(f"done: {compare_.compare(folders, out)}")


@app.command()
def init(
    prompt: Annotated[
        Path, Argument(metavar="PROMPT.txt", help="A text file with the long prompt.")
    ],
    out: Annotated[Path, Option(metavar="FILE", help="Where the recipe goes.")] = Path(
        "recipe.yaml"
    ),
) -> None:
    """Write a starter recipe around a prompt you have."""
    from unprompt.tools import starter

    say(*starter.write(prompt, out))


_LESSONS = "Whose lessons; the last round's unless given."
_FILE = "The file [default: transfer.jsonl in the run's folder]."
_CHECK = "Only check such a file, of whatever origin."
_COUNTS = "Whose tokenizer counts the tokens of --check."


@app.command()
def transfer(
    folder: Annotated[Path | None, Argument(metavar="[RUN]", help="A run's folder.")] = None,
    round_: Annotated[str | None, Option("--round", metavar="NAME", help=_LESSONS)] = None,
    out: Annotated[Path | None, Option(metavar="FILE", help=_FILE)] = None,
    file: Annotated[Path | None, Option("--check", metavar="FILE", help=_CHECK)] = None,
    model: Annotated[str | None, Option(metavar="MODEL", help=_COUNTS)] = None,
) -> None:
    """Hand over: a round's prompts and answers as chat JSONL for hosted fine-tuning and other
    trainers.
    """
    from unprompt.tools import transfer as transfer_

    if file and not folder:
        say(*transfer_.check_file(file, model))
    elif folder and not file:
        say(*transfer_.hand_over(folder, round_, out))
    else:
        raise UserError(
            "give a run's folder, or --check FILE",
            where="transfer",
            fix="as in `unprompt transfer runs/NAME`",
        )


@app.command()
def tune(recipe: RecipeFile, overrides: Overrides = None, out: Out = None) -> None:
    """Choose sampling settings and a variant of a prompt on an evaluation split, and write the
    chosen recipe. Goes on where an earlier search stopped.
    """
    from unprompt.tools import tune as tune_

    tuned = tune_.tune(_load(recipe, overrides), out)
    screen.table(*tune_.table(tuned.report))
    say(f"\ndone: {tuned.folder}/chosen.yaml, tune.json", to=screen.console())


@app.command()
def library(
    name: Annotated[
        str | None, Argument(metavar="[NAME]", help="A task; all of them are listed unless given.")
    ] = None,
) -> None:
    """The prompt library: tasks with a plain and an elaborate prompt, which a recipe may name."""
    from unprompt.recipe import library as library_

    try:
        lines = library_.listed() if name is None else [library_.written(name).rstrip()]
    except ValueError as error:
        what, _, fix = str(error).partition(" -> ")
        raise UserError(what, where="unprompt library", fix=fix) from None
    _print(lines)


_CACHED = "How many prompt tokens are in the provider's cache."
_PRICES = "Your price table; it wins over our examples."


@app.command()
def cost(
    model: Annotated[str, Option(metavar="NAME", help="A model of the price table.")],
    input_: Annotated[
        int, Option("--input", min=0, metavar="TOKENS", help="Prompt tokens of one call.")
    ],
    output: Annotated[int, Option(min=0, metavar="TOKENS", help="Completion tokens of one call.")],
    cached: Annotated[int, Option(min=0, metavar="TOKENS", help=_CACHED)] = 0,
    prices: Annotated[Path | None, Option(metavar="FILE", help=_PRICES)] = None,
) -> None:
    """Dollars per 1,000 calls, from prices and token counts."""
    from unprompt.report import cost as cost_

    _print(cost_.lines(prices, model, input_, output, cached))


_READ = "A rated sheet, or ratings.sqlite of the page. May be repeated."
_SHEET = "Where the sheet goes [default: RUN/rating_sheet.csv]."
_DRAWN = "Examples of each context, drawn at random [default: about 80 responses]."


@app.command()
def rate(
    folder: RunFolder,
    read: Annotated[list[Path] | None, Option(metavar="FILE", help=_READ)] = None,
    out: Annotated[Path | None, Option(metavar="FILE", help=_SHEET)] = None,
    system: Rated = None,
    examples: Annotated[int | None, Option(min=1, help=_DRAWN)] = None,
    low: Annotated[int, Option(help="Lowest rating.")] = 0,
    high: Annotated[int, Option(help="Highest rating.")] = 6,
) -> None:
    """Export a blinded sheet of the systems' answers for people to rate, or read the ratings of
    several people.
    """
    from unprompt.tools.rating import rate as rate_

    if read:
        _print(rate_.lines(rate_.ratings(folder, read)))
    else:
        _print(rate_.export(folder, out, system or [], examples, low, high))


_HOST = "Where to listen. Beyond this machine, a token is made and asked for."
_SHOWN = "Examples of each context to rate, drawn at random [default: about 80 responses]."


@app.command()
def ui(
    folder: RunFolder,
    host: Annotated[str, Option(help=_HOST)] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="0 finds a free one.")] = 7860,
    system: Rated = None,
    examples: Annotated[int | None, Option(min=1, help=_SHOWN)] = None,
) -> None:
    """Two pages in the browser: try the systems side by side, and rate their answers, blinded."""
    from unprompt.tools import ui as ui_

    ui_.serve(folder, host, port, system or [], examples)


_WHO = "Who answers: teacher, before or a round [default: the last student]."


@app.command()
def chat(
    folder: RunFolder,
    system: Annotated[str | None, Option(metavar="NAME", help=_WHO)] = None,
    context: Annotated[
        str | None, Option(metavar="NAME", help="Whose prompts [default: the first].")
    ] = None,
) -> None:
    """Ask a run's systems in the terminal."""
    from unprompt.tools import chat as chat_

    chat_.chat(folder, system, context)


_STUDENT = "Whose student; the last round's unless given."


@app.command()
def export(
    folder: RunFolder,
    to: Annotated[Path, Option(metavar="DIR", help="A new folder.")],
    round_: Annotated[str | None, Option("--round", metavar="NAME", help=_STUDENT)] = None,
    merge: Annotated[
        bool, Option("--merge/--adapter", help="Whole weights, or the adapter alone.")
    ] = True,
) -> None:
    """Write a student as a folder that transformers, vLLM and llama.cpp's converter read, and print
    the commands that serve it.
    """
    from unprompt.tools import export as export_

    say(*export_.export(folder, to, round_, merge=merge))


_FOLDER = "The folder that runs lie in."


@app.command()
def runs(
    folder: Annotated[Path, Argument(metavar="[FOLDER]", help=_FOLDER)] = Path("runs"),
) -> None:
    """The runs in a folder: when they were last written, their verdicts, sizes and states."""
    from unprompt.tools import runs as runs_

    screen.table(*runs_.listed(folder))


@app.command()
def rm(folder: RunFolder, yes: Annotated[bool, Option("--yes", help="Don't ask.")] = False) -> None:
    """Remove a run's folder, with all that lies in it."""
    from unprompt.tools import runs as runs_

    _print(runs_.remove(folder, sure=yes, ask=screen.confirmed))


_CLEAR = "Remove them; a run that needs one converts it again."


@app.command()
def cache(clear: Annotated[bool, Option("--clear", help=_CLEAR)] = False) -> None:
    """Converted models in your cache folder ($UNPROMPT_CACHE, or unprompt in the user's cache)."""
    from unprompt.tools import cache as cache_

    if clear:
        _print(cache_.clear())
    else:
        screen.table(*cache_.listed())


@app.command()
def verify(folder: RunFolder) -> None:
    """Read every file of a run, and name those that are not what was written; exit code 1, if there
    are any.
    """
    from unprompt.tools import verify as verify_

    lines, whole = verify_.verify(folder)
    _print(lines)
    if not whole:
        raise typer.Exit(1)


def _load(path: Path, overrides: list[str] | None) -> Recipe:
    from unprompt import recipe

    return recipe.load(path, overrides or [])


def _print(lines: list[str]) -> None:
    for line in lines:
        print(visible(line))


def main() -> None:
    """Entry point: a `UserError` becomes one line and exit code 2."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    stop_at_sigterm()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a letter that the terminal has not is no end
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # ahead of Typer, or behind it
        _stopped()
    except SystemExit as end:
        if end.code == _STOPPED:  # Typer's code for Ctrl-C
            _stopped()
        raise


def _stopped() -> None:
    print(STOPPED, file=sys.stderr)
    sys.exit(_STOPPED)
