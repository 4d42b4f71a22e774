"""What a run's folder notes of itself: which stages are done, and what each of its files holds."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unprompt.messages import UserError, say
from unprompt.store.digests import holds, read_signed, seal, signed, touched
from unprompt.store.files import read_json, replacing

COPIES = "copies"
"""Folder of what can't be made again: each such file is kept twice."""
_STATES = ("state.json", f"{COPIES}/state.json")
_ADOPTED = ("*.yaml", "*.parquet", "report.*", "inputs/*", "kl/*", "completions/*/*")
"""Files of an older version's run that are trusted."""
_TRAINED = "train_log.json"
_PART = ".parquet"
_CARD = "student/README.md"
_MEND = "run its recipe again: what is damaged, and nothing else, is made again"


class Notes:
    """A folder's `state.json`: stage -> fingerprint of what it was made from, and `files`: name ->
    its seal. It carries its own digest, and is kept twice.

    Args:
        folder: A run's, or a named round's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self) -> dict[str, Any]:
        """All of it; nothing, if it is not there or both of its copies are broken."""
        found = (read_signed(self.folder / name) for name in _STATES)
        whole = [state for state in found if state and "writes" in state]
        if whole:  # a kill may have come between the two
            return max(whole, key=lambda state: state["writes"])
        old = read_json(self.folder / _STATES[0])
        return _of_an_older_version(old) if isinstance(old, dict) and "digest" not in old else {}

    @property
    def kept(self) -> bool:
        """Whether digests are noted here: older versions noted none."""
        return "writes" in self.read()

    def write(self, **stages: Any) -> None:
        """Note what stages were made from; None: a stage has to be done."""
        self._write(self.read(), stages)

    def add(self, *names: str, copied: bool = False, **stages: Any) -> None:
        """Note what files hold, once they are written: what is not noted is not trusted.

        Args:
            copied: They can't be made again: copies are kept.
            stages: As in `write`.
        """
        state = self.read()
        self._seal(state, names, copied=copied)
        self._write(state, stages)

    def add_student(self, made_from: str) -> None:
        """Note the trained student, and that its training is done."""
        state = self.read()
        for name in list(_student(state)):
            del state["files"][name]
        folder = self.folder / "student"
        names = [f"student/{path.name}" for path in sorted(folder.iterdir()) if path.is_file()]
        weights = [name for name in names if name.endswith(".safetensors")]
        self._seal(state, weights, copied=False)
        others = [name for name in names if name not in (*weights, _CARD)]
        self._seal(state, [*others, _TRAINED], copied=True)
        self._write(state, {"train": made_from})

    def drop(self, *names: str) -> None:
        """Files that are no longer there, or are not to be trusted any more."""
        state = self.read()
        for name in names:
            state.get("files", {}).pop(name, None)
        self._write(state, {})

    def sound(self, name: str) -> bool:
        """Whether a file was noted, and is as it was written."""
        sealed = self.read().get("files", {}).get(name)
        return sealed is not None and holds(self.folder / name, sealed)

    def student_is_sound(self) -> str | None:
        """None; or the name of a file of the student that is not as it was written."""
        files = self.read().get("files", {})
        return next((n for n in _student(files) if not holds(self.folder / n, files[n])), None)

    def proven(self, *names: str) -> None:
        """For those who trust what files hold. Of a run that kept no digests that is said.

        Raises:
            UserError: One is not as it was written.
        """
        state = self.read()
        if "writes" not in state:
            if any((self.folder / name).exists() for name in names):
                _say_unproven(self.folder)
            return
        for name in names:
            path, sealed = self.folder / name, state["files"].get(name)
            if sealed and not holds(path, sealed):
                raise UserError(f"is {_what(path)}", where=str(path), fix=_MEND)

    def prove_student(self) -> None:
        """As `proven`, of all that the student is loaded from."""
        self.proven(*_student(self.read().get("files", {})), "student")

    def names(self, start: str = "") -> list[str]:
        """Files that are noted, of those whose names start so."""
        return [name for name in self.read().get("files", {}) if name.startswith(start)]

    def damaged(self) -> Iterator[Path]:
        """Files that are not as they were written; all of each is read."""
        yield from (self.folder / n for n in _STATES if read_signed(self.folder / n) is None)
        for name, sealed in self.read().get("files", {}).items():
            if not holds(self.folder / name, sealed, whole=True):
                yield self.folder / name

    def mended(self) -> list[str]:
        """Write again what has a copy. Gives the damaged files that have none: they, and nothing
        else, are to be made again. Each is said, here or by the stage that makes it.
        """
        state = self.read()
        if "writes" not in state:
            if state:
                self._adopt(state)
            return []
        cut = [self.folder / name for name in _STATES if read_signed(self.folder / name) is None]
        for path in cut:
            say(f"BROKEN FILE: {path} is {_what(path)}; it is written again from its copy")
        broken, files, changed = list[str](), state["files"], bool(cut)
        for name, sealed in list(files.items()):
            path, other = self.folder / name, self.folder / _copy_of(name)
            if holds(path, sealed):
                if touched(path, sealed):
                    files[name], changed = seal(path), True
            elif _copy_of(name) in files and holds(other, files[_copy_of(name)]):
                say(f"BROKEN FILE: {path} is {_what(path)}; it is written again from its copy")
                _write_copy(other, path)
                files[name], changed = seal(path), True
            else:
                broken.append(name)
                part = is_answers(name) and name.endswith(_PART)
                if name in _student(files) or (part and path.exists()):
                    continue  # the stage says it
                del files[name]
                lost = "and so is its copy: what it said is lost" if _copy_of(name) in files else ""
                then = lost or "it, and nothing else, is made again"
                say(f"BROKEN FILE: {path} is {_what(path)}; {then}")
                changed = True
        if changed:
            self._write(state, {})
        return broken

    def _adopt(self, state: dict[str, Any]) -> None:
        """An older version's run: its files are taken as they are, but for the student, of which it
        noted digests.
        """
        _say_unproven(self.folder)
        found = [path for each in _ADOPTED for path in sorted(self.folder.glob(each))]
        names = [str(path.relative_to(self.folder)) for path in found if path.is_file()]
        students = [f"student/{path.name}" for path in sorted((self.folder / "student").glob("*"))]
        logs = [name for name in (_TRAINED, "train_seconds.json") if (self.folder / name).is_file()]
        state["pages"] = (self.folder / "report.json").is_file() or None
        known = state.setdefault("files", {})
        fresh = [name for name in (*names, *students, *logs) if name not in known]
        copied = [name for name in fresh if name in logs or name in students]
        copied = [n for n in copied if n != _CARD and not n.endswith(".safetensors")]
        self._seal(state, copied, copied=True)
        self._seal(state, [name for name in fresh if name not in copied], copied=False)
        self._write(state, {})

    def _seal(self, state: dict[str, Any], names: Any, *, copied: bool) -> None:
        files = state.setdefault("files", {})
        for name in names:
            files[name] = seal(self.folder / name)
            if copied:
                copy = self.folder / COPIES / name
                _write_copy(self.folder / name, copy)
                files[f"{COPIES}/{name}"] = seal(copy)

    def _write(self, state: dict[str, Any], stages: dict[str, Any]) -> None:
        state |= stages
        state = {key: value for key, value in state.items() if value is not None}
        state |= {"writes": state.get("writes", 0) + 1, "files": state.get("files", {})}
        for name in _STATES:
            with replacing(self.folder / name) as partial:
                partial.write_text(signed(state), "utf-8")


def _student(files: dict[str, Any]) -> Iterator[str]:
    """What a training leaves and nothing but another training makes."""
    yield from (n for n in files if n == _TRAINED or (n.startswith("student/") and n != _CARD))


def is_answers(name: str) -> bool:
    """Whether a file is of a store of answers, in the run's folder or elsewhere."""
    return name.startswith(("completions/", f"{COPIES}/completions/", "/"))


def _copy_of(name: str) -> str:
    """The other one of the two."""
    copy = f"{COPIES}/"
    return name.removeprefix(copy) if name.startswith(copy) else copy + name


def _write_copy(source: Path, target: Path) -> None:
    with replacing(target) as partial:
        shutil.copyfile(source, partial)


def _what(path: Path) -> str:
    return "not as it was written" if path.exists() else "gone"


def _of_an_older_version(state: dict[str, Any]) -> dict[str, Any]:
    """It noted digests of the student alone."""
    kept = state.pop("student", None)
    named = kept.items() if isinstance(kept, dict) else ()
    seals = {n: [digest, None, None, None] for n, digest in named if isinstance(digest, str)}
    return state | {"files": seals} if seals else state


@functools.cache
def _say_unproven(folder: Path) -> None:
    say(
        f"note: an older version made {folder} and kept no digests: its files are taken as they are"
    )
