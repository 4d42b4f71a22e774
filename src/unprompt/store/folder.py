"""A run's folder: what lies where, who is at work in it, which stages are done.

```
recipe.yaml                      the resolved recipe
state.json                       stage -> fingerprint, file -> digest
copies/                          what can't be made again, once more
inputs/                          sampled inputs
completions/KEY/part-*.parquet   what models answered
completions/KEY/open-*.lines     and what of a part is not whole yet
lessons, grades, examples        records, as .parquet
checkpoints/                     while training
student/                         adapter or weights, tokenizer
rounds/NAME/                     lessons, log and student of a named round
report.html, .json, .md
transfer.jsonl                   a hand-over
```
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Iterable, Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

from unprompt.messages import UserError, say
from unprompt.recipe import Recipe
from unprompt.store.files import (
    LOCK,
    disk_error,
    fingerprint,
    held,
    refuse_moved,
    replacing,
    sweep,
)
from unprompt.store.notes import COPIES, Notes, is_answers
from unprompt.store.places import Place, place

_GO_ON = "run its recipe to the end"
_WRITES = {
    "train": ("student", "train_log.json"),
    "report": ("report.html", "report.md", "report.json"),
}
"""Stage -> what it leaves in the run's folder."""


def _no_lock(path: Path) -> UserError:
    return UserError(
        "is no file of ours, but a link, a folder or a pipe", where=str(path), fix="remove it"
    )


