"""The commands. No logic here, and nothing heavy imported until a command needs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="unprompt",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML recipe.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a field, as in --set train.epochs=3. May be repeated.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", help="The run's folder [default: runs/<name of the recipe>]."
    ),
]


def _version(wanted: bool) -> None:
    from unprompt import __version__

    if wanted:
        typer.echo(f"unprompt {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Put a prompt into a model's weights, and prove it with numbers."""


@app.command()
def run(recipe: RecipeFile, overrides: Overrides = None, out: Out = None) -> None:
    """Distil: check, ask the teacher, train the student, evaluate, report. Goes on where an earlier
    run stopped.
    """
    from unprompt import pipeline, recipe as recipe_

    _show_run(pipeline.run(recipe_.load(recipe, overrides or []), out))


@app.command()
def collect(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Out = None,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="ADDRESS",
            help="Ask by many workers on a Ray cluster: local, auto, host:port or ray://host:port.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=1,
            help="How many share the cluster [default: one for each GPU, or each machine].",
        ),
    ] = None,
) -> None:
    """Only ask the teacher: the part of a run that many machines can share. `run` goes on from
    there.
    """
    from unprompt import pipeline, recipe as recipe_
    from unprompt.messages import UserError
    from unprompt.stages.cluster import Workers

    if workers and not ray:
        raise UserError(
            "there are no workers without a cluster",
            where="--workers",
            fix="add --ray local, or the cluster's address",
        )
    for line in pipeline.collect(
        recipe_.load(recipe, overrides or []), out, Workers(ray, workers) if ray else None
    ):
        print(line)


