"""Ratings given in the browser: one SQLite file in the run's folder, a row for each rater and
response.

Every call is a transaction of its own, on disk when it returns (write-ahead log, full sync), so
several people, a reload and a kill lose nothing.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from unprompt.messages import UserError

_TABLE = """CREATE TABLE IF NOT EXISTS ratings (
    rater TEXT NOT NULL, id TEXT NOT NULL, rating INTEGER NOT NULL,
    at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (rater, id)
) WITHOUT ROWID"""


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection, connection:
            yield connection
    except sqlite3.Error as error:
        fix = "check the disk, and that this is a file of ratings"
        raise UserError(f"SQLite: {error}", where=str(path), fix=fix) from None


def create(path: Path) -> None:
    """Make the file, unless it is there."""
    with _opened(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(_TABLE)


def save(path: Path, rater: str, id_: str, rating: int) -> None:
    """Write one rating down; a later one of the same person for the same response replaces it."""
    with _opened(path) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        row = (rater, id_, rating)
        connection.execute("REPLACE INTO ratings (rater, id, rating) VALUES (?, ?, ?)", row)


def given(path: Path) -> dict[str, dict[str, int]]:
    """Rater -> id -> rating."""
    ratings: dict[str, dict[str, int]] = {}
    query = "SELECT rater, id, rating FROM ratings ORDER BY at, rater, id"
    with _opened(path) as connection:
        for rater, id_, rating in connection.execute(query):
            if not (isinstance(rater, str) and isinstance(id_, str) and isinstance(rating, int)):
                what, fix = "a rating that is no number", "put back the file that the page wrote"
                raise UserError(what, where=str(path), fix=fix)
            ratings.setdefault(rater, {})[id_] = rating
    return ratings


def is_one(path: Path) -> bool:
    """Whether this is a SQLite file."""
    try:
        with path.open("rb") as file:
            return file.read(16) == b"SQLite format 3\0"
    except OSError:
        return False
