"""D: rows from a file, an inline list, the hub, a rule or a mixture, as `Example`s with unique
ids.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unprompt.engines import hub
from unprompt.messages import UserError
from unprompt.recipe import Data, Examples
from unprompt.recipe.names import function, local_path
from unprompt.records import Example
from unprompt.stages.inputs import files
from unprompt.store.files import file_digest, first_line, module_digest, path_digest

_DIGITS = 5
"""Tokens that a number in a stand-in takes, at most."""


def load(data: Data, where: str, modules: str | None = None) -> list[Example]:
    """Read all rows of `data`. For inputs that a model is yet to write, others stand in
    (`draw.resolved` puts the real ones there): the seeds, or texts of their longest kind.

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
        if field := data.grouped_by:
            group = _group(row, field, f"{place}, row {number}")
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
        if part.system:
            found.append(path_digest(local_path(part.system, "inputs")))
        if part.rule:
            texts = [text for text in part.args.values() if isinstance(text, str) and text]
            found += [path_digest(Path(modules, text)) for text in texts]
            found.append(module_digest(part.rule, modules))
    return found


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


def _written(data: Data, where: str, modules: str | None) -> Iterator[dict[str, Any]]:
    """Texts, each another, as long as the longest inputs that the writer may write, so that what is
    counted ahead is the most.
    """
    assert data.from_prompt
    letters = max(data.from_prompt.max_new_tokens - _DIGITS, 1)
    for number in range(data.from_prompt.count):
        text = " ".join([str(number), *"a" * letters])
        yield {data.from_prompt.field: text, "kind": "", "case": ""}


_KINDS: dict[str, Callable[[Data, str, str | None], Iterable[Any]]] = {
    "file": files.rows,
    "rows": _rows,
    "hub": _hub,
    "rule": _rule,
    "mix": _mix,
    "sample": _stand_ins,
    "from_prompt": _written,
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
