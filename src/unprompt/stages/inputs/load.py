"""D: rows from a file, an inline list, the hub, a rule or a mixture, as `Example`s with unique
ids.
"""

from __future__ import annotations

import csv
import decimal
import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unprompt.engines import hub
from unprompt.messages import UserError
from unprompt.recipe import Data, Examples
from unprompt.recipe.names import function, local_path
from unprompt.records import Example
from unprompt.store.files import file_digest, first_line, module_digest, path_digest

if TYPE_CHECKING:
    import pyarrow


_MOST_DIGITS = 4300
"""Of a whole number that Python turns into text and back (`sys.set_int_max_str_digits`)."""


def load(data: Data, where: str, modules: str | None = None) -> list[Example]:
    """Read all rows of `data`. Of inputs that are yet to be sampled, the seeds stand in for them
    (`draw.resolved` puts the real ones there).

    Args:
        data: The recipe's section.
        where: Its key in the recipe, for messages.
        modules: Folder searched last for a rule.

    Raises:
        UserError: Nothing to read, broken rows (with their line), ids that occur twice.
    """
    examples: list[Example] = []
    seen: dict[str, int] = {}
    source = getattr(data, data.kind)
    place = f"{where} ({source if isinstance(source, str) else data.kind})"
    rows = _KINDS[data.kind](data, where, modules)
    for number, row in enumerate(itertools.islice(rows, data.limit), 1):
        mixed, row = (row, row.fields) if isinstance(row, Example) else (None, row)
        if not isinstance(row, dict):
            what = f"row {number} is {type(row).__name__}, not an object"
            raise UserError(what, where=place, fix='write {"text": "..."}')
        _refuse_half_characters(row, f"{place}, row {number}")
        id_ = str(row[data.id]) if row.get(data.id) is not None else f"row-{number:06d}"
        if id_ in seen:
            what = f"id '{id_}' occurs twice (rows {seen[id_]} and {number})"
            raise UserError(what, where=place, fix=f"make '{data.id}' unique")
        seen[id_] = number
        fields = {str(key): value for key, value in row.items()}
        group, written = (mixed.group, mixed.written) if mixed else (None, False)
        if data.group is not None:
            group = _group(row, data.group, f"{place}, row {number}")
        written = written or data.by_model
        examples.append(Example(id_, fields, row.get(data.target), group, written))
    if not examples:
        raise UserError("there is nothing in it", where=place, fix="give at least one row")
    return examples


def _group(row: dict[Any, Any], field: str, where: str) -> str:
    if row.get(field) is None:
        raise UserError(
            f"there is no '{field}' that says what the row belongs to",
            where=where,
            fix=f"the row has: {', '.join(map(str, row))}; set group to one that every row has",
        )
    return str(row[field])


def _refuse_half_characters(row: dict[Any, Any], where: str) -> None:
    try:
        json.dumps(row, ensure_ascii=False, default=str, skipkeys=True).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start : error.end].encode("ascii", "backslashreplace").decode()
        what = f"half a character ({half}): the text was cut inside an emoji"
        raise UserError(what, where=where, fix="mend the text") from None


def digests(data: Data, modules: str) -> list[str]:
    """What the rows depend on outside the recipe: digests of files, of a rule's module, and of
    paths among its arguments.
    """
    found: list[str] = []
    for _, part in data.parts():
        if part.sample:
            found += digests(part.sample.seeds, modules)
        if part.file:
            path = local_path(part.file, "inputs")
            found.append(file_digest(path) if path.is_file() else "missing")
        if part.rule:
            texts = [text for text in part.args.values() if isinstance(text, str) and text]
            found += [path_digest(Path(modules, text)) for text in texts]
            found.append(module_digest(part.rule, modules))
    return found


# -- files -----------------------------------------------------------------------------------------


class _Wrong(Exception):
    """What is wrong in a file, how to mend it, and the line."""

    def __init__(self, what: str, fix: str, line: int | None = None) -> None:
        self.what, self.fix, self.line = what, fix, "" if line is None else f":{line}"


def _file(data: Data, where: str, modules: str | None) -> Iterator[Any]:
    path = local_path(data.file or "", where)
    reader, place = _FORMATS.get(path.suffix.lower()), f"{where} ({path})"
    if reader is None:
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
    except OSError as error:
        what = f"cannot be read: {error.strerror or error}"
        raise UserError(what, where=place, fix="check the file") from None