@app.command()
def check(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Check a recipe and all it names, and estimate what it costs. Loads no weights."""
    from unprompt import recipe as recipe_
    from unprompt.messages import say
    from unprompt.stages import check as check_

    for line in check_.check(recipe_.load(recipe, overrides or [])).lines:
        say(line)
    say("the recipe is in order")


@app.command()
def demo(overrides: Overrides = None, out: Out = None) -> None:
    """Run the quickstart: a 48-example prompt disappears into a 135M-parameter model."""
    from unprompt import pipeline, recipe as recipe_
    from unprompt.tools import demo as demo_

    _show_run(pipeline.run(recipe_.load(demo_.recipe_path(), overrides or []), out))


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    example: Annotated[
        str | None,
        typer.Argument(
            metavar="[ID]",
            help="An input's or held-out example's id; the first input unless given.",
        ),
    ] = None,
) -> None:
    """One example through every stage: both prompts, completion, span, tokens with their labels,
    grades.
    """
    from unprompt.tools import show as show_

    show_.show(folder, example)


@app.command()
def compare(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the page goes.")] = Path(
        "compare.html"
    ),
) -> None:
    """Several runs in one page: their students side by side, and what differs in their recipes."""
    from unprompt.messages import say
    from unprompt.tools import compare as compare_

    say(f"done: {compare_.compare(folders, out)}")


@app.command()
def init(
    prompt: Annotated[
        Path, typer.Argument(metavar="PROMPT.txt", help="A text file with the long prompt.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Where the recipe goes.")
    ] = Path("recipe.yaml"),
) -> None:
    """Write a starter recipe around a prompt you have."""
    from unprompt.messages import say
    from unprompt.tools import starter

    for line in starter.write(prompt, out):
        say(line)


@app.command()
def transfer(
    folder: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="A run's folder.")] = None,
    round_: Annotated[
        str | None,
        typer.Option(
            "--round", metavar="NAME", help="Whose lessons; the last round's unless given."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="The file [default: transfer.jsonl in the run's folder]."
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--check", metavar="FILE", help="Only check such a file, of whatever origin."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="MODEL", help="Whose tokenizer counts the tokens of --check."
        ),
    ] = None,
) -> None:
    """Hand over: a round's prompts and answers as chat JSONL for hosted fine-tuning and other
    trainers.
    """
    from unprompt.messages import UserError, say
    from unprompt.tools import transfer as transfer_

    if (folder is None) == (file is None):
        raise UserError(
            "give a run's folder, or --check FILE",
            where="transfer",
            fix="as in `unprompt transfer runs/NAME`",
        )
    if file is not None:
        lines = transfer_.check_file(file, model)
    else:
        assert folder
        lines = transfer_.hand_over(folder, round_, out)
    for line in lines:
        say(line)


@app.command()
def tune(recipe: RecipeFile, overrides: Overrides = None, out: Out = None) -> None:
    """Choose sampling settings and a variant of a prompt on an evaluation split, and write the
    chosen recipe. Goes on where an earlier search stopped.
    """
    from unprompt import recipe as recipe_
    from unprompt.tools import tune as tune_

    found = tune_.tune(recipe_.load(recipe, overrides or []), out)
    console = _console()
    _print_table(console, *tune_.table(found.report))
    console.print(
        f"\ndone: {found.folder}/chosen.yaml, tune.json",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


@app.command()
def library(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="A task; all of them are listed unless given."),
    ] = None,
) -> None:
    """The prompt library: tasks with a plain and an elaborate prompt, which a recipe may name."""
    from unprompt.messages import UserError
    from unprompt.recipe import library as library_

    try:
        lines = library_.listed() if name is None else library_.written(name).rstrip().splitlines()
    except ValueError as error:
        what, _, fix = str(error).partition(" -> ")
        raise UserError(what, where="unprompt library", fix=fix) from None
    for line in lines:
        typer.echo(line)


@app.command()
def cost(
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="A model of the price table.")
    ],
    input_: Annotated[
        int, typer.Option("--input", min=0, metavar="TOKENS", help="Prompt tokens of one call.")
    ],
    output: Annotated[
        int,
        typer.Option("--output", min=0, metavar="TOKENS", help="Completion tokens of one call."),
    ],
    cached: Annotated[
        int,
        typer.Option(
            "--cached",
            min=0,
            metavar="TOKENS",
            help="How many prompt tokens are in the provider's cache.",
        ),
    ] = 0,
    prices: Annotated[
        Path | None,
        typer.Option(
            "--prices", metavar="FILE", help="Your price table; it wins over our examples."
        ),
    ] = None,
) -> None:
    """Dollars per 1,000 calls, from prices and token counts."""
    from unprompt.report import cost as cost_

    for line in cost_.lines(prices, model, input_, output, cached):
        print(line)


@app.command()
def rate(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    read: Annotated[
        list[Path] | None,
        typer.Option(
            "--read",
            metavar="FILE",
            help="A rated sheet, or ratings.sqlite of the page. May be repeated.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Where the sheet goes [default: RUN/rating_sheet.csv]."
        ),
    ] = None,
    system: Annotated[
        list[str] | None,
        typer.Option("--system", metavar="NAME", help="Rate only this system. May be repeated."),
    ] = None,
    examples: Annotated[
        int | None,
        typer.Option(
            "--examples", min=1, help="Examples of each context, drawn at random [default: all]."
        ),
    ] = None,
    low: Annotated[int, typer.Option("--low", help="Lowest rating.")] = 0,
    high: Annotated[int, typer.Option("--high", help="Highest rating.")] = 6,
) -> None:
    """Export a blinded sheet of the systems' answers for people to rate, or read the ratings of
    several people.
    """
    from unprompt.tools.rating import rate as rate_

    for line in (
        rate_.lines(rate_.ratings(folder, read))
        if read
        else rate_.exported(folder, out, system or [], examples, low, high)
    ):
        print(line)


@app.command()
def ui(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    host: Annotated[
        str,
        typer.Option(
            "--host", help="Where to listen. Beyond this machine, a token is made and asked for."
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="0 finds a free one.")
    ] = 7860,
    system: Annotated[
        list[str] | None,
        typer.Option("--system", metavar="NAME", help="Rate only this system. May be repeated."),
    ] = None,
    examples: Annotated[
        int | None,
        typer.Option(
            "--examples",
            min=1,
            help="Examples of each context to rate, drawn at random [default: all].",
        ),
    ] = None,
) -> None:
    """Two pages in the browser: try the systems side by side, and rate their answers, blinded."""
    from unprompt.tools import ui as ui_

    ui_.serve(folder, host, port, system or [], examples)


@app.command()
def chat(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    system: Annotated[
        str | None,
        typer.Option(
            "--system",
            metavar="NAME",
            help="Who answers: teacher, before or a round [default: the last student].",
        ),
    ] = None,
    context: Annotated[
        str | None,
        typer.Option("--context", metavar="NAME", help="Whose prompts [default: the first]."),
    ] = None,
) -> None:
    """Ask a run's systems in the terminal."""
    from unprompt.tools import chat as chat_

    chat_.chat(folder, system, context)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="A new folder.")],
    round_: Annotated[
        str | None,
        typer.Option(
            "--round", metavar="NAME", help="Whose student; the last round's unless given."
        ),
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge/--adapter", help="Whole weights, or the adapter alone.")
    ] = True,
) -> None:
    """Write a student as a folder that transformers, vLLM and llama.cpp's converter read, and print
    the commands that serve it.
    """
    from unprompt.messages import say
    from unprompt.tools import export as export_

    for line in export_.export(folder, to, round_, merge=merge):
        say(line)


def _console() -> Any:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def _print_table(
    console: Any, title: str, columns: list[str], rows: list[list[str]], lines: list[str]
) -> None:
    from rich.table import Table

    if rows:
        table = Table(title=title, title_justify="left")
        for number, column in enumerate(columns):
            table.add_column(column, justify="right" if number else "left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _show_run(finished: Any) -> None:
    from unprompt import report
    from unprompt.stages import processes

    if processes.number():
        return  # the first process shows it
    console = _console()
    for table in report.tables(finished.report):
        _print_table(console, *table)
    console.print("\nUse the student:", highlight=False)
    for line in finished.report["use"]:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    state = (
        "nothing has changed since this run, so nothing was done" if finished.unchanged else "done"
    )
    console.print(
        f"\n{state}: {finished.folder}/report.html, report.md, report.json",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def main() -> None:
    """Entry point: a `UserError` becomes one line and exit code 2."""
    from unprompt.messages import UserError

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _guarded(app, UserError)


def _guarded(command: Callable[[], None], user_error: type[Exception]) -> None:
    try:
        command()
    except user_error as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
