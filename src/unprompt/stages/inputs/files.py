"""Files of rows: JSONL, JSON, CSV and Parquet, and logs in them."""

from __future__ import annotations

import contextlib
import csv
import decimal
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from unprompt.messages import UserError
from unprompt.recipe import Data
from unprompt.recipe.names import local_path
from unprompt.stages.inputs import logs
from unprompt.store.files import first_line

if TYPE_CHECKING:
    import pyarrow

_MOST_DIGITS = 4300
"""Of a whole number that Python turns into text and back (`sys.set_int_max_str_digits`)."""


class _Wrong(Exception):
    """What is wrong in a file, how to mend it, and the line."""

    def __init__(self, what: str, fix: str, line: int | None = None) -> None:
        self.what, self.fix, self.line = what, fix, "" if line is None else f":{line}"


def rows(data: Data, where: str, modules: str | None = None) -> Iterator[Any]:
    """Rows of a file; of a log, an input for each turn that is learned.

    Raises:
        UserError: It can't be read, or is not of its format.
    """
    return _turns(data, where, Counter()) if data.format != "rows" else raw(data.file or "", where)


def left_out(data: Data, where: str) -> str:
    """What of a log is no input, in words; empty of other files.

    Raises:
        UserError: As `rows`.
    """
    counts = Counter[str]()
    if data.file and data.format != "rows":
        for _ in _turns(data, where, counts):
            pass
    return logs.said(counts)


def _turns(data: Data, where: str, counts: Counter[str]) -> Iterator[Any]:
    assert data.file
    assert data.format != "rows"
    found, system = raw(data.file, where), None
    if data.system is not None:
        system = _prompt(data.system, where)
    try:
        yield from logs.turns(found, data.format, data.turns, system, counts)
    except logs.Unknown as error:
        place = f"{where} ({data.file}, row {error.number})"
        raise UserError(f"not {data.format}: {error.what}", where=place, fix=error.fix) from None


def _prompt(name: str, where: str) -> str:
    path = local_path(name, where)
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        what = f"the system prompt can't be read: {first_line(error)}"
        raise UserError(what, where=f"{where}.system ({path})", fix="check the file") from None


