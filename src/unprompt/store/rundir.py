"""Files of a run: every write is atomic, every stage says what it was made from.

```
recipe.yaml                      the resolved recipe
state.json                       stage -> fingerprint
inputs/                          sampled inputs
completions/KEY/part-*.parquet   what models answered
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
import errno
import fcntl
import hashlib
import importlib.util
import io
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unprompt.messages import UserError, say
from unprompt.records import Completion, Grade, Lesson, SoftLabels

if TYPE_CHECKING:
    from upath import UPath

    Place = Path | UPath
    """A folder or file of this machine, or one behind an address that fsspec reads."""

FORMAT = 3
"""Version of the files in a run folder; part of every fingerprint."""


def fingerprint(*parts: Any, digits: int = 12) -> str:
    """Hex digits that change when any part does. Parts are anything JSON can write, or has a
    `repr`. Of 100 million with 12 digits some 18 are the same.
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()[
        :digits
    ]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """What a file of ours holds; None, if it is not there or was cut: it is then made again, and
    that is said.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        say(f"BROKEN FILE: {path} can't be read; it is made again")
        return None


def _digest(path: Path) -> str:
    return file_digest(path) if path.is_file() else ""


def path_digest(path: Path) -> str:
    """A file's digest; of a folder, its files' names, sizes and times; nothing of what is no
    path.
    """
    try:
        if path.is_file():
            return file_digest(path)
    except OSError:  # a text too long for a path
        return ""
    listing = [
        (str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns)
        for file in sorted(path.rglob("*"))
        if file.is_file()
    ]
    return fingerprint(listing)


def module_digest(dotted: str, folder: str) -> str:
    """Digest of the source of `package.module:function`, found beside the recipe (`folder`) or
    among importable modules, without importing it.
    """
    name = dotted.partition(":")[0]
    local = Path(folder or "-", *name.split(".")).with_suffix(".py")
    if local.is_file():
        return file_digest(local)
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return "missing"
    return (
        file_digest(Path(spec.origin))
        if spec and spec.origin and Path(spec.origin).is_file()
        else "missing"
    )


def place(text: str, where: str) -> Place:
    """A folder, or what an address like `s3://bucket/folder` stands for.

    Raises:
        UserError: No such kind of address, or the package that reads it is missing.
    """
    if "://" not in text:
        return Path(text)
    try:
        from upath import UPath
    except ImportError:
        raise UserError(
            "an address needs the package universal_pathlib",
            where=where,
            fix="pip install 'unprompt[ray]'",
        ) from None
    try:
        found = UPath(text, use_listings_cache=False)  # others write there, too
        return Path(found.path) if found.protocol == "file" else found  # made atomic by `replacing`
    except (
        ImportError,
        ValueError,
    ) as error:  # fsspec names the package: "Install s3fs to access S3"
        raise UserError(
            f"{text}: {error}", where=where, fix="install what reads it, or check the address"
        ) from None


def put(path: Place, data: bytes) -> None:
    """Write a file whole or not at all. An object store shows an object only once it is all there,
    so there it is simply put.
    """
    if isinstance(path, Path):
        with replacing(path) as partial:
            partial.write_bytes(data)
    else:
        _reached(path, path.write_bytes, data)


def move(path: Place, suffix: str) -> Place:
    """Give a file another suffix; gives its new path."""
    to = path.with_suffix(suffix)
    if isinstance(path, Path):
        with writing(path):
            path.replace(str(to))
    else:
        _reached(path, path.rename, to)
    return to


def _reached(path: Place, verb: Callable[..., Any], *given: Any) -> Any:
    """What `verb` gives; whatever error a kind of store has of its own (no bucket, no key, no
    network), in one line.
    """
    try:
        return verb(*given)
    except Exception as error:
        raise UserError(
            f"can't be reached: {_first_line(error)}",
            where=str(path),
            fix="check the address and your rights there",
        ) from None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it at the end: readers see the old file or the
    new one, never half of one.
    """
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
        if not any(
            sign in str(error) for sign in ("os error", "inline_container", "iostream error")
        ):
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
        errno.EEXIST: (
            "there is a file where a folder should be: remove it, or choose another folder with"
            " --out"
        ),
        errno.ENOTDIR: (
            "there is a file where a folder should be: remove it, or choose another folder with"
            " --out"
        ),
    }
    return UserError(
        f"can't be written: {error.strerror or error}",
        where=str(path),
        fix=fixes.get(error.errno or 0, "check the disk and run again"),
    )


