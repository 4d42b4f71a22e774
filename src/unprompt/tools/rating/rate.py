"""`unprompt rate RUN`: a blinded sheet of the systems' answers for people to rate, and what their
ratings say.

The sheet (CSV) shows an opaque id, the input and the response, in random order. Which system wrote
a response stands only in the run's folder, in `rating_key.json`. Nothing a person does to a sheet
is lost: files are only read, and `ratings.json` is written when all of them are in order.
"""

from __future__ import annotations

import csv
import io
import json
import random
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from unprompt import recipe
from unprompt.messages import UserError
from unprompt.metrics.agreement import krippendorff_alpha
from unprompt.metrics.statistics import bootstrap, by_group
from unprompt.records import as_text
from unprompt.stages import check
from unprompt.store.files import fingerprint, replacing
from unprompt.store.folder import RunDir
from unprompt.store.tables import read_grades
from unprompt.tools.rating import ballots

KEY, SHEET, RATINGS, BALLOTS = (
    "rating_key.json",
    "rating_sheet.csv",
    "ratings.json",
    "ratings.sqlite",
)
COLUMNS = ("id", "input", "response", "rating", "rater")
_FORMULA = "=+-@\t\r\n＝＋－＠"
"""First letters for which a spreadsheet may run a cell."""
_QUOTE = "'"
SIGNIFICANT = 0.05
NO_ANSWERS = "there are no written answers to rate"


def exported(
    folder: Path,
    out: Path | None,
    systems: Sequence[str],
    examples: int | None,
    low: int,
    high: int,
) -> list[str]:
    """`export`, in lines for the terminal."""
    sheet, rows, names = export(folder, out, systems, examples, low, high)
    return [
        (
            f"{sheet}: {rows} responses of {', '.join(names)}, blinded and shuffled; give each"
            " person a copy"
        ),
        (
            f"rating: a whole number from {low} to {high}; rater: the person's name. Which system"
            f" is which stands in {folder / KEY}: do not hand it out"
        ),
        f"then: unprompt rate {folder} --read FILE --read FILE",
    ]


def export(
    folder: Path,
    out: Path | None,
    systems: Sequence[str],
    examples: int | None,
    low: int,
    high: int,
) -> tuple[Path, int, list[str]]:
    """Write the sheet, and the key beside the run's report. An earlier key is used again, so that
    sheets that are out stay valid.

    Args:
        out: Where the sheet goes; `rating_sheet.csv` in the run's folder unless given.
        systems: Which systems to rate; all but those behind shots, if empty.
        examples: How many examples of each context, drawn with the recipe's seed; all unless given.
        low: The lowest rating.
        high: The highest.

    Returns:
        The sheet's path, its rows, and the systems in it.

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
    key = _key(files, systems, examples, low, high)
    target = out or folder / SHEET
    if target.exists():
        raise UserError(
            "there is a file already, and somebody's ratings may be in it",
            where=str(target),
            fix="choose another name with --out",
        )
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerow(COLUMNS)
    for id_, row in key["rows"].items():
        writer.writerow([id_, harmless(row["input"]), harmless(row["response"]), "", ""])
    with replacing(target) as partial:
        partial.write_bytes(
            text.getvalue().encode("utf-8-sig", "replace")
        )  # the mark tells spreadsheets that it is UTF-8
    files.write_text(KEY, json.dumps(key, indent=1, ensure_ascii=False))
    return target, len(key["rows"]), sorted({row["system"] for row in key["rows"].values()})


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
    path = folder / KEY
    old = json.loads(path.read_text("utf-8")) if path.is_file() else None
    if old is None or systems or examples:
        low, high = (old["low"], old["high"]) if old else (low, high)
        key = _key(files, systems, examples, low, high)
        if old is None:
            files.write_text(KEY, json.dumps(key, indent=1, ensure_ascii=False))
        return key
    graded = folder / "grades.parquet"
    there = (
        {(g.context, g.example_id, g.row): g.shown for g in read_grades(graded)}
        if graded.is_file()
        else {}
    )
    if any(
        there.get((row["context"], row["example_id"], row["system"])) != row["response"]
        for row in old["rows"].values()
    ):
        raise UserError(
            "the answers have changed since this key was made, and ratings given until then"
            " need it",
            where=str(path),
            fix=f"read those ratings first, then move the key and {BALLOTS} away",
        )
    return old


def _key(
    files: RunDir, systems: Sequence[str], examples: int | None, low: int, high: int
) -> dict[str, Any]:
    """Opaque id -> what the row shows and who wrote it, in the sheet's order."""
    plan, asked = _asked(files)
    grades = read_grades(files.folder / "grades.parquet") if asked else []
    grades = [g for g in grades if (g.context, g.example_id) in asked]
    there = list(dict.fromkeys(g.row for g in grades))
    for name in systems:
        if name not in there:
            raise UserError(
                f"there is no system '{name}'",
                where=str(files.folder),
                fix=f"there are: {', '.join(there) or 'none'}",
            )
    wanted = systems or {g.row for g in grades if g.shots is None}
    chosen: set[tuple[str, str]] = set()
    for context in dict.fromkeys(name for name, _ in asked):
        ids = [id_ for name, id_ in asked if name == context]
        chosen |= {
            (context, id_)
            for id_ in random.Random(f"{plan.seed}:{context}").sample(
                ids, min(examples or len(ids), len(ids))
            )
        }
    grades = [g for g in grades if g.row in wanted and (g.context, g.example_id) in chosen]
    if not grades:
        raise UserError(
            NO_ANSWERS, where=str(files.folder), fix="run a recipe with an evaluate section"
        )
    made_from = fingerprint([[g.context, g.example_id, g.row, g.shown] for g in grades], low, high)
    path = files.folder / KEY
    if path.is_file():
        old = json.loads(path.read_text("utf-8"))
        if old["made_from"] == made_from:
            return old
        raise UserError(
            "a sheet of other answers, systems or another scale was exported before, and its"
            " ratings need this key",
            where=str(path),
            fix=(
                "read those ratings first and move the key away, or export with the settings of"
                " then"
            ),
        )
    shuffled = random.SystemRandom().sample(grades, len(grades))
    ids: list[str] = []
    while len(ids) < len(grades):
        ids += [new for new in [f"r{secrets.token_hex(4)}"] if new not in ids]
    rows = {
        id_: {
            "context": g.context,
            "example_id": g.example_id,
            "system": g.row,
            "group": g.group,
            "input": asked[g.context, g.example_id],
            "response": g.shown,
        }
        for id_, g in zip(ids, shuffled, strict=True)
    }
    return {"made_from": made_from, "low": low, "high": high, "rows": rows}


