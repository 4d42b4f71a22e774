"""Records as columns of Parquet files, and back."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unprompt.messages import UserError
from unprompt.records import Completion, Grade, Lesson, SoftLabels
from unprompt.store.files import first_line, replacing
from unprompt.store.places import Place, put, reached

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
        "loss_weight": pa.float64(),
        **_LABELS,
    }
)
_LESSON_BEFORE = pa.schema([column for column in LESSON if column.name != "loss_weight"])
"""Of runs in which no lesson had one."""
_GRADE = pa.schema(
    {
        f.name: pa.bool_() if f.type == "bool" else pa.int32() if "int" in f.type else pa.string()
        for f in fields(Grade)
        if isinstance(f.type, str)
    }
)
_GRADE_LATER = ("shots", "draw", "cut")
"""Columns that older runs lack. Those without `shots` wrote a system behind shots as `after@4/2`: 4
shots, second draw."""
_SPLIT = ("label_ids", "teacher_nll")
"""Columns whose bytes of one rank are written together, which packs better than a dictionary of
their values."""
_NAMED = re.compile(r"part-.+-([0-9a-f]{16})\.parquet")
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
    """The labels of a row, which loses their columns."""
    differences, probs, sizes, teacher_nll = (row.pop(name) for name in _LABELS)
    if differences is None:
        return None
    offsets = np.concatenate([[0], sizes.cumsum()]).astype(np.int32)
    sums = np.concatenate([[0], differences.cumsum(dtype=np.int64)])
    ids = sums[1:] - sums[offsets[:-1]].repeat(sizes)
    return SoftLabels(ids.astype(np.int32), probs, offsets, teacher_nll)


def _write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema | None) -> None:
    _write_tables(path, iter([pa.Table.from_pylist(rows, schema=schema)]))


def _write_tables(path: Path, tables: Iterator[pa.Table]) -> None:
    """Write tables of the same columns, one after the other, each a row group."""
    first = next(tables)
    with replacing(path) as partial, _writer(partial, first) as writer:
        for table in itertools.chain([first], tables):
            writer.write_table(table)


def _writer(path: Path | io.BytesIO, table: pa.Table) -> pq.ParquetWriter:
    packed: dict[str, Any] = {}
    if "label_ids" in table.column_names:
        lists = [f"{name}.list.element" for name in ("label_probs", "label_sizes", "token_ids")]
        others = [name for name in table.column_names if name not in _SPLIT]
        split = {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in _SPLIT}
        packed = {"use_dictionary": [*others, *lists], "column_encoding": split}
    options: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True, **packed}
    return pq.ParquetWriter(path, table.schema, **options)


class Broken(UserError):
    """A file of records that was cut, or of which a bit has changed."""


@contextlib.contextmanager
def _readable(path: Place) -> Iterator[None]:
    """A file that was cut, or of which a bit has changed, is refused.

    Raises:
        Broken: It is not what was written.
    """
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            # not what it holds, but whether it can be had
            what, fix = f"can't be read: {error.strerror or error}", "check the disk and run again"
            raise UserError(what, where=str(path), fix=fix) from None
        fix = "delete it and report.json, and run again"
        raise Broken(f"can't be read: {first_line(error)}", where=str(path), fix=fix) from None


def _read(path: Place, schema: pa.Schema | None) -> list[dict[str, Any]]:
    """Rows; labels as arrays."""
    return _row_values(_table(path, schema))


def _table(path: Place, schema: pa.Schema | None) -> pa.Table:
    """All columns of a file in one chunk, its checksums held."""
    with _readable(path):
        file = _whole_part(path) if path.name.startswith("part-") else path
        table = pq.read_table(file, page_checksum_verification=True).combine_chunks()
        table.validate(full=True)
        _refuse_other_columns(table.schema, schema or table.schema)
    return table


def _whole_part(path: Place) -> pa.BufferReader:
    """The bytes of a part, held against the digest in its name (older parts have none: of them,
    Parquet's checksums find what is broken in the pages alone).
    """
    data = path.read_bytes() if isinstance(path, Path) else reached(path, path.read_bytes)
    named = _NAMED.fullmatch(path.name)
    if named and named[1] != _digest(data):
        raise ValueError("it is not what was written")
    return pa.BufferReader(data)


def _refuse_other_columns(there: pa.Schema, schema: pa.Schema) -> None:
    if there.names != schema.names or there.types != schema.types:
        raise ValueError("its columns are not those that were written")


def _row_values(table: pa.Table) -> list[dict[str, Any]]:
    """Rows of a table in one chunk; labels as arrays."""
    arrays = [name for name in _LABELS if name in table.column_names]
    rows = table.drop_columns(arrays).to_pylist()
    for name in arrays if rows else ():
        column = table[name].chunk(0)
        ends, values = column.offsets.to_numpy(), column.values.to_numpy()
        for number, filled in enumerate(column.is_valid().to_pylist()):
            rows[number][name] = values[ends[number] : ends[number + 1]] if filled else None
    return rows


def _completion_rows(completions: Sequence[tuple[str, Completion]]) -> list[dict[str, Any]]:
    plain = [field.name for field in fields(Completion) if field.name != "labels"]
    return [
        {name: getattr(c, name) for name in plain} | {"prompt": prompt, **_label_columns(c.labels)}
        for prompt, c in completions
    ]


def write_completions(path: Place, completions: Sequence[tuple[str, Completion]]) -> str:
    """Write one part: pairs of the prompt's fingerprint and its completion. Gives the file's name:
    that of `path`, and a digest of all that the file holds.
    """
    whole = io.BytesIO()
    table = pa.Table.from_pylist(_completion_rows(completions), schema=_COMPLETION)
    with _writer(whole, table) as writer:
        writer.write_table(table)
    name = f"{path.stem}-{_digest(whole.getvalue())}{path.suffix}"
    put(path.with_name(name), whole.getvalue())
    return name


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def to_bytes(completions: Sequence[tuple[str, Completion]]) -> bytes:
    """Such pairs, to be kept until their part is whole."""
    rows = _completion_rows(completions)
    return pa.RecordBatch.from_pylist(rows, schema=_COMPLETION).serialize().to_pybytes()


def from_bytes(data: bytes) -> list[tuple[str, Completion]]:
    """The pairs again."""
    batch = pa.ipc.read_record_batch(pa.py_buffer(data), _COMPLETION)
    rows = _row_values(pa.Table.from_batches([batch]))
    return [(row.pop("prompt"), _completion(row)) for row in rows]


def part_files(store: Place) -> list[Place]:
    """The parts of a store, in a fixed order."""
    parts = reached(store, lambda: list(store.glob("part-*.parquet")))
    return sorted(parts, key=lambda part: part.name)


def part_keys(path: Place) -> list[str]:
    """Fingerprints of the prompts that a part answers. The whole part is read and held against its
    checksums, and only these are kept.

    Raises:
        Broken: It is not what was written.
    """
    return _table(path, _COMPLETION)["prompt"].to_pylist()


def part_tokens(path: Place) -> tuple[int, int]:
    """Tokens of a part's prompts and answers.

    Raises:
        Broken: It is not what was written.
    """
    with _readable(path):
        table = pq.read_table(path, columns=["prompt_tokens", "token_ids"]).combine_chunks()
    ids = table["token_ids"].chunks
    return sum(table["prompt_tokens"].to_pylist()), sum(len(each.flatten()) for each in ids)


def read_part(path: Place) -> list[tuple[str, Completion]]:
    """One part: pairs of the prompt's fingerprint and its completion."""
    return [(row.pop("prompt"), _completion(row)) for row in _read(path, _COMPLETION)]


def _completion(row: dict[str, Any]) -> Completion:
    labels = _labels(row)
    return Completion(**{**row, "token_ids": tuple(row["token_ids"])}, labels=labels)


def read_completions(store: Place) -> dict[str, Completion]:
    """All parts of a store: the prompt's fingerprint -> its completion."""
    return {key: completion for part in part_files(store) for key, completion in read_part(part)}


def write_lessons(path: Path, lessons: Iterable[Lesson]) -> None:
    """Write the transfer set; lessons are taken as they come, and few are in memory at a time."""
    rest = iter(lessons)
    groups = iter(lambda: list(itertools.islice(rest, _GROUP)), [])
    first = next(groups, None)
    tables = [_lesson_table(first) if first else LESSON.empty_table()]
    _write_tables(path, itertools.chain(tables, map(_lesson_table, groups)))


def _lesson_table(lessons: list[Lesson]) -> pa.Table:
    columns: dict[str, list[Any]] = {
        "input_ids": [np.asarray(x.input_ids, np.int32) for x in lessons],
        "weights": [x.weights for x in lessons],
    }
    labels = [_label_columns(x.labels) for x in lessons]
    columns |= {name: [each[name] for each in labels] for name in _LABELS}
    arrays: dict[str, Any] = {
        name: [getattr(x, name) for x in lessons]
        for name in ("example_id", "context", "prompt_length", "loss_weight")
    }
    for name, parts in columns.items():
        ends = np.cumsum([0, *map(len, parts)]).astype(np.int32)
        values = pa.array(np.concatenate(parts), LESSON.field(name).type.value_type)
        arrays[name] = pa.ListArray.from_arrays(ends, values)
    return pa.table(arrays, schema=LESSON)


def read_lessons(path: Path) -> list[Lesson]:
    """Read the transfer set, that of an older run, too."""
    table = _table(path, None)
    older = "loss_weight" not in table.column_names
    with _readable(path):
        _refuse_other_columns(table.schema, _LESSON_BEFORE if older else LESSON)
    return [_lesson(row) for row in _row_values(table)]


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
    arrays = ("input_ids", "weights", *_LABELS)
    values: dict[str, Any] = {
        name: column[row].values.to_numpy() if name in arrays else column[row].as_py()
        for name, column in zip(LESSON.names, batch.columns, strict=True)
    }
    return _lesson({**values, "input_ids": values["input_ids"].tolist()})


def _lesson(row: dict[str, Any]) -> Lesson:
    labels = _labels(row)
    assert labels is not None
    row |= {"input_ids": tuple(row["input_ids"]), "weights": np.asarray(row["weights"], np.float32)}
    return Lesson(**row, labels=labels)


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
    """Read all grades, those of older runs, too."""
    table = _table(path, None)
    names = table.column_names
    older, lacking = "shots" not in names, {*_GRADE_LATER} - {*names}
    with _readable(path):
        expected = pa.schema([column for column in _GRADE if column.name not in lacking])
        _refuse_other_columns(table.schema, expected)
    rows = table.to_pylist()
    for row in rows:
        row |= {"target": json.loads(row["target"]), "metrics": json.loads(row["metrics"])}
        if older and "@" in row["system"]:
            row["system"], _, drawn = row["system"].partition("@")
            row["shots"], row["draw"] = map(int, drawn.split("/"))
    return [Grade(**row) for row in rows]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows of plain values; nothing, if there are none."""
    if rows:
        _write(path, rows, None)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read such rows."""
    return _read(path, None) if path.is_file() else []
