"""What the user is told: one line for what can be mended, lines beside the work, and bars."""

from __future__ import annotations

import contextlib
import html
import importlib
import signal
import time
import warnings
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from unprompt.visible import visible


class UserError(Exception):
    """Something the user can mend. The command line prints it without a traceback and exits with 2.

    Args:
        what: What is wrong, in plain words.
        where: File, line, recipe key or example id.
        fix: What to do about it.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what)

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        # parts of it may be a server's words, or a file's
        return visible(" ".join((f"{line} -> {self.fix}" if self.fix else line).split()))

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows in place of a traceback."""
        return [f"error: {self}"]


STOPPED = "stopped; run the same command again to go on"


class Stopped(KeyboardInterrupt):
    """The user stopped what was at work (Ctrl-C; in a notebook, its stop button)."""

    def __str__(self) -> str:
        return STOPPED

    def _render_traceback_(self) -> list[str]:
        return [STOPPED]


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Ctrl-C says what becomes of the work, in one line.

    Raises:
        Stopped: In its place.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped from None


def stop_at_sigterm() -> None:
    """A machine that shuts down, or a scheduler, stops this process as Ctrl-C does. To one that a
    script put into the background (`&`) Ctrl-C itself goes on to mean nothing.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # held back instead: asyncio, too, stops in order only where the signal is handled
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _as_ctrl_c)


def _as_ctrl_c(*_: object) -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.raise_signal(signal.SIGINT)


console = Console(stderr=True)
if console.is_jupyter:
    # transformers' bars, which we don't show, ask for widgets when they are first imported: here,
    # where a filter can't be undone by whoever imports this (a notebook's completion does)
    with warnings.catch_warnings(), contextlib.suppress(ImportError):
        warnings.filterwarnings("ignore", message="IProgress not found")
        importlib.import_module("tqdm.auto")
_DRAWN_EVERY = 0.2
"""Seconds between two pictures of a notebook's bar."""


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "", style="cyan")


def say(*lines: str, to: Console | None = None) -> None:
    """Lines for the user, as they are, and what can't be seen in them written out: beside the bars,
    unless another console is named.
    """
    for line in lines:
        (to or console).print(Text(visible(line)), soft_wrap=True)


@contextlib.contextmanager
def bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how a task of `total` pieces goes; the value yielded is told how many more are done."""
    if console.is_jupyter:
        with _below_the_cell(title, total) as told:
            yield told
        return
    began, done = time.perf_counter(), 0
    with Progress(
        TextColumn("{task.description:32}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=console.quiet or not console.is_terminal,
    ) as shown:
        task = shown.add_task(visible(title), total=total)

        def advance(count: int) -> None:
            nonlocal done
            done += count
            shown.advance(task, count)

        yield advance
    took = time.perf_counter() - began
    if not console.is_terminal and took > 0.5:
        say(f"{title}: {done} in {took:.1f} s ({done / took:.1f}/s)")


@contextlib.contextmanager
def _below_the_cell(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar in a notebook, drawn anew in its place; it needs no widgets."""
    from IPython.display import DisplayHandle

    began, done, drawn = time.perf_counter(), 0, 0.0

    def picture() -> dict[str, str]:
        took = time.perf_counter() - began
        line = f"{title}: {done} of {total} in {took:.1f} s"
        if done and took:
            line += f" ({done / took:.1f}/s)"
        bar_ = f'<progress value="{done}" max="{total}"></progress>'
        return {"text/plain": line, "text/html": f"{bar_} {html.escape(line)}"}

    shown = DisplayHandle()
    shown.display(picture(), raw=True)

    def advance(count: int) -> None:
        nonlocal done, drawn
        done += count
        if time.perf_counter() > drawn + _DRAWN_EVERY:
            drawn = time.perf_counter()
            shown.update(picture(), raw=True)

    try:
        yield advance
    finally:
        shown.update(picture(), raw=True)
