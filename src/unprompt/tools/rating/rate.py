"""`unprompt rate RUN`: a blinded sheet of the systems' answers for people to rate, and what their
ratings say.

The sheet (CSV) shows an opaque id, the input and the response, in random order. Which system wrote
a response stands only in the run's folder, in `rating_key.json`. Nothing a person does to a sheet
is lost: files are only read, and `ratings.json` is written when all of them are in order.
"""

from __future__ import annotations

import json
import random
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from unprompt import recipe
from unprompt.messages import UserError
from unprompt.metrics.agreement import krippendorff_alpha
from unprompt.metrics.statistics import Bounds, by_group, interval
from unprompt.records import Grade
from unprompt.report.format import spanned
from unprompt.store.files import fingerprint
from unprompt.store.folder import RunDir
from unprompt.store.tables import read_grades
from unprompt.tools.rating import chosen, rubric, sheets
from unprompt.tools.rating.sheets import Ratings

KEY = "rating_key.json"
SHEET = "rating_sheet.csv"
RATINGS = "ratings.json"
BALLOTS = "ratings.sqlite"
SIGNIFICANT = 0.05
_ROW = {"context", "example_id", "system", "group", "input", "response"}
_PUT_BACK = "put back what stood there; ratings that were given belong to it"
NO_ANSWERS = "there are no written answers to rate"


# -- what is rated ---------------------------------------------------------------------------------


def export(
    folder: Path,
    out: Path | None,
    systems: Sequence[str],
    examples: int | None,
    low: int,
    high: int,
) -> list[str]:
    """Write the sheet, and the key beside the run's report. An earlier key is used again, so that
    sheets that are out stay valid.

    Args:
        folder: A finished run's.
        out: Where the sheet goes; `rating_sheet.csv` in the run's folder unless given.
        systems: Which systems to rate; all but those behind shots, if empty.
        examples: How many examples of each context; see `chosen.choices`.
        low: The lowest rating.
        high: The highest.

    Returns:
        Lines for the terminal.

    Raises:
        UserError: No run, no answers, an unknown system, or a key of other answers.
    """
    files = RunDir(folder)
    files.report()
    if low >= high:
        raise UserError(
            f"a scale from {low} to {high} has no room",
            where="--low",
            fix="give a --high above --low",
        )
    key, sheet = _key(files, systems, examples, low, high), out or folder / SHEET
    sheets.write(sheet, key)
    _write(files, KEY, key)
    names = sorted({row["system"] for row in key["rows"].values()})
    return [
        f"{sheet}: {len(key['rows'])} responses of {', '.join(names)}, blinded and shuffled"
        f"{chosen.said(key)}; give each person a copy",
        *rubric.lines(recipe.load(files.recipe), low, high),
        f"rating: a whole number from {low} to {high}; rater: the person's name. Which system is"
        f" which stands in {folder / KEY}: do not hand it out",
        f"then: unprompt rate {folder} --read FILE --read FILE",
    ]


def blinded(
    folder: Path, systems: Sequence[str], examples: int | None, low: int, high: int
) -> dict[str, Any]:
    """The key of what people rate in the browser. The one that is there is used again, with its
    scale, whoever made it.

    Raises:
        UserError: No run, no answers, or a key of other answers, systems or examples.
    """
    files = RunDir(folder)
    files.report()
    old = _old(files)
    if old is None:
        key = _key(files, systems, examples, low, high)
        _write(files, KEY, key)
        return key
    if systems or examples:
        return _key(files, systems, examples, old["low"], old["high"])
    shown = {(g.context, g.example_id, g.row): g.shown for g in _grades(files)}
    for row in old["rows"].values():
        if shown.get((row["context"], row["example_id"], row["system"])) != row["response"]:
            raise UserError(
                "the answers have changed since this key was made, and ratings given until then"
                " need it",
                where=str(folder / KEY),
                fix=f"read those ratings first, then move the key and {BALLOTS} away",
            )
    return old


def _old(files: RunDir) -> dict[str, Any] | None:
    """The key that is there."""
    path = files.folder / KEY
    if not path.is_file():
        return None
    key = _json(path)
    rows = key.get("rows")
    if not (
        isinstance(rows, dict)
        and all(isinstance(row, dict) and row.keys() >= _ROW for row in rows.values())
        and all(isinstance(row[name], str) for row in rows.values() for name in _ROW - {"group"})
        and all(isinstance(row["group"], str | None) for row in rows.values())
        and all(isinstance(key.get(end), int) for end in ("low", "high"))
    ):
        raise UserError("not a key of ratings", where=str(path), fix=_PUT_BACK)
    return key


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UserError("the file can't be read", where=str(path), fix=_PUT_BACK)
    return found


