"""The rating sheet (CSV) that people fill in: written so that no spreadsheet runs a cell, and read
with all that spreadsheets do to a file. Files of people are only read.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from unprompt.messages import UserError
from unprompt.store.files import replacing
from unprompt.tools.rating import ballots

COLUMNS = ("id", "input", "response", "rating", "rater")
FORMULA = "=+-@＝＋－＠"
"""First letters for which a spreadsheet may run a cell."""
_QUOTE = "'"
_EATEN = ("\t", "\r", "\n", _QUOTE)
"""First letters that a spreadsheet does not leave as they are."""
_FORMULAS = re.compile(f"[{FORMULA}]")
_STARTS = ";\t\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
"""What may stand ahead of a cell's first letter, where semicolons or tabs separate cells."""

Ratings = dict[tuple[str, str], int | None]
"""(Row's id, rater) -> rating; None where the cell was left empty."""


def harmless(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula, nor a part of it for one, whatever separates
    its cells; `plain` undoes it.
    """
    guarded = _QUOTE.join(_pieces(cell))
    return _QUOTE + guarded if cell.startswith(_EATEN) else guarded


def plain(cell: str) -> str:
    """What `harmless` was given."""
    if cell[:1] == _QUOTE and cell[1:].startswith(_EATEN):
        cell = cell[1:]
    *pieces, last = _pieces(cell)
    return "".join(piece.removesuffix(_QUOTE) for piece in pieces) + last


def _pieces(cell: str) -> list[str]:
    """A cell in pieces that begin where a formula may."""
    places = [0, *_live(cell), len(cell)]
    return [cell[a:b] for a, b in itertools.pairwise(places)]


def _live(cell: str) -> Iterator[int]:
    """Places of letters that may be the first of a formula: at the beginning or behind a separator,
    blanks and quotes aside. A guard ahead of one changes nothing of that.
    """
    for match in _FORMULAS.finditer(cell):
        at, starts = match.start(), False
        while at and cell[at - 1] == _QUOTE:
            at -= 1
        while at and (cell[at - 1] in _STARTS or cell[at - 1].isspace() or cell[at - 1] == '"'):
            at -= 1
            starts = starts or cell[at] in _STARTS
        if starts or not at:
            yield match.start()


def write(path: Path, key: Mapping[str, Any]) -> None:
    """Write a sheet: what a key's rows show, in its order.

    Raises:
        UserError: There is a file of this name.
    """
    if path.exists():
        raise UserError(
            "there is a file already, and somebody's ratings may be in it",
            where=str(path),
            fix="choose another name with --out",
        )
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerow(COLUMNS)
    for id_, row in key["rows"].items():
        writer.writerow([id_, harmless(row["input"]), harmless(row["response"]), "", ""])
    with replacing(path) as partial:
        # the mark tells spreadsheets that it is UTF-8
        partial.write_bytes(text.getvalue().encode("utf-8-sig", "replace"))


def read(path: Path, key: Mapping[str, Any]) -> Ratings:
    """The ratings of one file: a sheet, or those given in the browser (`ratings.sqlite`).

    A sheet without any name in `rater` is taken as one person's, named as the file is.

    Raises:
        UserError: It is no sheet of this run, or a row is missing, unknown, changed, twice there,
            or rated outside the scale.
    """
    if ballots.is_one(path):
        return _from_browser(path, key)
    rows = _rows(path)
    unnamed = "" if any(row["rater"].strip() for _, row in rows) else path.stem
    ratings: Ratings = {}
    for where, row in rows:
        id_, value = _rating(row, key, where)
        rater = row["rater"].strip() or unnamed
        if not rater:
            raise UserError(
                f"row '{id_}' does not say who rated it",
                where=where,
                fix="fill in rater in every row, or in none",
            )
        if (id_, rater) in ratings:
            raise UserError(
                f"{rater} rated row '{id_}' twice", where=where, fix="leave one of the two"
            )
        ratings[id_, rater] = value
    for rater, rated in Counter(rater for _, rater in ratings).items():
        if rated == len(key["rows"]):
            continue
        missing = [id_ for id_ in key["rows"] if (id_, rater) not in ratings]
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise UserError(
                f"row '{missing[0]}' of {rater} is missing{more}",
                where=str(path),
                fix="put it back; a row that was not rated stays, with an empty rating",
            )
    return ratings


def _from_browser(path: Path, key: Mapping[str, Any]) -> Ratings:
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
    return {(id_, rater): given[rater].get(id_) for rater in given for id_ in key["rows"]}


def _rows(path: Path) -> list[tuple[str, dict[str, str]]]:
    """Rows, with the file's name and the number of the line each ends in. Spreadsheets in some
    languages write semicolons or tabs.
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
    csv.field_size_limit(2**31 - 1)  # a document in one cell
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = []
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        for name in ("id", "rating", "rater"):
            if name not in header:
                raise UserError(
                    f"not a rating sheet: it has no column '{name}'", where=str(path), fix=fix
                )
        for cells in reader:
            where = f"{path}:{reader.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"the row has {len(cells)} cells, the header {len(header)}",
                    where=where,
                    fix="mend that row",
                )
            rows.append((where, dict(zip(header, map(plain, cells), strict=True))))
    except csv.Error as error:
        raise UserError(f"not CSV: {error}", where=f"{path}:{reader.line_num}", fix=fix) from None
    return rows


def _rating(row: dict[str, str], key: Mapping[str, Any], where: str) -> tuple[str, int | None]:
    """A row's id and rating. Its response has to be the one that it was sent with."""
    id_, written, low, high = row["id"].strip(), row["rating"].strip(), key["low"], key["high"]
    if id_ not in key["rows"]:
        raise UserError(
            f"there is no row '{id_}' in this run's sheet",
            where=where,
            fix="give the file that belongs to this run",
        )
    sent = key["rows"][id_]["response"]
    if "response" in row and _bare(row["response"]) != _bare(sent):
        raise UserError(
            f"the response is not the one that row '{id_}' was sent with",
            where=where,
            fix="undo what moved it: sort whole rows, never one column, and leave the responses as"
            " they are",
        )
    if not written:
        return id_, None
    try:
        value = float(written.replace(",", "."))
    except ValueError:
        value = float("nan")
    if value % 1 or not low <= value <= high:
        raise UserError(
            f"the rating of row '{id_}' is '{written}'",
            where=where,
            fix=f"write a whole number from {low} to {high}, or leave it empty",
        )
    return id_, int(value)


def _bare(text: str) -> str:
    """A response as it survives a spreadsheet: without quotes that may be guards, and whatever its
    blanks and line ends are.
    """
    *pieces, last = _pieces(text)
    text = "".join(piece.rstrip(_QUOTE) for piece in pieces) + last
    text = text.lstrip(_QUOTE).replace("\0", "").encode("utf-8", "replace").decode()
    return " ".join(text.split())
