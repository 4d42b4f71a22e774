"""Side doors: commands that open a finished run, or look after what runs leave."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from unprompt.cli.app import app, printed
from unprompt.messages import UserError, say
from unprompt.tools import screen

RunFolder = Annotated[Path, Argument(metavar="RUN", help="A run's folder.")]
_RATED = "Rate only this system. May be repeated."
Rated = Annotated[list[str] | None, Option(metavar="NAME", help=_RATED)]


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
        printed(rate_.lines(rate_.ratings(folder, read)))
    else:
        printed(rate_.export(folder, out, system or [], examples, low, high))


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

    printed(runs_.remove(folder, sure=yes, ask=screen.confirmed))


_CLEAR = "Remove them; a run that needs one converts it again."


@app.command()
def cache(clear: Annotated[bool, Option("--clear", help=_CLEAR)] = False) -> None:
    """Converted models in your cache folder ($UNPROMPT_CACHE, or unprompt in the user's cache)."""
    from unprompt.tools import cache as cache_

    if clear:
        printed(cache_.clear())
    else:
        screen.table(*cache_.listed())


@app.command()
def verify(folder: RunFolder) -> None:
    """Read every file of a run, and name those that are not what was written; exit code 1, if there
    are any.
    """
    from unprompt.tools import verify as verify_

    lines, whole = verify_.verify(folder)
    printed(lines)
    if not whole:
        raise typer.Exit(1)