def _jsonl(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _parsed(line.rstrip("\n"), number, "mend or remove that line")


def _json(path: Path) -> Iterator[Any]:
    rows = _parsed(path.read_text("utf-8-sig"), 1, "mend that line")
    if not isinstance(rows, list):
        fix = "write [ {...}, {...} ] or use .jsonl"
        raise _Wrong("the file holds one value, not a list of rows", fix)
    yield from rows


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
    with path.open(encoding="utf-8-sig", newline="") as file:
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


# -- other sources ---------------------------------------------------------------------------------


def _rows(data: Data, where: str, modules: str | None) -> Iterable[Any]:
    return data.rows or ()


def _hub(data: Data, where: str, modules: str | None) -> Iterable[Any]:
    assert data.hub
    place = f"{where} ({data.hub})"
    try:
        import datasets
    except ImportError:
        what = "reading from the hub needs the package datasets"
        raise UserError(what, where=place, fix="pip install 'unprompt[hub]'") from None
    try:
        with hub.reading("data set", data.hub, place, "a file"):
            return datasets.load_dataset(data.hub, split=data.split, **data.args)
    except UserError:
        raise
    except Exception as error:  # datasets raises many kinds: missing, gated, offline, bad split
        what = f"the hub data set can't be loaded: {first_line(error)}"
        raise UserError(what, where=place, fix="check name, split and network") from None


def _rule(data: Data, where: str, modules: str | None) -> Iterator[Any]:
    try:
        yield from function(data.rule or "", where, modules)(**data.args)
    except UserError:
        raise
    except Exception as error:
        what = f"the rule failed: {type(error).__name__}: {error}"
        fix = "mend the function or its args"
        raise UserError(what, where=f"{where} ({data.rule})", fix=fix) from error


def _mix(data: Data, where: str, modules: str | None) -> Iterator[Example]:
    """Rows of every part in the proportion of the shares, as many as the shortest part allows or as
    `limit` says; the parts' first rows, in turns.
    """
    parts = data.mix or ()
    pools = [load(part.data, f"{where}.mix.{n}.data", modules) for n, part in enumerate(parts)]
    total = sum(part.share for part in parts)
    most = min(len(rows) * total / part.share for rows, part in zip(pools, parts, strict=True))
    wanted = int(most + 1e-9) if data.limit is None else data.limit
    sums = itertools.accumulate((part.share for part in parts), initial=0.0)
    ends = [round(wanted * share / total) for share in sums]
    counts = [end - start for start, end in itertools.pairwise(ends)]
    for n, (rows, count) in enumerate(zip(pools, counts, strict=True)):
        if count > len(rows):
            raise UserError(
                f"{wanted} rows of the mixture need {count} of this part, which has {len(rows)}",
                where=f"{where}.mix.{n}",
                fix="lower limit or the part's share, or give it more rows",
            )
    turns = sorted((i / count, n, i) for n, count in enumerate(counts) for i in range(count))
    for _, n, index in turns:
        example = pools[n][index]
        fields = {**example.fields, "id": f"{n}-{example.id}", "target": example.target}
        yield replace(example, fields=fields)


def _stand_ins(data: Data, where: str, modules: str | None) -> Iterator[dict[str, Any]]:
    assert data.sample
    field, where = data.sample.field, f"{where}.sample"
    seeds = load(data.sample.seeds, f"{where}.seeds", modules)
    for seed in seeds:
        if not isinstance(seed.fields.get(field), str):
            what = f"seed '{seed.id}' has no text in field '{field}'"
            raise UserError(what, where=where, fix="set field to the one that holds the text")
    for seed in itertools.islice(itertools.cycle(seeds), data.sample.count):
        yield {field: seed.fields[field]}


_KINDS: dict[str, Callable[[Data, str, str | None], Iterable[Any]]] = {
    "file": _file,
    "rows": _rows,
    "hub": _hub,
    "rule": _rule,
    "mix": _mix,
    "sample": _stand_ins,
}
"""Source of `Data` -> its rows, from the data, its key in the recipe and the rules' folder."""


# -- the few-shot pool -----------------------------------------------------------------------------


def subsets(
    examples: Examples, pool: Sequence[dict[str, Any]], seed: int, where: str
) -> list[list[dict[str, Any]]]:
    """What stands in each prompt of an ensemble: `prompts` different draws of `per_prompt` rows. No
    row comes a second time before each came once.

    Raises:
        UserError: The pool is too small.
    """
    size = examples.per_prompt
    if size is None:
        return [list(pool)]
    if size > len(pool):
        what = f"per_prompt is {size}, but the pool has {len(pool)} examples"
        raise UserError(what, where=where, fix="lower per_prompt or give more examples")
    if examples.prompts > (there := math.comb(len(pool), size)):
        raise UserError(
            f"{examples.prompts} prompts of {size} examples, but a pool of {len(pool)} has only"
            f" {there} such subsets",
            where=where,
            fix="lower prompts or give more examples",
        )
    draw = random.Random(f"{seed}:{where}")
    chosen: list[list[int]] = []
    fresh: list[int] = []
    while len(chosen) < examples.prompts:
        if len(fresh) < size:  # what is left of this pass, filled up with others from the next
            others = [n for n in range(len(pool)) if n not in fresh]
            fresh += draw.sample(others, len(others))
        subset, fresh = fresh[:size], fresh[size:]
        if sorted(subset) not in map(sorted, chosen):
            chosen.append(subset)
    return [[pool[n] for n in subset] for subset in chosen]