def _asked(files: RunDir) -> tuple[recipe.Recipe, dict[tuple[str, str], str]]:
    """The recipe, and (context, held-out example) -> what the student was asked, of contexts whose
    answers are written.
    """
    plan = recipe.load(files.recipe)
    found: dict[tuple[str, str], str] = {}
    for name, side in check.check(plan, estimate=False).held_student.items():
        evaluation = plan.evaluation(name)
        if evaluation and not evaluation.choices:
            found |= {(name, prompt.example_id): as_text(prompt.content) for prompt in side.prompts}
    return plan, found


def harmless(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula; `plain` undoes it."""
    return _QUOTE + cell if cell[:1] and cell[0] in _FORMULA + _QUOTE else cell


def plain(cell: str) -> str:
    """What `harmless` was given."""
    return cell[1:] if cell[:1] == _QUOTE and cell[1:2] and cell[1] in _FORMULA + _QUOTE else cell


@dataclass(frozen=True, slots=True)
class Rating:
    """One person's rating of one row; `value` is None where the cell was left empty."""

    id: str
    rater: str
    value: int | None


def read(path: Path, key: Mapping[str, Any]) -> list[Rating]:
    """The ratings of one file: a sheet, or those given in the browser (`ratings.sqlite`).

    A sheet without any name in `rater` is taken as one person's, named as the file is.

    Raises:
        UserError: It is no sheet of this run, or a row is missing, unknown, changed, twice there,
            or rated outside the scale.
    """
    if ballots.is_one(path):
        return _from_browser(path, key)
    rows, known = _rows(path), key["rows"]
    names = {row["rater"].strip() for _, row in rows} - {""}
    found: dict[tuple[str, str], Rating] = {}
    for line, row in rows:
        where, id_, said = f"{path}:{line}", row["id"].strip(), row["rating"].strip()
        if id_ not in known:
            raise UserError(
                f"there is no row '{id_}' in this run's sheet",
                where=where,
                fix="give the file that belongs to this run",
            )
        response = row.get("response")
        if response is not None and _bare(response) != _bare(known[id_]["response"]):
            raise UserError(
                f"the response is not the one that row '{id_}' was sent with",
                where=where,
                fix=(
                    "undo what moved it: sort whole rows, never one column, and leave the responses"
                    " as they are"
                ),
            )
        rater = row["rater"].strip() or ("" if names else path.stem)
        if not rater:
            raise UserError(
                f"row '{id_}' does not say who rated it",
                where=where,
                fix="fill in rater in every row, or in none",
            )
        if (id_, rater) in found:
            raise UserError(
                f"{rater} rated row '{id_}' twice", where=where, fix="leave one of the two"
            )
        found[id_, rater] = Rating(id_, rater, _value(said, id_, key, where))
    for rater in dict.fromkeys(rating.rater for rating in found.values()):
        missing = [id_ for id_ in known if (id_, rater) not in found]
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise UserError(
                f"row '{missing[0]}' of {rater} is missing{more}",
                where=str(path),
                fix="put it back; a row that was not rated stays, with an empty rating",
            )
    return list(found.values())


def _from_browser(path: Path, key: Mapping[str, Any]) -> list[Rating]:
    """What a person has not rated there is a missing rating."""
    given = ballots.given(path)
    for rater, values in given.items():
        for id_, value in values.items():
            if id_ not in key["rows"] or not key["low"] <= value <= key["high"]:
                raise UserError(
                    f"{rater}'s rating {value} of '{id_}' does not belong to this run's key",
                    where=str(path),
                    fix="give the file that belongs to this run",
                )
    return [
        Rating(id_, rater, values.get(id_))
        for rater, values in given.items()
        for id_ in key["rows"]
    ]


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Rows with the number of the line each ends in. Spreadsheets in some languages write
    semicolons or tabs.
    """
    fix = f"give a CSV file with the columns {', '.join(COLUMNS)}"
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(
            "there is no such file", where=str(path), fix="give the paths of the rated sheets"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"not UTF-8 text ({error.reason})", where=str(path), fix="save it as UTF-8"
        ) from None
    except OSError as error:
        raise UserError(f"can't be read: {error.strerror}", where=str(path), fix=fix) from None
    first = text.partition("\n")[0]
    csv.field_size_limit(2**31 - 1)  # a document in one cell
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True
    )
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        lacking = [name for name in ("id", "rating", "rater") if name not in header]
        if lacking:
            raise UserError(
                f"not a rating sheet: it has no column '{lacking[0]}'", where=str(path), fix=fix
            )
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"the row has {len(cells)} cells, the header {len(header)}",
                    where=f"{path}:{reader.line_num}",
                    fix="mend that row",
                )
            rows.append(
                (
                    reader.line_num,
                    {name: plain(cell) for name, cell in zip(header, cells, strict=True)},
                )
            )
    except csv.Error as error:
        raise UserError(f"not CSV: {error}", where=f"{path}:{reader.line_num}", fix=fix) from None
    return rows


def _value(said: str, id_: str, key: Mapping[str, Any], where: str) -> int | None:
    if not said:
        return None
    try:
        number = float(said.replace(",", "."))
    except ValueError:
        number = float("nan")
    if number != number or number % 1 or not key["low"] <= number <= key["high"]:
        raise UserError(
            f"the rating of row '{id_}' is '{said}'",
            where=where,
            fix=f"write a whole number from {key['low']} to {key['high']}, or leave it empty",
        )
    return int(number)


def _bare(text: str) -> str:
    """A response as it survives a spreadsheet: without its first quotes, and whatever its blanks
    and line ends are.
    """
    return " ".join(
        text.lstrip(_QUOTE).replace("\0", "").encode("utf-8", "replace").decode().split()
    )


def ratings(folder: Path, paths: Sequence[Path]) -> dict[str, Any]:
    """Read the sheets of all people, and write `ratings.json`.

    Returns:
        What it holds: see `summary`.

    Raises:
        UserError: Something is wrong in a file, or ratings read before are in none of these files;
            nothing is written then.
    """
    files = RunDir(folder)
    try:
        key = json.loads((folder / KEY).read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(
            "no sheet of this run was exported",
            where=str(folder),
            fix="export one with `unprompt rate RUN`",
        ) from None
    found: dict[tuple[str, str], Rating] = {}
    for path in paths:
        for rating in read(path, key):
            if (rating.id, rating.rater) in found:
                raise UserError(
                    f"{rating.rater} rated row '{rating.id}' twice, here and in another file",
                    where=str(path),
                    fix="give each person's file once, or mend the names in rater",
                )
            found[rating.id, rating.rater] = rating
    before = folder / RATINGS
    if before.is_file():
        raters = {rating.rater for rating in found.values()}
        lost = [
            name for name in json.loads(before.read_text("utf-8"))["raters"] if name not in raters
        ]
        if lost:
            raise UserError(
                f"the ratings of {', '.join(lost)} were read before, and are in none of these"
                " files",
                where=str(before),
                fix="give their files, too, or move that file away",
            )
    result = summary(key, list(found.values()))
    files.write_text(RATINGS, json.dumps(result, indent=1, ensure_ascii=False))
    return result


def summary(key: Mapping[str, Any], found: Sequence[Rating]) -> dict[str, Any]:
    """What the ratings say. Pure.

    A response's rating is the mean over those who rated it. A system's mean has a 95 % bootstrap
    interval over responses (or groups of examples). Agreement between people is Krippendorff's
    alpha; None where it is not defined. Length bias: Spearman's correlation of a response's rating
    with its length in characters, over all responses and within each system, where no system's
    quality stands in for length.

    Raises:
        UserError: Nobody rated anything.
    """
    rows = key["rows"]
    given: dict[str, list[int]] = {id_: [] for id_ in rows}
    for rating in found:
        if rating.value is not None:
            given[rating.id].append(rating.value)
    rated = {id_: float(np.mean(values)) for id_, values in given.items() if values}
    if not rated:
        raise UserError(
            "there is no rating in these files",
            fix=f"fill in the column rating, from {key['low']} to {key['high']}",
        )
    lengths = {id_: len(rows[id_]["response"]) for id_ in rated}
    systems: dict[str, dict[str, Any]] = {}
    for context, system in dict.fromkeys(
        sorted((row["context"], row["system"]) for row in rows.values())
    ):
        mine = [
            id_ for id_, row in rows.items() if (row["context"], row["system"]) == (context, system)
        ]
        done = [id_ for id_ in mine if id_ in rated]
        entry: dict[str, Any] = {
            "responses": len(mine),
            "unrated": len(mine) - len(done),
            "ratings": sum(len(given[id_]) for id_ in mine),
            "rating": None,
            "length_bias": _spearman([rated[id_] for id_ in done], [lengths[id_] for id_ in done]),
        }
        if done:
            array = np.asarray(
                by_group([rated[id_] for id_ in done], [rows[id_]["group"] for id_ in done])
            )
            low, high = bootstrap(array)
            entry["rating"] = {"mean": float(array.mean()), "low": low, "high": high}
        systems.setdefault(context, {})[system] = entry
    raters = list(dict.fromkeys(rating.rater for rating in found))
    return {
        "scale": [key["low"], key["high"]],
        "raters": {
            name: sum(r.value is not None for r in found if r.rater == name) for name in raters
        },
        "contexts": systems,
        "agreement": {
            level: krippendorff_alpha(list(given.values()), level)
            for level in ("ordinal", "interval")
        },
        "length_bias": _spearman([rated[id_] for id_ in rated], [lengths[id_] for id_ in rated]),
        "ratings": [
            {
                "id": r.id,
                "rater": r.rater,
                "rating": r.value,
                **{name: rows[r.id][name] for name in ("context", "example_id", "system")},
            }
            for r in found
        ],
    }


def _spearman(values: Sequence[float], lengths: Sequence[int]) -> dict[str, Any] | None:
    """None where it is not defined: fewer than three responses, or all ratings or lengths alike."""
    if len(values) < 3 or len(set(values)) < 2 or len(set(lengths)) < 2:
        return None
    found: Any = stats.spearmanr(values, lengths)
    return {
        "rho": float(found.statistic),
        "p": float(found.pvalue),
        "flagged": bool(found.pvalue < SIGNIFICANT),
    }


def lines(found: Mapping[str, Any]) -> list[str]:
    """What `ratings.json` says, for the terminal."""
    low, high = found["scale"]
    said = [
        f"rated from {low} to {high} by"
        f" {', '.join(f'{name} ({count})' for name, count in found['raters'].items())}"
    ]
    for context, systems in found["contexts"].items():
        for system, entry in systems.items():
            mean = entry["rating"]
            value = (
                "not rated"
                if mean is None
                else f"{mean['mean']:.2f} [{mean['low']:.2f}, {mean['high']:.2f}]"
            )
            rest = (
                f", {entry['unrated']} of {entry['responses']} unrated" if entry["unrated"] else ""
            )
            said.append(
                f"{context}, {system}: {value}, {entry['ratings']} ratings of {entry['responses']}"
                f" responses{rest}{_bias(entry['length_bias'])}"
            )
    alphas = found["agreement"]
    if alphas["interval"] is None:
        said.append("agreement: not defined (no response has two ratings, or all are alike)")
    else:
        said.append(
            f"agreement (Krippendorff's alpha): ordinal {alphas['ordinal']:.3f}, interval"
            f" {alphas['interval']:.3f}"
        )
    bias = found["length_bias"]
    if bias is None:
        said.append("length bias: not defined (too few responses, or all alike)")
    else:
        verdict = (
            "ratings go with the length of the response" if bias["flagged"] else "no sign of it"
        )
        said.append(
            f"length bias: {verdict} (Spearman's rho {bias['rho']:+.2f}, p = {bias['p']:.3f}, over"
            " all systems)"
        )
    return said


def _bias(bias: Mapping[str, Any] | None) -> str:
    return (
        f"; length bias: rho {bias['rho']:+.2f}, p = {bias['p']:.3f}"
        if bias and bias["flagged"]
        else ""
    )
