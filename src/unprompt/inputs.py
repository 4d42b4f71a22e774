"""D: rows from a file, an inline list, the hub or a rule, as `Example`s with unique ids."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from unprompt.errors import UserError
from unprompt.recipe import Data
from unprompt.records import Example


def load(data: Data, where: str, modules: str | None = None) -> list[Example]:
    """Read all rows of `data`.

    Args:
        data: The recipe's section.
        where: Its key in the recipe, for messages.
        modules: Folder searched first for a rule.

    Raises:
        UserError: Nothing to read, broken rows (with their line), ids that occur twice.
    """
    examples: list[Example] = []
    seen: dict[str, int] = {}
    source = data.file or data.hub or data.rule or "rows"
    for number, row in enumerate(islice(_rows(data, where, modules), data.limit), 1):
        if not isinstance(row, dict):
            raise UserError(
                f"row {number} is {type(row).__name__}, not an object", where=f"{where} ({source})", fix='write {"text": "..."}'
            )
        _refuse_half_characters(row, f"{where} ({source}), row {number}")
        id_ = str(row[data.id]) if row.get(data.id) is not None else f"row-{number:06d}"
        if id_ in seen:
            raise UserError(
                f"id '{id_}' occurs twice (rows {seen[id_]} and {number})", where=f"{where} ({source})", fix=f"make '{data.id}' unique"
            )
        seen[id_] = number
        examples.append(Example(id_, {str(key): value for key, value in row.items()}, row.get(data.target)))
    if not examples:
        raise UserError("there is nothing in it", where=f"{where} ({source})", fix="give at least one row")
    return examples


def _refuse_half_characters(row: dict[Any, Any], where: str) -> None:
    try:
        json.dumps(row, ensure_ascii=False, default=str, skipkeys=True).encode()
    except UnicodeEncodeError as error:
        half = str(error.object)[error.start : error.end].encode("ascii", "backslashreplace").decode()
        raise UserError(f"half a character ({half}): the text was cut inside an emoji", where=where, fix="mend the text") from None


def _rows(data: Data, where: str, modules: str | None) -> Iterable[Any]:
    if data.rows is not None:
        return data.rows
    if data.rule is not None:
        return _call_rule(data.rule, data.args, where, modules)
    if data.hub is not None:
        return _hub(data, where)
    assert data.file is not None
    path = local_path(data.file, where)
    readers: dict[str, Callable[[Path, str], Iterator[Any]]] = {
        ".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet,
    }  # fmt: skip
    if path.suffix.lower() not in readers:
        raise UserError(f"'{path.suffix}' is not a known data format", where=f"{where} ({path})", fix=f"use {', '.join(readers)}")
    if not path.is_file():
        raise UserError("there is no such file", where=f"{where} ({path})", fix="paths are seen from the recipe's folder")
    return _readable(readers[path.suffix.lower()](path, where), path, where)


def _readable(rows: Iterator[Any], path: Path, where: str) -> Iterator[Any]:
    try:
        yield from rows
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 text ({error.reason})", where=f"{where} ({path})", fix="save the file as UTF-8") from None
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", where=f"{where} ({path})", fix="check the file") from None


def _jsonl(path: Path, where: str) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except (json.JSONDecodeError, RecursionError) as error:
                    said = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
                    raise UserError(f"not JSON: {said}", where=f"{where} ({path}:{number})", fix="mend or remove that line") from None


def _json(path: Path, where: str) -> Iterator[Any]:
    try:
        rows = json.loads(path.read_text("utf-8-sig"))
    except (json.JSONDecodeError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UserError("not JSON", where=f"{where} ({path}{line})", fix="mend that line") from None
    if not isinstance(rows, list):
        raise UserError(
            "the file holds one value, not a list of rows", where=f"{where} ({path})", fix="write [ {...}, {...} ] or use .jsonl"
        )
    yield from rows


def _csv(path: Path, where: str) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        try:
            twice = [name for name, count in Counter(reader.fieldnames or ()).items() if count > 1]
            if twice:
                raise UserError(f"column '{twice[0]}' occurs twice", where=f"{where} ({path}:1)", fix="rename one of them")
            for row in reader:
                if None in row or None in row.values():
                    raise UserError(
                        f"has not the {len(reader.fieldnames or [])} columns of the header",
                        where=f"{where} ({path}:{reader.line_num})", fix="quote fields that hold a separator",
                    )  # fmt: skip
                yield row
        except csv.Error as error:
            raise UserError(f"not CSV: {error}", where=f"{where} ({path}:{reader.line_num})", fix="mend that line") from None


def _parquet(path: Path, where: str) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"not Parquet: {str(error).splitlines()[0]}", where=f"{where} ({path})", fix="write the file again") from None


def _hub(data: Data, where: str) -> Iterable[Any]:
    assert data.hub is not None
    try:
        import datasets
    except ImportError:
        raise UserError(
            "reading from the hub needs the package datasets", where=f"{where} ({data.hub})", fix="pip install 'unprompt[hub]'"
        ) from None
    try:
        return datasets.load_dataset(data.hub, split=data.split, **data.args)
    except Exception as error:  # datasets raises many kinds: missing, gated, offline, bad split
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"the hub data set can't be loaded: {first}", where=f"{where} ({data.hub})", fix="check name, split and network"
        ) from None


def _call_rule(rule: str, args: dict[str, Any], where: str, modules: str | None) -> Iterator[Any]:
    try:
        yield from function(rule, where, modules)(**args)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"the rule failed: {type(error).__name__}: {error}", where=f"{where} ({rule})", fix="mend the function or its args"
        ) from error


def local_path(path: str, where: str) -> Path:
    """The file a recipe's path means; `pkg:package/file` is looked up among the installed packages without importing them."""
    if not path.startswith("pkg:"):
        return Path(path)
    package, _, rest = path.removeprefix("pkg:").partition("/")
    from importlib.util import find_spec

    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"the package {package} is not installed", where=f"{where} ({path})", fix=f"pip install --no-deps {package.replace('_', '-')}"
        )
    root = Path(next(iter(spec.submodule_search_locations))).resolve()
    found = (root / rest).resolve()
    if not found.is_relative_to(root):
        raise UserError("the path leaves the package", where=f"{where} ({path})", fix="name a file inside the package")
    return found


def function(dotted: str, where: str, folder: str | None = None) -> Callable[..., Any]:
    """The function that `package.module:function` names.

    Args:
        folder: Searched first (the recipe's `modules`).
    """
    if folder and folder not in sys.path:
        sys.path.insert(0, folder)
    module_name, _, name = dotted.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except Exception as error:
        raise UserError(
            f"'{dotted}' can't be imported: {type(error).__name__}: {error}",
            where=where,
            fix="write package.module:function, beside the recipe or installed",
        ) from None
    if not callable(found):
        raise UserError(f"'{dotted}' is not a function", where=where, fix="name a function")
    return found
