"""Files of a run: every write is atomic, every stage says what it was made from.

```
recipe.yaml   the resolved recipe          completions/KEY/part-*.parquet   what models answered
state.json    stage -> fingerprint         lessons.parquet, grades.parquet, examples.parquet  records
checkpoints/  while training               student/                         adapter or weights, tokenizer
inputs/       sampled inputs               rounds/NAME/                     lessons, log and student of a named round
report.html, .json, .md                     transfer.jsonl                   a hand-over
```
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unprompt.errors import UserError
from unprompt.records import Completion, Grade, Lesson, SoftLabels

FORMAT = 2
"""Version of the files in a run folder; part of every fingerprint."""


def fingerprint(*parts: Any) -> str:
    """12 hex digits that change when any part does. Parts are anything JSON can write, or has a `repr`."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()[:12]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def path_digest(path: Path) -> str:
    """A file's digest; of a folder, its files' names, sizes and times; nothing of what is no path."""
    try:
        if path.is_file():
            return file_digest(path)
    except OSError:  # a text too long for a path
        return ""
    listing = [
        (str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(path.rglob("*")) if file.is_file()
    ]
    return fingerprint(listing)


def module_digest(dotted: str, folder: str) -> str:
    """Digest of the source of `package.module:function`, found beside the recipe (`folder`) or among importable modules, without importing it."""
    name = dotted.partition(":")[0]
    local = Path(folder or "-", *name.split(".")).with_suffix(".py")
    if local.is_file():
        return file_digest(local)
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return "missing"
    return file_digest(Path(spec.origin)) if spec and spec.origin and Path(spec.origin).is_file() else "missing"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it at the end: readers see the old file or the new one, never half of one."""
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if partial.is_dir():
            shutil.rmtree(partial)
        yield partial
        if partial.is_file():
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            shutil.rmtree(path)
        partial.replace(path)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """A disk's refusal as a `UserError`; safetensors and torch raise errors of their own for it."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise disk_error(error, path) from None
    except Exception as error:
        if not any(sign in str(error) for sign in ("os error", "inline_container", "iostream error")):
            raise
        raise disk_error(OSError(errno.ENOSPC, "a file could not be written whole"), path) from None


def disk_error(error: OSError, path: Path) -> UserError:
    """A disk's refusal in one line."""
    fixes = {
        errno.ENOSPC: "free some space and run again: what is finished is kept",
        errno.EDQUOT: "free some space and run again: what is finished is kept",
        errno.EROFS: "choose another folder with --out",
        errno.EACCES: "choose another folder with --out",
        errno.EPERM: "choose another folder with --out",
        errno.EEXIST: "there is a file where a folder should be: remove it, or choose another folder with --out",
        errno.ENOTDIR: "there is a file where a folder should be: remove it, or choose another folder with --out",
    }
    return UserError(
        f"can't be written: {error.strerror or error}", where=str(path), fix=fixes.get(error.errno or 0, "check the disk and run again")
    )


_WRITES = {"train": ("student", "train_log.json"), "report": ("report.html", "report.md", "report.json")}
"""Stage -> what it leaves in the run's folder."""


class RunDir:
    """A run's folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @property
    def recipe(self) -> Path:
        """The resolved recipe; where inputs were sampled, the one that reads them from what was drawn."""
        sampled = self.folder / "resolved.yaml"
        return sampled if sampled.is_file() else self.folder / "recipe.yaml"

    def round(self, name: str) -> RunDir:
        """Folder of a round: its lessons, log and student. The only round of a recipe without rounds (`after`) has the run's own folder."""
        return self if name == "after" else RunDir(self.folder / "rounds" / name)

    @property
    def completions(self) -> Path:
        """Folder of all completion stores."""
        return self.folder / "completions"

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
                raise UserError(
                    "another run is at work in this folder", where=str(self.folder), fix="wait for it, or choose --out"
                ) from None
            yield

    def write_text(self, name: str, text: str) -> None:
        """Write a small file atomically."""
        with replacing(self.folder / name) as partial:
            partial.write_text(text, "utf-8")

    def state(self) -> dict[str, str]:
        """Stage -> fingerprint of what it was made from."""
        try:
            return json.loads((self.folder / "state.json").read_text("utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return {}

    def finished(self, stage: str, made_from: str) -> bool:
        """Whether `stage` was finished from just this, and what it wrote is still there."""
        return self.state().get(stage) == made_from and all((self.folder / name).exists() for name in _WRITES[stage])

    def finish(self, stage: str, made_from: str) -> None:
        """Note that `stage` is done."""
        self.write_text("state.json", json.dumps({**self.state(), stage: made_from}, indent=1))

    def report(self) -> dict[str, Any]:
        """The finished report.

        Raises:
            UserError: This is no run, or it has not got that far.
        """
        try:
            return json.loads((self.folder / "report.json").read_text("utf-8"))
        except FileNotFoundError:
            raise UserError("there is no finished run here", where=str(self.folder), fix="run `unprompt run RECIPE` first") from None


# -- records <-> Parquet ----------------------------------------------------------------------------------------------

_LABELS = {
    "label_ids": pa.list_(pa.int32()), "label_probs": pa.list_(pa.float32()), "label_sizes": pa.list_(pa.int32()),
    "teacher_nll": pa.list_(pa.float32()),
}  # fmt: skip
_COMPLETION = pa.schema({
    "example_id": pa.string(), "context": pa.string(), "prompt": pa.string(), "text": pa.string(), "token_ids": pa.list_(pa.int32()),
    "stop": pa.string(), "prompt_tokens": pa.int32(), **_LABELS,
})  # fmt: skip
_LESSON = pa.schema({
    "example_id": pa.string(), "context": pa.string(), "input_ids": pa.list_(pa.int32()), "prompt_length": pa.int32(),
    "weights": pa.list_(pa.float32()), **_LABELS,
})  # fmt: skip


_GRADE = pa.schema({f.name: pa.int32() if f.name.endswith("_tokens") else pa.string() for f in fields(Grade)})

_SPLIT = {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in ("label_ids", "teacher_nll")}
"""Columns whose bytes of one rank are written together, which packs better than a dictionary of their values."""


def _label_columns(labels: SoftLabels | None) -> dict[str, Any]:
    """Ids are written as differences from the id before of the same token: small numbers, which pack well."""
    if labels is None:
        return dict.fromkeys(_LABELS)
    ids = np.diff(labels.ids, prepend=np.int32(0))
    first = labels.offsets[:-1][np.diff(labels.offsets) > 0]
    ids[first] = labels.ids[first]
    return {"label_ids": ids, "label_probs": labels.probs, "label_sizes": np.diff(labels.offsets), "teacher_nll": labels.teacher_nll}


def _labels(row: dict[str, Any]) -> SoftLabels | None:
    if row["label_ids"] is None:
        return None
    offsets = np.concatenate([[0], np.cumsum(row["label_sizes"])]).astype(np.int32)
    sums = np.concatenate([[0], np.cumsum(row["label_ids"], dtype=np.int64)])
    ids = sums[1:] - np.repeat(sums[offsets[:-1]], np.diff(offsets))
    return SoftLabels(ids.astype(np.int32), row["label_probs"], offsets, row["teacher_nll"])


def _write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema | None) -> None:
    table = pa.Table.from_pylist(rows, schema=schema)
    packed: dict[str, Any] = {}
    if "label_ids" in table.column_names:
        packed = {
            "use_dictionary": [name for name in table.column_names if f"{name}.list.element" not in _SPLIT],
            "column_encoding": _SPLIT,
        }
        packed["use_dictionary"] += ["label_probs.list.element", "label_sizes.list.element", "token_ids.list.element"]
    with replacing(path) as partial:
        pq.write_table(table, partial, compression="zstd", write_page_checksum=True, **packed)


def _read(path: Path, schema: pa.Schema | None) -> list[dict[str, Any]]:
    """Rows; labels as arrays. A file that was cut, or of which a bit has changed, is refused."""
    try:
        return _rows(path, schema)
    except (pa.ArrowException, OSError, ValueError) as error:
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"can't be read: {said[:200]}", where=str(path), fix="delete this file and run again") from None


def _rows(path: Path, schema: pa.Schema | None) -> list[dict[str, Any]]:
    table = pq.read_table(path, page_checksum_verification=True).combine_chunks()
    table.validate(full=True)
    if schema is not None and (table.schema.names != schema.names or table.schema.types != schema.types):
        raise ValueError("its columns are not those that were written")
    arrays = [name for name in _LABELS if name in table.column_names]
    rows = table.drop_columns(arrays).to_pylist()
    for name in arrays if rows else ():
        column = table[name].chunk(0)
        there, ends, values = column.is_valid().to_pylist(), column.offsets.to_numpy(), column.values.to_numpy()
        for row, filled, start, stop in zip(rows, there, ends[:-1], ends[1:], strict=True):
            row[name] = values[start:stop] if filled else None
    return rows


def write_completions(path: Path, completions: Sequence[tuple[str, Completion]]) -> None:
    """Write one part: pairs of the prompt's fingerprint and its completion."""
    _write(
        path,
        [
            {
                "example_id": c.example_id, "context": c.context, "prompt": prompt, "text": c.text, "token_ids": c.token_ids, "stop": c.stop,
                "prompt_tokens": c.prompt_tokens, **_label_columns(c.labels),
            }
            for prompt, c in completions
        ],
        _COMPLETION,
    )  # fmt: skip


def read_completions(store: Path) -> dict[str, Completion]:
    """All parts of a store: the prompt's fingerprint -> its completion."""
    found: dict[str, Completion] = {}
    for part in sorted(store.glob("part-*.parquet")):
        for row in _read(part, _COMPLETION):
            found[row["prompt"]] = Completion(
                row["example_id"], row["context"], row["text"], tuple(row["token_ids"]), row["stop"], row["prompt_tokens"], _labels(row)
            )
    return found


def write_lessons(path: Path, lessons: Sequence[Lesson]) -> None:
    """Write the transfer set."""
    rows = [
        {
            "example_id": x.example_id, "context": x.context, "input_ids": x.input_ids, "prompt_length": x.prompt_length, "weights": x.weights,
            **_label_columns(x.labels),
        }
        for x in lessons
    ]  # fmt: skip
    _write(path, rows, _LESSON)


def read_lessons(path: Path) -> list[Lesson]:
    """Read the transfer set."""
    found = []
    for row in _read(path, _LESSON):
        labels = _labels(row)
        assert labels is not None
        weights = np.asarray(row["weights"], np.float32)
        found.append(Lesson(row["example_id"], row["context"], tuple(row["input_ids"]), row["prompt_length"], weights, labels))
    return found


def write_grades(path: Path, grades: Sequence[Grade]) -> None:
    """Write all grades; targets and metric values as JSON text, since they may be anything."""
    rows = [
        {**asdict(g), "target": json.dumps(g.target, ensure_ascii=False, default=str), "metrics": json.dumps(g.metrics)} for g in grades
    ]
    _write(path, rows, _GRADE)


def read_grades(path: Path) -> list[Grade]:
    """Read all grades."""
    return [Grade(**{**row, "target": json.loads(row["target"]), "metrics": json.loads(row["metrics"])}) for row in _read(path, _GRADE)]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows of plain values; nothing, if there are none."""
    if rows:
        _write(path, rows, None)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read such rows."""
    return _read(path, None) if path.is_file() else []
