"""Answers of a part that is not whole yet, on disk as they come: a stop costs none of them.

On a disk, each answer is a line of `open-....lines`, which is there when the engine has told it.
Behind an address nothing can be added to a file: there a new one is put every `PUT_EVERY` seconds.
When the part is whole it is written, and its journal goes. What a kill left becomes a part when the
store is opened again.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from unprompt.messages import UserError, say
from unprompt.records import Completion
from unprompt.store.files import fingerprint
from unprompt.store.lines import Lines, in_use, marked, written
from unprompt.store.places import Place, put, reached
from unprompt.store.tables import from_bytes, to_bytes, write_completions

PUT_EVERY = 30.0
"""Seconds between two files of a journal behind an address."""
Answered = Sequence[tuple[str, Completion]]
"""Fingerprints of prompts, and their completions."""


class Journal:
    """The answers of one part, while it is asked. Left by an error, they are written as a part.

    Args:
        store: Folder of the parts.
        name: Of the part, as `part_name` gives it.

    Attributes:
        answers: A prompt's fingerprint -> its completion; at first those that a process left which
            was killed at this part.
    """

    def __init__(self, store: Place, name: str) -> None:
        self._store, self._stem = store, name.replace("part-", "open-").removesuffix(".parquet")
        self.answers: dict[str, Completion] = {}
        before = _files(store, f"{self._stem}*.lines")
        for path in before:
            self.answers |= _read(path)
        self._number, self._waiting, self._put = len(before), list[bytes](), time.monotonic()
        self._lines = Lines(store / f"{self._stem}.lines") if isinstance(store, Path) else None

    def add(self, answered: Answered) -> None:
        """Keep answers."""
        self.answers.update(answered)
        text = base64.b64encode(to_bytes(answered))
        if self._lines:
            self._lines.add(text)
        else:
            self._waiting.append(marked(text))
            if time.monotonic() >= self._put + PUT_EVERY:
                self._put_waiting()

    def _put_waiting(self) -> None:
        put(self._store / f"{self._stem}-{self._number}.lines", b"".join(self._waiting))
        self._number, self._put = self._number + 1, time.monotonic()
        self._waiting.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """The part is written, or what there is of it."""
        if kind is None:
            self._remove()
            return
        with contextlib.suppress(UserError):  # the first error is told; the lines are there
            if self.answers:
                write_part(self._store, list(self.answers.items()))
            self._remove()

    def _remove(self) -> None:
        if self._lines:
            self._lines.close()
        for path in _files(self._store, f"{self._stem}*.lines"):
            reached(path, path.unlink)


def part_name(keys: Sequence[str]) -> str:
    """A part's file, by the prompts in it; a digest of what it holds is added to it."""
    return f"part-{fingerprint(*keys)}.parquet"


def write_part(store: Place, answered: Answered) -> str:
    """Write a part; gives its name."""
    return write_completions(store / part_name([key for key, _ in answered]), answered)


def fold(store: Place) -> None:
    """Make parts of the journals that killed processes left, and say so."""
    files = _files(store, "open-*.lines")
    left = [path for path in files if not (isinstance(path, Path) and in_use(path))]
    for _, paths in itertools.groupby(left, lambda path: re.split(r"[-.]", path.name)[1]):
        of_a_part = list(paths)
        answers = {key: answer for path in of_a_part for key, answer in _read(path).items()}
        if answers:
            write_part(store, list(answers.items()))
            say(f"note: {len(answers)} answers that a stopped run had open are kept: {store.name}")
        for path in of_a_part:
            reached(path, path.unlink)


def _files(store: Place, pattern: str) -> list[Place]:
    return sorted(reached(store, lambda: list(store.glob(pattern))), key=lambda path: path.name)


def _read(path: Place) -> dict[str, Completion]:
    """A journal's answers; broken lines are counted."""
    lines, broken = written(reached(path, path.read_bytes))
    if broken:
        say(
            f"BROKEN FILE: {path}: {broken} of {broken + len(lines)} lines were cut or have"
            " changed; their answers, and no others, are asked for again"
        )
    return {key: answer for line in lines for key, answer in from_bytes(base64.b64decode(line))}
