"""D: rows from a file, an inline list, the hub, a rule or a mixture, as `Example`s with unique
ids.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from unprompt.messages import UserError
from unprompt.recipe import Data, Examples, Part
from unprompt.recipe.names import function, local_path
from unprompt.records import Example


def load(data: Data, where: str, modules: str | None = None) -> list[Example]:
    """Read all rows of `data`. Of inputs that are yet to be sampled, the seeds stand in for them
    (`draw.resolved` puts the real ones there).

    Args:
        data: The recipe's section.
        where: Its key in the recipe, for messages.
        modules: Folder searched first for a rule.

    Raises:
        UserError: Nothing to read, broken rows (with their line), ids that occur twice.
    """
    examples: list[Example] = []
    seen: dict[str, int] = {}
    source = (
        data.file
        or data.hub
        or data.rule
        or ("mix" if data.mix else "sample" if data.sample else "rows")
    )
    for number, row in enumerate(itertools.islice(_rows(data, where, modules), data.limit), 1):
        if not isinstance(row, dict):
            raise UserError(
                f"row {number} is {type(row).__name__}, not an object",
                where=f"{where} ({source})",
                fix='write {"text": "..."}',
            )
        _refuse_half_characters(row, f"{where} ({source}), row {number}")
        id_ = str(row[data.id]) if row.get(data.id) is not None else f"row-{number:06d}"
        if id_ in seen:
            raise UserError(
                f"id '{id_}' occurs twice (rows {seen[id_]} and {number})",
                where=f"{where} ({source})",
                fix=f"make '{data.id}' unique",
            )
        seen[id_] = number
        examples.append(
            Example(id_, {str(key): value for key, value in row.items()}, row.get(data.target))
        )
    if not examples:
        raise UserError(
            "there is nothing in it", where=f"{where} ({source})", fix="give at least one row"
        )
    return examples


def _refuse_half_characters(row: dict[Any, Any], where: str) -> None:
    try:
        json.dumps(row, ensure_ascii=False, default=str, skipkeys=True).encode()
    except UnicodeEncodeError as error:
        half = (
            str(error.object)[error.start : error.end].encode("ascii", "backslashreplace").decode()
        )
        raise UserError(
            f"half a character ({half}): the text was cut inside an emoji",
            where=where,
            fix="mend the text",
        ) from None


def _rows(data: Data, where: str, modules: str | None) -> Iterable[Any]:
    if data.rows is not None:
        return data.rows
    if data.rule is not None:
        return _call_rule(data.rule, data.args, where, modules)
    if data.hub is not None:
        return _hub(data, where)
    if data.mix is not None:
        return _mix(data.mix, data.limit, where, modules)
    if data.sample is not None:
        return _stand_ins(data.sample.seeds, data.sample.count, data.sample.field, where, modules)
    assert data.file is not None
    path = local_path(data.file, where)
    readers: dict[str, Callable[[Path, str], Iterator[Any]]] = {
        ".jsonl": _jsonl,
        ".ndjson": _jsonl,
        ".json": _json,
        ".csv": _csv,
        ".tsv": _csv,
        ".parquet": _parquet,
    }
    if path.suffix.lower() not in readers:
        raise UserError(
            f"'{path.suffix}' is not a known data format",
            where=f"{where} ({path})",
            fix=f"use {', '.join(readers)}",
        )
    if not path.is_file():
        raise UserError(
            "there is no such file",
            where=f"{where} ({path})",
            fix="paths are seen from the recipe's folder",
        )
    return _readable(readers[path.suffix.lower()](path, where), path, where)


def _readable(rows: Iterator[Any], path: Path, where: str) -> Iterator[Any]:
    try:
        yield from rows
    except UnicodeDecodeError as error:
        raise UserError(
            f"not UTF-8 text ({error.reason})",
            where=f"{where} ({path})",
            fix="save the file as UTF-8",
        ) from None
    except OSError as error:
        raise UserError(
            f"cannot be read: {error.strerror or error}",
            where=f"{where} ({path})",
            fix="check the file",
        ) from None


def _jsonl(path: Path, where: str) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except (json.JSONDecodeError, RecursionError) as error:
                    said = (
                        error.msg
                        if isinstance(error, json.JSONDecodeError)
                        else "nested too deeply"
                    )
                    raise UserError(
                        f"not JSON: {said}",
                        where=f"{where} ({path}:{number})",
                        fix="mend or remove that line",
                    ) from None


def _json(path: Path, where: str) -> Iterator[Any]:
    try:
        rows = json.loads(path.read_text("utf-8-sig"))
    except (json.JSONDecodeError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UserError("not JSON", where=f"{where} ({path}{line})", fix="mend that line") from None
    if not isinstance(rows, list):
        raise UserError(
            "the file holds one value, not a list of rows",
            where=f"{where} ({path})",
            fix="write [ {...}, {...} ] or use .jsonl",
        )
    yield from rows


def _csv(path: Path, where: str) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(
            file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True
        )
        try:
            twice = [name for name, count in Counter(reader.fieldnames or ()).items() if count > 1]
            if twice:
                raise UserError(
                    f"column '{twice[0]}' occurs twice",
                    where=f"{where} ({path}:1)",
                    fix="rename one of them",
                )
            for row in reader:
                if None in row or None in row.values():
                    raise UserError(
                        f"has not the {len(reader.fieldnames or [])} columns of the header",
                        where=f"{where} ({path}:{reader.line_num})",
                        fix="quote fields that hold a separator",
                    )
                yield row
        except csv.Error as error:
            raise UserError(
                f"not CSV: {error}",
                where=f"{where} ({path}:{reader.line_num})",
                fix="mend that line",
            ) from None


def _parquet(path: Path, where: str) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise UserError(
            f"not Parquet: {str(error).splitlines()[0]}",
            where=f"{where} ({path})",
            fix="write the file again",
        ) from None


def _hub(data: Data, where: str) -> Iterable[Any]:
    assert data.hub is not None
    try:
        import datasets
    except ImportError:
        raise UserError(
            "reading from the hub needs the package datasets",
            where=f"{where} ({data.hub})",
            fix="pip install 'unprompt[hub]'",
        ) from None
    try:
        return datasets.load_dataset(data.hub, split=data.split, **data.args)
    except Exception as error:  # datasets raises many kinds: missing, gated, offline, bad split
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"the hub data set can't be loaded: {first}",
            where=f"{where} ({data.hub})",
            fix="check name, split and network",
        ) from None


def _call_rule(rule: str, args: dict[str, Any], where: str, modules: str | None) -> Iterator[Any]:
    try:
        yield from function(rule, where, modules)(**args)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"the rule failed: {type(error).__name__}: {error}",
            where=f"{where} ({rule})",
            fix="mend the function or its args",
        ) from error


def _mix(
    parts: Sequence[Part], limit: int | None, where: str, modules: str | None
) -> Iterator[dict[str, Any]]:
    """Rows of every part in the proportion of the shares, as many as the shortest part allows or as
    `limit` says; the parts' first rows, in turns.
    """
    found = [load(part.data, f"{where}.mix.{n}.data", modules) for n, part in enumerate(parts)]
    total = sum(part.share for part in parts)
    most = min(len(rows) * total / part.share for rows, part in zip(found, parts, strict=True))
    wanted = int(most + 1e-9) if limit is None else limit
    ends = [
        round(wanted * share / total)
        for share in itertools.accumulate((part.share for part in parts), initial=0.0)
    ]
    counts = [end - start for start, end in itertools.pairwise(ends)]
    for n, (rows, count) in enumerate(zip(found, counts, strict=True)):
        if count > len(rows):
            raise UserError(
                f"{limit} rows of the mixture need {count} of this part, which has {len(rows)}",
                where=f"{where}.mix.{n}",
                fix="lower limit or the part's share, or give it more rows",
            )
    turns = sorted(
        (index / count, n, index) for n, count in enumerate(counts) for index in range(count)
    )
    for _, n, index in turns:
        example = found[n][index]
        yield {**example.fields, "id": f"{n}-{example.id}", "target": example.target}


def _stand_ins(
    seeds: Data, count: int, field: str, where: str, modules: str | None
) -> Iterator[dict[str, Any]]:
    rows = load(seeds, f"{where}.sample.seeds", modules)
    lacking = next((row for row in rows if not isinstance(row.fields.get(field), str)), None)
    if lacking is not None:
        raise UserError(
            f"seed '{lacking.id}' has no text in field '{field}'",
            where=f"{where}.sample",
            fix="set field to the one that holds the text",
        )
    for number in range(count):
        yield {field: rows[number % len(rows)].fields[field]}


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
        raise UserError(
            f"per_prompt is {size}, but the pool has {len(pool)} examples",
            where=where,
            fix="lower per_prompt or give more examples",
        )
    if examples.prompts > math.comb(len(pool), size):
        raise UserError(
            f"{examples.prompts} prompts of {size} examples, but a pool of {len(pool)} has only"
            f" {math.comb(len(pool), size)} such subsets",
            where=where,
            fix="lower prompts or give more examples",
        )
    draw = random.Random(f"{seed}:{where}")
    found: list[list[int]] = []
    fresh: list[int] = []
    while len(found) < examples.prompts:
        if len(fresh) < size:  # what is left of this pass, filled up with others from the next
            others = [n for n in range(len(pool)) if n not in fresh]
            fresh += draw.sample(others, len(others))
        chosen, fresh = fresh[:size], fresh[size:]
        if sorted(chosen) not in map(sorted, found):
            found.append(chosen)
    return [[pool[n] for n in chosen] for chosen in found]
