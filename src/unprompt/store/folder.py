"""A run's folder: what lies where, who is at work in it, which stages are done.

```
recipe.yaml                      the resolved recipe
state.json                       stage -> fingerprint
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
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

from unprompt.messages import UserError, say
from unprompt.recipe import Recipe
from unprompt.store.files import (
    digest_if_there,
    disk_error,
    file_digest,
    fingerprint,
    read_json,
    replacing,
)
from unprompt.store.places import Place, place

_WRITES = {
    "train": ("student", "train_log.json"),
    "report": ("report.html", "report.md", "report.json"),
}
"""Stage -> what it leaves in the run's folder."""


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
        return (self.folder / "recipe.yaml").is_file() and (self.folder / ".lock").is_file()

    def at_work(self) -> bool:
        """Whether a run is at work in it now."""
        try:
            file = (self.folder / ".lock").open()
        except OSError:
            return False
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    @property
    def recipe(self) -> Path:
        """The resolved recipe; where inputs were sampled, the one that reads them from what was
        drawn.
        """
        sampled = self.folder / "resolved.yaml"
        return sampled if sampled.is_file() else self.folder / "recipe.yaml"

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
        path = self.folder / ".lock"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = path.open("w")
        except OSError as error:
            raise disk_error(error, self.folder) from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                what, fix = "another run is at work in this folder", "wait for it, or choose --out"
                raise UserError(what, where=str(self.folder), fix=fix) from None
            yield

    def write_text(self, name: str, text: str) -> None:
        """Write a small file atomically."""
        with replacing(self.folder / name) as partial:
            partial.write_text(text, "utf-8")

    def state(self) -> dict[str, Any]:
        """Stage -> fingerprint of what it was made from; `student`: file -> digest. Nothing, if
        that is lost: the stages are then done again.
        """
        state = read_json(self.folder / "state.json")
        return state if isinstance(state, dict) else {}

    def finished(self, stage: str, made_from: str) -> bool:
        """Whether `stage` was finished from just this, and what it wrote is still there."""
        return self.state().get(stage) == made_from and all(
            (self.folder / name).exists() for name in _WRITES[stage]
        )

    def trained(self, made_from: str) -> bool:
        """Whether the student was trained on just this, and its files are as they were written; if
        not, that is said.
        """
        if not self.finished("train", made_from):
            return False
        digests = self.state().get("student")
        for name, digest in digests.items() if isinstance(digests, dict) else ():
            if digest_if_there(self.folder / name) != digest:
                say(
                    f"BROKEN FILE: {self.folder / name} is not as it was written; the student is"
                    " trained again, from the same lessons"
                )
                return False
        return True

    def finish(self, stage: str, made_from: str) -> None:
        """Note that `stage` is done; of training, what the student's files hold."""
        state = {**self.state(), stage: made_from}
        if stage == "train":
            files = [self.folder / "train_log.json"]
            for pattern in ("adapter_config.json", "*.safetensors"):
                files += sorted(self.student.glob(pattern))
            digests = {str(file.relative_to(self.folder)): file_digest(file) for file in files}
            state["student"] = digests
        self.write_text("state.json", json.dumps(state, indent=1))

    def first_day(self) -> date:
        """The day on which this was first asked in this folder."""
        state = self.state()
        with contextlib.suppress(KeyError, TypeError, ValueError):
            return date.fromisoformat(state["first_day"])
        today = datetime.now().astimezone().date()
        self.write_text("state.json", json.dumps({**state, "first_day": str(today)}, indent=1))
        return today

    def report(self) -> Any:
        """The finished report.

        Raises:
            UserError: This is no run, or it has not got that far.
        """
        try:
            report = json.loads((self.folder / "report.json").read_text("utf-8"))
            if isinstance(report, dict):
                return report
            raise ValueError
        except FileNotFoundError:
            what, fix = "there is no finished run here", "run `unprompt run RECIPE` first"
        except (ValueError, RecursionError):
            what, fix = "report.json can't be read", "delete it and run the recipe again"
        raise UserError(what, where=str(self.folder), fix=fix)