_WRITES = {
    "train": ("student", "train_log.json"),
    "report": ("report.html", "report.md", "report.json"),
}
"""Stage -> what it leaves in the run's folder."""


class RunDir:
    """A run's folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

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
                raise UserError(
                    "another run is at work in this folder",
                    where=str(self.folder),
                    fix="wait for it, or choose --out",
                ) from None
            yield

    def write_text(self, name: str, text: str) -> None:
        """Write a small file atomically."""
        with replacing(self.folder / name) as partial:
            partial.write_text(text, "utf-8")

    def state(self) -> dict[str, Any]:
        """Stage -> fingerprint of what it was made from; `student`: file -> digest. Nothing, if
        that is lost: the stages are then done again.
        """
        found = read_json(self.folder / "state.json")
        return found if isinstance(found, dict) else {}

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
        broken = [
            name
            for name, digest in self.state().get("student", {}).items()
            if _digest(self.folder / name) != digest
        ]
        if broken:
            say(
                f"BROKEN FILE: {self.folder / broken[0]} is not as it was written; the student is"
                " trained again, from the same lessons"
            )
        return not broken

    def finish(self, stage: str, made_from: str) -> None:
        """Note that `stage` is done; of training, what the student's files hold."""
        state = {**self.state(), stage: made_from}
        if stage == "train":
            paths = [
                self.folder / "train_log.json",
                *sorted(self.student.glob("adapter_config.json")),
                *sorted(self.student.glob("*.safetensors")),
            ]
            state["student"] = {
                str(path.relative_to(self.folder)): file_digest(path) for path in paths
            }
        self.write_text("state.json", json.dumps(state, indent=1))

    def report(self) -> dict[str, Any]:
        """The finished report.

        Raises:
            UserError: This is no run, or it has not got that far.
        """
        try:
            return json.loads((self.folder / "report.json").read_text("utf-8"))
        except FileNotFoundError:
            raise UserError(
                "there is no finished run here",
                where=str(self.folder),
                fix="run `unprompt run RECIPE` first",
            ) from None
        except ValueError:
            raise UserError(
                "report.json can't be read",
                where=str(self.folder),
                fix="delete it and run the recipe again",
            ) from None


# -- records <-> Parquet ---------------------------------------------------------------------------

_LABELS = {
    "label_ids": pa.list_(pa.int32()),
    "label_probs": pa.list_(pa.float32()),
    "label_sizes": pa.list_(pa.int32()),
    "teacher_nll": pa.list_(pa.float32()),
}
_COMPLETION = pa.schema(
    {
        "example_id": pa.string(),
        "context": pa.string(),
        "prompt": pa.string(),
        "text": pa.string(),
        "token_ids": pa.list_(pa.int32()),
        "stop": pa.string(),
        "prompt_tokens": pa.int32(),
        **_LABELS,
    }
)
LESSON = pa.schema(
    {
        "example_id": pa.string(),
        "context": pa.string(),
        "input_ids": pa.list_(pa.int32()),
        "prompt_length": pa.int32(),
        "weights": pa.list_(pa.float32()),
        **_LABELS,
    }
)


_GRADE = pa.schema(
    {f.name: pa.int32() if f.name.endswith("_tokens") else pa.string() for f in fields(Grade)}
)

_SPLIT = {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in ("label_ids", "teacher_nll")}
"""Columns whose bytes of one rank are written together, which packs better than a dictionary of
their values."""
_GROUP = 4096
"""Rows that are written, and can be read, together."""


def _label_columns(labels: SoftLabels | None) -> dict[str, Any]:
    """Ids are written as differences from the id before of the same token: small numbers, which
    pack well.
    """
    if labels is None:
        return dict.fromkeys(_LABELS)
    ids, sizes = labels.ids.copy(), labels.offsets[1:] - labels.offsets[:-1]
    first = labels.offsets[:-1][sizes > 0]
    ids[1:] -= labels.ids[:-1]
    ids[first] = labels.ids[first]
    return {
        "label_ids": ids,
        "label_probs": labels.probs,
        "label_sizes": sizes,
        "teacher_nll": labels.teacher_nll,
    }


def _labels(row: dict[str, Any]) -> SoftLabels | None:
    if row["label_ids"] is None:
        return None
    sizes, sums = row["label_sizes"], np.zeros(len(row["label_ids"]) + 1, np.int64)
    offsets = np.zeros(len(sizes) + 1, np.int32)
    sizes.cumsum(out=offsets[1:])
    row["label_ids"].cumsum(out=sums[1:])
    ids = sums[1:] - sums[offsets[:-1]].repeat(sizes)
    return SoftLabels(ids.astype(np.int32), row["label_probs"], offsets, row["teacher_nll"])


