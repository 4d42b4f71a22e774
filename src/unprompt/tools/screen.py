"""What commands show in the terminal: tables, and a run's end."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from unprompt.messages import UserError, say

if TYPE_CHECKING:
    from rich.console import Console

    from unprompt.pipeline import Run


def console() -> Console:
    """Standard output, as wide as the screen; of a file, of a width that tables fit."""
    from rich.console import Console

    told = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if told else 160)


def table(
    title: str,
    columns: list[str],
    rows: list[list[str]],
    lines: list[str],
    to: Console | None = None,
) -> None:
    """A table with its title, and lines beneath; without rows only those."""
    from unprompt.report import terminal

    to = to or console()
    if rows:
        parts, meaning = terminal.drawn(columns, rows, to.width)
        say(f"\n{title}", to=to)
        for part in parts:
            say("", to=to)
            to.print(part)
        say("", *([meaning] if meaning else []), to=to)
    say(*lines, to=to)


def show_run(finished: Run) -> None:
    """A run's tables, its verdict, and where everything is."""
    from unprompt import report
    from unprompt.stages import processes

    if processes.number():
        return  # the first process shows it
    to = console()
    for each in report.tables(finished.report):
        table(*each, to)
    say("", *report.closing(finished.report), to=to)
    say("\nUse the student:", *(f"  {line}" for line in finished.report["use"]), to=to)
    unchanged = "nothing has changed since this run, so nothing was done"
    state = unchanged if finished.unchanged else "done"
    say(f"\n{state}: {finished.folder}/report.html, report.md, report.json", to=to)


def confirmed(question: str) -> bool:
    """Whether the user says yes.

    Raises:
        UserError: There is no terminal to ask at.
    """
    if not sys.stdin.isatty():
        raise UserError("there is nobody to ask", where="standard input", fix="add --yes")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