def raw(name: str, where: str) -> Iterator[Any]:
    """Rows of a file as they stand there.

    Args:
        name: Its path, or `pkg:` and a file of a package.

    Raises:
        UserError: It can't be read.
    """
    path = local_path(name, where)
    plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    reader, place = _FORMATS.get(plain.suffix.lower()), f"{where} ({path})"
    if reader is None or (plain != path and reader is _parquet):
        what = f"'{path.suffix}' is not a known data format"
        raise UserError(what, where=place, fix=f"use {', '.join(_FORMATS)}")
    if not path.is_file():
        fix = "paths are seen from the recipe's folder"
        raise UserError("there is no such file", where=place, fix=fix)
    try:
        yield from reader(path)
    except _Wrong as error:
        raise UserError(error.what, where=f"{where} ({path}{error.line})", fix=error.fix) from None
    except UnicodeDecodeError as error:
        what = f"not UTF-8 text ({error.reason})"
        raise UserError(what, where=place, fix="save the file as UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        what = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        raise UserError(what, where=place, fix="check the file") from None


@contextlib.contextmanager
def _text(path: Path, newline: str | None = None) -> Iterator[IO[str]]:
    """A file's text, unpacked if it is gzip's."""
    if path.suffix.lower() == ".gz":
        with gzip.open(path, "rt", encoding="utf-8-sig", newline=newline) as file:
            yield file
    else:
        with path.open(encoding="utf-8-sig", newline=newline) as file:
            yield file


def _jsonl(path: Path) -> Iterator[Any]:
    with _text(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _parsed(line.rstrip("\n"), number, "mend or remove that line")


def _json(path: Path) -> Iterator[Any]:
    with _text(path) as file:
        found = _parsed(file.read(), 1, "mend that line")
    if not isinstance(found, list):
        fix = "write [ {...}, {...} ] or use .jsonl"
        raise _Wrong("the file holds one value, not a list of rows", fix)
    yield from found


class _Twice(Exception):
    """A name that an object has twice."""


def _whole(digits: str) -> int | decimal.Decimal:
    """A whole number; one that Python could not write again keeps its digits."""
    return int(digits) if len(digits) <= _MOST_DIGITS else decimal.Decimal(digits)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Twice(next(name for name, many in Counter(n for n, _ in pairs).items() if many > 1))
    return found


def _parsed(text: str, line: int, fix: str) -> Any:
    """The value of a JSON text that begins in this line of its file."""
    try:
        return json.loads(text, object_pairs_hook=_object, parse_int=_whole)
    except _Twice as error:
        what = f"an object has the name '{error}' twice"
        raise _Wrong(what, "rename or remove one of them", line) from None
    except json.JSONDecodeError as error:
        raise _Wrong(f"not JSON: {error.msg}", fix, line + error.lineno - 1) from None
    except RecursionError:
        raise _Wrong("not JSON: nested too deeply", fix, line) from None


def _separated(path: Path, separator: str) -> Iterator[Any]:
    csv.field_size_limit(2**31 - 1)  # Python's own is 131,072 letters, and of the whole process
    with _text(path, newline="") as file:
        reader = csv.DictReader(file, delimiter=separator, strict=True)
        try:
            names = reader.fieldnames or []
            for name, count in Counter(names).items():
                if count > 1:
                    raise _Wrong(f"column '{name}' occurs twice", "rename one of them", 1)
            for row in reader:
                if None in row or None in row.values():
                    what = f"has not the {len(names)} columns of the header"
                    raise _Wrong(what, "quote fields that hold a separator", reader.line_num)
                yield row
        except csv.Error as error:
            raise _Wrong(f"not CSV: {error}", "mend that line", reader.line_num) from None


def _parquet(path: Path) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            twice = [n for n, many in Counter(file.schema_arrow.names).items() if many > 1]
            if twice:
                raise _Wrong(f"column '{twice[0]}' occurs twice", "rename one of them")
            for batch in file.iter_batches():
                yield from _values(batch)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
        raise _Wrong(f"not Parquet: {first_line(error)}", "write the file again") from None


def _values(batch: pyarrow.RecordBatch) -> Iterator[dict[str, Any]]:
    """Rows of a Parquet file. Numbers of 16 and 32 bits have the digits that tell them, and maps
    are objects.
    """
    import pyarrow

    columns = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            if column.type == pyarrow.time64("ns"):  # Python has no such time
                column = column.cast(pyarrow.time64("us"))
            values = column.to_pylist(maps_as_pydicts="strict")
        except (ValueError, KeyError, OverflowError) as error:
            what = f"column '{name}' can't be read: {first_line(error)}"
            raise _Wrong(what, "write it as another type") from None
        columns.append([_of_type(value, column.type) for value in values])
    for row in zip(*columns, strict=True):
        yield dict(zip(batch.schema.names, row, strict=True))


def _of_type(value: Any, kind: pyarrow.DataType) -> Any:
    """A value of Parquet's as Python's."""
    import numpy as np
    from pyarrow import types

    if value is None:
        return None
    if types.is_float32(kind) or types.is_float16(kind):
        return float(str(np.dtype(kind.to_pandas_dtype()).type(value)))
    if types.is_dictionary(kind):
        return _of_type(value, kind.value_type)
    if types.is_map(kind):
        return {key: _of_type(each, kind.item_type) for key, each in value.items()}
    if types.is_struct(kind):
        return {part.name: _of_type(value[part.name], part.type) for part in kind}
    if isinstance(value, list):
        return [_of_type(each, kind.value_type) for each in value]
    return value


_FORMATS: dict[str, Callable[[Path], Iterator[Any]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": partial(_separated, separator=","),
    ".tsv": partial(_separated, separator="\t"),
    ".parquet": _parquet,
}
"""Ending of a file -> its rows."""