def _write(path: Place, rows: list[dict[str, Any]], schema: pa.Schema | None) -> None:
    _write_tables(path, iter([pa.Table.from_pylist(rows, schema=schema)]))


def _write_tables(path: Place, tables: Iterator[pa.Table]) -> None:
    """Write tables of the same columns, one after the other, each a row group."""
    first, whole = next(tables), io.BytesIO()
    here = isinstance(path, Path)
    with (
        replacing(path) if here else contextlib.nullcontext(whole) as partial,
        _writer(partial, first) as writer,
    ):
        for table in itertools.chain([first], tables):
            writer.write_table(table)
    if not here:
        put(path, whole.getvalue())


def _writer(path: Path | io.BytesIO, table: pa.Table) -> pq.ParquetWriter:
    packed: dict[str, Any] = {}
    if "label_ids" in table.column_names:
        packed = {
            "use_dictionary": [
                name for name in table.column_names if f"{name}.list.element" not in _SPLIT
            ],
            "column_encoding": _SPLIT,
        }
        packed["use_dictionary"] += [
            "label_probs.list.element",
            "label_sizes.list.element",
            "token_ids.list.element",
        ]
    return pq.ParquetWriter(
        path, table.schema, compression="zstd", write_page_checksum=True, **packed
    )


class Broken(UserError):
    """A file of records that was cut, or of which a bit has changed."""


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]


@contextlib.contextmanager
def _readable(path: Place) -> Iterator[None]:
    """A file that was cut, or of which a bit has changed, is refused.

    Raises:
        Broken: It is not what was written.
    """
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        if (
            isinstance(error, OSError) and error.errno is not None
        ):  # not what it holds, but whether it can be had
            raise UserError(
                f"can't be read: {error.strerror or error}",
                where=str(path),
                fix="check the disk and run again",
            ) from None
        raise Broken(
            f"can't be read: {_first_line(error)}",
            where=str(path),
            fix="delete it and report.json, and run again",
        ) from None


def _read(path: Place, schema: pa.Schema | None) -> list[dict[str, Any]]:
    """Rows; labels as arrays."""
    return _row_values(_table(path, schema))


def _table(path: Place, schema: pa.Schema | None) -> pa.Table:
    """All columns of a file in one chunk, its checksums held."""
    with (
        _readable(path),
        (
            contextlib.nullcontext(path)
            if isinstance(path, Path)
            else _reached(path, path.open, "rb")
        ) as file,
    ):
        table = pq.read_table(file, page_checksum_verification=True).combine_chunks()
        table.validate(full=True)
        if schema is not None:
            _refuse_other_columns(table.schema, schema)
    return table


def _refuse_other_columns(found: pa.Schema, schema: pa.Schema) -> None:
    if found.names != schema.names or found.types != schema.types:
        raise ValueError("its columns are not those that were written")


def _row_values(table: pa.Table) -> list[dict[str, Any]]:
    """Rows of a table in one chunk; labels as arrays."""
    arrays = [name for name in _LABELS if name in table.column_names]
    rows = table.drop_columns(arrays).to_pylist()
    for name in arrays if rows else ():
        column = table[name].chunk(0)
        there, ends, values = (
            column.is_valid().to_pylist(),
            column.offsets.to_numpy(),
            column.values.to_numpy(),
        )
        for row, filled, start, stop in zip(rows, there, ends[:-1], ends[1:], strict=True):
            row[name] = values[start:stop] if filled else None
    return rows


def write_completions(path: Place, completions: Sequence[tuple[str, Completion]]) -> None:
    """Write one part: pairs of the prompt's fingerprint and its completion."""
    _write(
        path,
        [
            {
                "example_id": c.example_id,
                "context": c.context,
                "prompt": prompt,
                "text": c.text,
                "token_ids": c.token_ids,
                "stop": c.stop,
                "prompt_tokens": c.prompt_tokens,
                **_label_columns(c.labels),
            }
            for prompt, c in completions
        ],
        _COMPLETION,
    )


def parts(store: Place) -> list[Place]:
    """The parts of a store, in a fixed order."""
    return sorted(
        _reached(store, lambda: list(store.glob("part-*.parquet"))), key=lambda part: part.name
    )