def _write(files: RunDir, name: str, content: Mapping[str, Any]) -> None:
    files.write_text(name, json.dumps(content, indent=1, ensure_ascii=False))


def _grades(files: RunDir) -> list[Grade]:
    path = files.proven("grades.parquet")
    return read_grades(path) if path.is_file() else []


def _key(
    files: RunDir, systems: Sequence[str], examples: int | None, low: int, high: int
) -> dict[str, Any]:
    """Opaque id -> what the row shows and who wrote it, in the sheet's order."""
    asked = chosen.asked(files)
    grades = [g for g in _grades(files) if g.example_id in asked.get(g.context, ())]
    names = dict.fromkeys(g.row for g in grades)
    for name in systems:
        if name not in names:
            raise UserError(
                f"there is no system '{name}'",
                where=str(files.folder),
                fix=f"there are: {', '.join(names) or 'none'}",
            )
    wanted = systems or {g.row for g in grades if g.shots is None}
    grades = [g for g in grades if g.row in wanted]
    if not grades:
        raise UserError(
            NO_ANSWERS, where=str(files.folder), fix="run a recipe with an evaluate section"
        )
    total, old = len(grades), _old(files)
    every = max(len(asked[context]) for context in {g.context for g in grades})
    made = {}
    for few in chosen.choices(files, asked, grades, examples):
        answers = [[g.context, g.example_id, g.row, g.shown] for g in few]
        made[fingerprint(answers, low, high)] = few
    if old and old.get("made_from") in made:
        return old
    made_from, grades = next(iter(made.items()))
    if old:
        raise UserError(
            "a sheet of other answers, systems or another scale was exported before, and its"
            " ratings need this key",
            where=str(files.folder / KEY),
            fix="read those ratings first and move the key away, or export with the settings of"
            " then",
        )
    ids: set[str] = set()
    while len(ids) < len(grades):
        ids.add(f"r{secrets.token_hex(4)}")
    rows = {
        id_: {
            "context": g.context,
            "example_id": g.example_id,
            "system": g.row,
            "group": g.group,
            "input": asked[g.context][g.example_id],
            "response": g.shown,
        }
        for id_, g in zip(ids, random.SystemRandom().sample(grades, len(grades)), strict=True)
    }
    of = {"total": total, "every": every}
    return {"made_from": made_from, "low": low, "high": high, "rows": rows} | of


# -- what the ratings say --------------------------------------------------------------------------


def ratings(folder: Path, paths: Sequence[Path]) -> dict[str, Any]:
    """Read the sheets of all people, and write `ratings.json`.

    Returns:
        What it holds: see `summary`.

    Raises:
        UserError: Something is wrong in a file, or ratings read before are in none of these files;
            nothing is written then.
    """
    files = RunDir(folder)
    key = _old(files)
    if key is None:
        raise UserError(
            "no sheet of this run was exported",
            where=str(folder),
            fix="export one with `unprompt rate RUN`",
        )
    every: Ratings = {}
    for path in paths:
        given = sheets.read(path, key)
        for id_, rater in given:
            if (id_, rater) in every:
                raise UserError(
                    f"{rater} rated row '{id_}' twice, here and in another file",
                    where=str(path),
                    fix="give each person's file once, or mend the names in rater",
                )
        every |= given
    before, raters = folder / RATINGS, {rater for _, rater in every}
    if before.is_file():
        lost = [name for name in _json(before).get("raters") or () if name not in raters]
        if lost:
            raise UserError(
                f"the ratings of {', '.join(lost)} were read before, and are in none of these"
                " files",
                where=str(before),
                fix="give their files, too, or move that file away",
            )
    result = summary(key, every)
    _write(files, RATINGS, result)
    return result