class RunDir:
    """A run's folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @staticmethod
    def of(recipe: Recipe, folder: str | Path | None = None) -> RunDir:
        """A recipe's folder: the one that is given, else `runs/NAME`. A recipe without a name (made
        in Python) is told by its models and contexts, so that no two things that are distilled
        share a folder, and the same with other settings goes on in its own.
        """
        if folder:
            return RunDir(folder)
        if "name" in recipe.model_fields_set:
            return RunDir(Path("runs", recipe.name))
        decided = recipe.model_dump(mode="json", include={"model", "teacher_model", "contexts"})
        return RunDir(Path("runs", f"{recipe.name}-{fingerprint(decided, digits=8)}"))

    @property
    def is_run(self) -> bool:
        """Whether a run was ever begun in this folder."""
        return (self.folder / "recipe.yaml").is_file() and (self.folder / LOCK).is_file()

    def at_work(self) -> bool:
        """Whether a run is at work in it now."""
        try:
            file = os.open(self.folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(file)
        return False

    @property
    def recipe(self) -> Path:
        """The resolved recipe; where inputs were sampled, the one that reads them from what was
        drawn.

        Raises:
            UserError: It, or what was drawn, is not as it was written.
        """
        sampled = self.folder / "resolved.yaml"
        name = sampled.name if sampled.is_file() else "recipe.yaml"
        self.notes.proven(*self.notes.names("inputs/"), "resolved.yaml", name)
        return self.folder / name

    def round(self, name: str) -> RunDir:
        """Folder of a round: its lessons, log and student. The only round of a recipe without
        rounds (`after`) has the run's own folder.
        """
        return self if name == "after" else RunDir(self.folder / "rounds" / name)

    @property
    def completions(self) -> Path:
        """Folder of all completion stores."""
        return self.folder / "completions"

    def stores(self, address: str | None) -> Place:
        """Where the recipe says that completions are kept, else in this folder."""
        return place(address, "store") if address else self.completions

    @property
    def student(self) -> Path:
        """Folder of the trained student."""
        return self.folder / "student"

    @property
    def checkpoints(self) -> Path:
        """Folder of the trainer's checkpoints."""
        return self.folder / "checkpoints"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder: a second run on it is refused. The lock dies with its process."""
        path = self.folder / LOCK
        with contextlib.ExitStack() as closing:
            file = self._open_lock(path)
            closing.callback(os.close, file)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                what, fix = "another run is at work in this folder", "wait for it, or choose --out"
                raise UserError(what, where=str(self.folder), fix=fix) from None
            sweep(self.folder)
            for name in ("inputs", "kl", "rounds/*", COPIES, f"{COPIES}/*"):
                for folder in self.folder.glob(name):
                    sweep(folder)
            closing.enter_context(held(path, file))
            refuse_moved(path)  # between the opening and the lock
            yield

    def _open_lock(self, path: Path) -> int:
        """Neither cut nor followed: whoever may write here could have put a link in its place."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = os.open(path, flags, 0o644)
        except OSError as error:
            if path.is_symlink() or path.is_dir():
                raise _no_lock(path) from None
            raise disk_error(error, self.folder) from None
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise _no_lock(path)
        return file

    @property
    def notes(self) -> Notes:
        """Which stages are done, and what each file holds."""
        return Notes(self.folder)

    def write_text(self, name: str, text: str) -> None:
        """Write a small file atomically."""
        with replacing(self.folder / name) as partial:
            partial.write_text(text, "utf-8")

    def keep(self, name: str, text: str, *, copied: bool = False) -> None:
        """Write a small file that is trusted later, and note what it holds.

        Args:
            copied: It can't be made again: a copy is kept.
        """
        self.write_text(name, text)
        self.notes.add(name, copied=copied)

    def read(self, name: str) -> Any:
        """What a JSON file that was kept holds; None, if it is not as it was written."""
        sound = self.notes.sound(name)
        return json.loads((self.folder / name).read_text("utf-8")) if sound else None

    def proven(self, name: str) -> Path:
        """A file's path, for those who trust what it holds.

        Raises:
            UserError: It is not as it was written.
        """
        self.notes.proven(name)
        return self.folder / name

    def finished(self, stage: str, made_from: str) -> bool:
        """Whether `stage` was finished from just this, and what it wrote is still there."""
        return self.notes.read().get(stage) == made_from and all(
            (self.folder / name).exists() for name in _WRITES[stage]
        )

    def trained(self, made_from: str) -> bool:
        """Whether the student was trained on just this, and its files are as they were written; if
        not, that is said.
        """
        if not self.finished("train", made_from):
            return False
        if broken := self.notes.student_is_sound():
            say(
                f"BROKEN FILE: {self.folder / broken} is not as it was written; the student is"
                " trained again, from the same lessons"
            )
        return not broken

    def finish(self, made_from: str, stores: Iterable[Place]) -> None:
        """Note that the report is done, and what the answers hold that it was made of.

        Args:
            stores: Where they are kept; those behind an address hold their own digests.
        """
        own, notes = self.completions.resolve(), self.notes
        notes.drop(*(name for name in notes.names() if is_answers(name)))
        here = [path for store in stores if isinstance(store, Path) for path in store.iterdir()]
        paths = [path.resolve() for path in sorted(here) if path.name[0] != "."]
        inside = {path: path.is_relative_to(own) for path in paths}
        names = {
            path: f"completions/{path.relative_to(own)}" if inside[path] else str(path)
            for path in paths
        }
        # of a store that is shared, the others of its files change
        marks = [names[path] for path in paths if path.suffix == ".json" and inside[path]]
        notes.add(*marks, copied=True)
        parts = [names[path] for path in paths if path.suffix == ".parquet"]
        notes.add(*parts, report=made_from)

    def first_day(self) -> date:
        """The day on which this was first asked in this folder."""
        state = self.notes.read()
        with contextlib.suppress(KeyError, TypeError, ValueError):
            return date.fromisoformat(state["first_day"])
        today = datetime.now().astimezone().date()
        self.notes.write(first_day=str(today))
        return today

    def report(self) -> Any:
        """The finished report.

        Raises:
            UserError: This is no run, or it has not got that far, or it is not as it was written.
        """
        path, state = self.folder / "report.json", self.notes.read()
        self.notes.proven(path.name)
        what, fix = "there is no finished run here", "run `unprompt run RECIPE` first"
        if path.is_file() and "writes" in state and "pages" not in state:
            what, fix = "its report is of an earlier run, and this one is not finished", _GO_ON
        elif path.is_file():
            with contextlib.suppress(ValueError, RecursionError):
                report = json.loads(path.read_text("utf-8"))
                if isinstance(report, dict):
                    return report
            what, fix = "report.json can't be read", "delete it and run the recipe again"
        raise UserError(what, where=str(self.folder), fix=fix)