def part_keys(path: Place) -> list[str]:
    """Fingerprints of the prompts that a part answers. The whole part is read and held against its
    checksums, and only these are kept.

    Raises:
        Broken: It is not what was written.
    """
    return _table(path, _COMPLETION)["prompt"].to_pylist()


def read_part(path: Place) -> list[tuple[str, Completion]]:
    """One part: pairs of the prompt's fingerprint and its completion."""
    return [
        (
            row["prompt"],
            Completion(
                row["example_id"],
                row["context"],
                row["text"],
                tuple(row["token_ids"]),
                row["stop"],
                row["prompt_tokens"],
                _labels(row),
            ),
        )
        for row in _read(path, _COMPLETION)
    ]


def read_completions(store: Place) -> dict[str, Completion]:
    """All parts of a store: the prompt's fingerprint -> its completion."""
    return {key: completion for part in parts(store) for key, completion in read_part(part)}


def write_lessons(path: Path, lessons: Iterable[Lesson]) -> None:
    """Write the transfer set; lessons are taken as they come, and few are in memory at a time."""
    rest = iter(lessons)
    groups = iter(lambda: list(itertools.islice(rest, _GROUP)), [])
    first = [_lesson_table(group) for group in itertools.islice(groups, 1)] or [
        LESSON.empty_table()
    ]
    _write_tables(path, itertools.chain(first, map(_lesson_table, groups)))


def _lesson_table(lessons: list[Lesson]) -> pa.Table:
    columns: dict[str, list[Any]] = {
        "input_ids": [np.asarray(x.input_ids, np.int32) for x in lessons],
        "weights": [x.weights for x in lessons],
    }
    labels = [_label_columns(x.labels) for x in lessons]
    columns |= {name: [each[name] for each in labels] for name in _LABELS}
    arrays: dict[str, Any] = {
        name: [getattr(x, name) for x in lessons]
        for name in ("example_id", "context", "prompt_length")
    }
    for name, parts in columns.items():
        ends = np.cumsum([0, *map(len, parts)]).astype(np.int32)
        arrays[name] = pa.ListArray.from_arrays(
            ends, pa.array(np.concatenate(parts), LESSON.field(name).type.value_type)
        )
    return pa.table(arrays, schema=LESSON)


def read_lessons(path: Path) -> list[Lesson]:
    """Read the transfer set."""
    return [_lesson(row) for row in _read(path, LESSON)]


def lesson_batches(path: Path, size: int) -> Iterator[pa.RecordBatch]:
    """The rows of a transfer set, `size` at a time (a divisor of 4096), the last ones fewer.

    Raises:
        UserError: The file is broken.
    """
    with _readable(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        _refuse_other_columns(file.schema_arrow, LESSON)
        for number in range(file.num_row_groups):
            table = file.read_row_group(number).combine_chunks()
            table.validate(full=True)
            for start in range(0, len(table), size):
                yield from table.slice(start, size).to_batches()


def lesson_at(batch: pa.RecordBatch, row: int) -> Lesson:
    """The lesson in a row of such a batch."""
    found: dict[str, Any] = {
        name: column[row] for name, column in zip(LESSON.names, batch.columns, strict=True)
    }
    arrays = {
        name: found.pop(name).values.to_numpy() for name in ("input_ids", "weights", *_LABELS)
    }
    plain = {name: value.as_py() for name, value in found.items()}
    return _lesson({**plain, **arrays, "input_ids": arrays["input_ids"].tolist()})


def _lesson(row: dict[str, Any]) -> Lesson:
    labels = _labels(row)
    assert labels is not None
    weights = np.asarray(row["weights"], np.float32)
    return Lesson(
        row["example_id"],
        row["context"],
        tuple(row["input_ids"]),
        row["prompt_length"],
        weights,
        labels,
    )


def write_grades(path: Path, grades: Sequence[Grade]) -> None:
    """Write all grades; targets and metric values as JSON text, since they may be anything."""
    rows = [
        {
            **asdict(g),
            "target": json.dumps(g.target, ensure_ascii=False, default=str),
            "metrics": json.dumps(g.metrics),
        }
        for g in grades
    ]
    _write(path, rows, _GRADE)


def read_grades(path: Path) -> list[Grade]:
    """Read all grades."""
    return [
        Grade(**{**row, "target": json.loads(row["target"]), "metrics": json.loads(row["metrics"])})
        for row in _read(path, _GRADE)
    ]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows of plain values; nothing, if there are none."""
    if rows:
        _write(path, rows, None)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read such rows."""
    return _read(path, None) if path.is_file() else []