def summary(key: Mapping[str, Any], ratings: Ratings) -> dict[str, Any]:
    """What the ratings say. Pure.

    A response's rating is the mean over those who rated it. A system's mean has a 95 %
    interval over responses (or groups of examples). Agreement between people is Krippendorff's
    alpha; None where it is not defined. Length bias: Spearman's correlation of a response's rating
    with its length in characters, over all responses and within each system, where no system's
    quality stands in for length.

    Raises:
        UserError: Nobody rated anything.
    """
    rows = key["rows"]
    given: dict[str, list[int]] = {id_: [] for id_ in rows}
    raters = dict.fromkeys((rater for _, rater in ratings), 0)
    for (id_, rater), value in ratings.items():
        if value is not None:
            given[id_].append(value)
            raters[rater] += 1
    if not any(given.values()):
        raise UserError(
            "there is no rating in these files",
            fix=f"fill in the column rating, from {key['low']} to {key['high']}",
        )
    wrote: dict[tuple[str, str], list[str]] = {}
    for id_, row in rows.items():
        wrote.setdefault((row["context"], row["system"]), []).append(id_)
    contexts: dict[str, dict[str, Any]] = {}
    for context, system in sorted(wrote):
        contexts.setdefault(context, {})[system] = _figures(
            wrote[context, system], rows, given, (key["low"], key["high"])
        )
    units = list(given.values())
    shown = ("context", "example_id", "system")
    return {
        "scale": [key["low"], key["high"]],
        "raters": raters,
        "contexts": contexts,
        "agreement": {
            "ordinal": krippendorff_alpha(units, "ordinal"),
            "interval": krippendorff_alpha(units, "interval"),
        },
        "length_bias": _length_bias(list(rows), rows, given),
        "ratings": [
            {"id": id_, "rater": rater, "rating": value} | {name: rows[id_][name] for name in shown}
            for (id_, rater), value in ratings.items()
        ],
    }


def _figures(
    ids: Sequence[str],
    rows: Mapping[str, Any],
    given: Mapping[str, Sequence[int]],
    scale: Bounds,
) -> dict[str, Any]:
    """A system's, from the ids of its responses."""
    rated, rating = [id_ for id_ in ids if given[id_]], None
    if rated:
        means = [float(np.mean(given[id_])) for id_ in rated]
        groups = [rows[id_]["group"] for id_ in rated]
        mean, low, high = interval(by_group(means, groups), scale)
        rating = {"mean": mean, "low": low, "high": high}
    return {
        "responses": len(ids),
        "unrated": len(ids) - len(rated),
        "ratings": sum(len(given[id_]) for id_ in ids),
        "rating": rating,
        "length_bias": _length_bias(ids, rows, given),
    }


def _length_bias(
    ids: Sequence[str], rows: Mapping[str, Any], given: Mapping[str, Sequence[int]]
) -> dict[str, Any] | None:
    """None where it is not defined: fewer than three responses, or all ratings or lengths alike."""
    rated = [id_ for id_ in ids if given[id_]]
    means = [float(np.mean(given[id_])) for id_ in rated]
    lengths = [len(rows[id_]["response"]) for id_ in rated]
    if len(rated) < 3 or len(set(means)) < 2 or len(set(lengths)) < 2:
        return None
    test: Any = stats.spearmanr(means, lengths)
    rho, p = float(test.statistic), float(test.pvalue)
    return {"rho": rho, "p": p, "flagged": p < SIGNIFICANT}


def lines(summary: Mapping[str, Any]) -> list[str]:
    """What `ratings.json` says, for the terminal."""
    low, high = summary["scale"]
    raters = ", ".join(f"{name} ({count})" for name, count in summary["raters"].items())
    said = [f"rated from {low} to {high} by {raters}"]
    for context, systems in summary["contexts"].items():
        for system, figures in systems.items():
            mean, bias, value, rest = figures["rating"], figures["length_bias"], "not rated", ""
            if mean:
                value = spanned(mean, "{:.2f}".format)
            if figures["unrated"]:
                rest = f", {figures['unrated']} of {figures['responses']} unrated"
            if bias and bias["flagged"]:
                rest += f"; length bias: rho {bias['rho']:+.2f}, p = {bias['p']:.3f}"
            said.append(
                f"{context}, {system}: {value}, {figures['ratings']} ratings of"
                f" {figures['responses']} responses{rest}"
            )
    alphas, bias = summary["agreement"], summary["length_bias"]
    if alphas["interval"] is None:
        said.append("agreement: not defined (no response has two ratings, or all are alike)")
    else:
        said.append(
            f"agreement (Krippendorff's alpha): ordinal {alphas['ordinal']:.3f}, interval"
            f" {alphas['interval']:.3f}"
        )
    if bias is None:
        said.append("length bias: not defined (too few responses, or all alike)")
    else:
        flagged = "ratings go with the length of the response"
        said.append(
            f"length bias: {flagged if bias['flagged'] else 'no sign of it'} (Spearman's rho"
            f" {bias['rho']:+.2f}, p = {bias['p']:.3f}, over all systems)"
        )
    return said
