"""Commands on the road from a prompt to a student: each a function and its docstring."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from unprompt.cli.app import Out, Overrides, RecipeFile, app, loaded, printed
from unprompt.messages import UserError, say
from unprompt.tools import screen


@app.command()
def run(recipe: RecipeFile, overrides: Overrides = None, out: Out = None) -> None:
    """Distil: check, ask the teacher, train the student, evaluate, report. Goes on where an earlier
    run stopped.
    """
    from unprompt import pipeline

    screen.show_run(pipeline.run(loaded(recipe, overrides), out))


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
    printed(pipeline.collect(loaded(recipe, overrides), out, shared))


@app.command()
def check(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Check a recipe and all it names, and estimate what it costs. Loads no weights."""
    from unprompt.stages import check as check_

    say(*check_.check(loaded(recipe, overrides)).lines, "the recipe is in order")


@app.command()
def demo(overrides: Overrides = None, out: Out = None) -> None:
    """Run the quickstart: a 48-example prompt disappears into a 135M-parameter model."""
    from unprompt.tools import demo as demo_

    run(demo_.recipe_path(), overrides, out)


_PROMPT = "The long prompt: a text or Markdown file, or a JSON list of messages."
_MODEL = "The student: a hub id, a folder or a GGUF file [default: SmolLM2-135M]."
_TEACHER = "A bigger teacher: the same, or a server's URL#MODEL [default: the student's model]."
_INPUTS = "Your inputs (JSONL, JSON, CSV, Parquet) [default: the teacher writes some]."
_MEASURE = "Take the longest answer from a few of the teacher's, or a generous 256 tokens."
Prompt = Annotated[Path, Argument(metavar="PROMPT", help=_PROMPT)]
ModelName = Annotated[str | None, Option("--model", metavar="MODEL", help=_MODEL)]
Teacher = Annotated[str | None, Option("--teacher", metavar="MODEL", help=_TEACHER)]
InputFile = Annotated[Path | None, Option("--inputs", metavar="FILE", help=_INPUTS)]
Measured = Annotated[bool, Option("--measure/--no-measure", help=_MEASURE)]


_LOGS = "Logged conversations in place of a prompt: OpenAI's form, Langfuse's or LangSmith's."


@app.command()
def init(
    prompt: Annotated[Path | None, Argument(metavar="[PROMPT]", help=_PROMPT)] = None,
    logs: Annotated[Path | None, Option(metavar="FILE", help=_LOGS)] = None,
    model: ModelName = None,
    teacher: Teacher = None,
    inputs: InputFile = None,
    measure: Measured = True,
    out: Annotated[Path, Option(metavar="FILE", help="Where the recipe goes.")] = Path(
        "recipe.yaml"
    ),
) -> None:
    """Write a recipe around a prompt you have, or around the one that logs hold."""
    from unprompt.tools import logs as logs_, starter

    if logs is not None and prompt is None and teacher is None and inputs is None:
        say(*logs_.write(logs, out, starter.model_of(model, out) if model else starter.DEFAULT))
        return
    if logs is not None or prompt is None:
        raise UserError(
            "a recipe begins with a prompt, or with logs that hold prompt, inputs and answers",
            where="unprompt init",
            fix="give PROMPT, or --logs FILE without PROMPT, --teacher and --inputs",
        )
    say(*starter.write(starter.Wanted(prompt, model, teacher, inputs, measure), out))


_WRITER = "Who writes: a hub id, a folder, a GGUF file, a server's URL#MODEL [default: the model]."


@app.command()
def inputs(
    prompt: Prompt,
    count: Annotated[int, Option(min=1, help="How many.")] = 300,
    model: ModelName = None,
    writer: Annotated[str | None, Option(metavar="MODEL", help=_WRITER)] = None,
    out: Annotated[
        Path | None, Option(metavar="FILE", help="[default: <name of the prompt>-inputs.jsonl]")
    ] = None,
) -> None:
    """Only have inputs written from a prompt alone, to read and mend before distill --inputs."""
    from unprompt.tools import starter

    wanted = starter.Wanted(prompt, model, count=count, writer=writer)
    say(*starter.write_inputs(wanted, out or Path(f"{prompt.stem}-inputs.jsonl")))


_COUNT = "Inputs that the teacher writes, where you give none [default: 100; with a GPU 400]."
_DIR = "Folder of the recipe and its run [default: distilled/<name of the prompt>]."


@app.command()
def distill(
    prompt: Prompt,
    model: ModelName = None,
    teacher: Teacher = None,
    inputs: InputFile = None,
    count: Annotated[int | None, Option(min=5, metavar="N", help=_COUNT)] = None,
    measure: Measured = True,
    overrides: Overrides = None,
    out: Annotated[Path | None, Option(metavar="DIR", help=_DIR)] = None,
) -> None:
    """From a prompt to a student and a verdict: write the recipe as init does, and run it. Goes on
    where an earlier distill stopped.
    """
    from unprompt.tools import starter

    wanted = starter.Wanted(prompt, model, teacher, inputs, measure, count)
    screen.show_run(starter.distill(wanted, out, overrides or []))


@app.command()
def tune(recipe: RecipeFile, overrides: Overrides = None, out: Out = None) -> None:
    """Choose sampling settings and a variant of a prompt on an evaluation split, and write the
    chosen recipe. Goes on where an earlier search stopped.
    """
    from unprompt.tools import tune as tune_

    tuned = tune_.tune(loaded(recipe, overrides), out)
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
    printed(lines)


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

    printed(cost_.lines(prices, model, input_, output, cached))
