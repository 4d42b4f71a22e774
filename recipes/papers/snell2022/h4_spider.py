"""Rows of Spider (Yu et al. 2018, CC BY-SA 4.0): questions about one table, with its columns, and
the SQL query that answers them.

Kept are the questions whose gold query reads one table, has no WHERE, GROUP BY, HAVING or LIMIT and
selects at most two items. The table is given with the question, so the task is to write the query,
not to find the table among a database's. `conditions: true` lifts all but the first of these.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unprompt import UserError

SEED = 3
"""Which queries stand in the prompt, and in which order: the best of five (2 to 6) for the teacher,
on 40 training questions."""
KINDS = 8
"""The so many commonest kinds of query stand in the prompt, each as often as any other."""
LONGEST = 120
"""Longest list of a table's columns, in characters."""
SCHEMA = ("table_names_original", "column_names_original", "foreign_keys")
"""What of a database's entry in tables.json goes with a question."""
_TWO_SOURCES = re.compile(r"\b(join|union|intersect|except)\b", re.IGNORECASE)
_CONDITIONS = re.compile(r"\b(where|group|having|limit)\b", re.IGNORECASE)
_FROM = re.compile(r'\bfrom\s+"?(\w+)', re.IGNORECASE)
_WORD = re.compile(
    r"select|from|where|group|by|order|having|limit|distinct|count|avg|max|min|sum|and|or|desc|asc"
)


def queries(
    folder: str, part: str, shots: int = 8, conditions: bool = False
) -> Iterator[dict[str, Any]]:
    """Questions with `table` and `columns`, and where the part has it the gold query as `sql`; in
    the test part with the database's `schema`, which `sql_official` reads.

    Args:
        folder: Where train.jsonl, dev.jsonl and tables.json lie, seen from this file's folder.
        part: `examples` (from train, with queries), `inputs` (the rest of train, without) or `test`
            (dev, with).
        shots: Examples in the prompt: the commonest kinds in turn, each example from another
            database.
        conditions: Keep queries with conditions, groups and limits, and longer lists of items, too.
    """
    base = Path(__file__).parent / folder
    if not (base / "tables.json").is_file():
        raise UserError(
            "Spider is not there",
            where=str(base),
            fix="set args.folder of the recipe's data to its folder",
        )
    schemas = {
        schema["db_id"]: schema for schema in json.loads((base / "tables.json").read_text("utf-8"))
    }
    with (base / ("dev.jsonl" if part == "test" else "train.jsonl")).open(encoding="utf-8") as file:
        rows = [row for line in file if (row := _row(json.loads(line), schemas, conditions))]
    if part == "test":
        yield from (
            {key: row[key] for key in ("id", "question", "table", "columns", "sql")}
            | {"schema": {key: schemas[row["database"]][key] for key in SCHEMA}}
            for row in rows
        )
        return
    random.Random(SEED).shuffle(rows)
    shown = _shown(rows, shots)
    if part == "examples":
        yield from (
            {key: row[key] for key in ("id", "question", "table", "columns", "sql")}
            for row in shown
        )
    else:
        ids = {row["id"] for row in shown}
        yield from (
            {key: row[key] for key in ("id", "question", "table", "columns")}
            for row in rows
            if row["id"] not in ids
        )


def _row(row: dict[str, Any], schemas: dict[str, Any], conditions: bool) -> dict[str, str] | None:
    sql = (
        re.sub(r"\s+", " ", row["target"])
        .replace(" ,", ",")
        .replace("( ", "(")
        .replace(" )", ")")
        .strip()
        .rstrip(";")
        .strip()
    )
    found = _FROM.findall(sql)
    if (
        _TWO_SOURCES.search(sql)
        or len(found) != 1
        or len(re.findall(r"\bselect\b", sql, re.IGNORECASE)) != 1
    ):
        return None
    if not conditions and (
        _CONDITIONS.search(sql) or re.split(r"\bfrom\b", sql, flags=re.IGNORECASE)[0].count(",") > 1
    ):
        return None
    schema = schemas[row["input"]["db_id"]]
    names = [name.lower() for name in schema["table_names_original"]]
    if found[0].lower() not in names:
        return None
    number = names.index(found[0].lower())
    columns = ", ".join(
        column for table, column in schema["column_names_original"] if table == number
    )
    if len(columns) > LONGEST:
        return None
    return {
        "id": row["id"],
        "database": row["input"]["db_id"],
        "question": row["input"]["question"].strip(),
        "table": schema["table_names_original"][number],
        "columns": columns,
        "sql": sql,
    }


def _kind(sql: str) -> str:
    """The query without its names, numbers and texts."""
    return re.sub(
        r"'[^']*'|\"[^\"]*\"|\w[\w.]*",
        lambda word: word[0].lower() if _WORD.fullmatch(word[0].lower()) else "x",
        sql,
    )


def _shown(rows: list[dict[str, str]], shots: int) -> list[dict[str, str]]:
    kinds = [kind for kind, _ in Counter(_kind(row["sql"]) for row in rows).most_common(KINDS)]
    shown: list[dict[str, str]] = []
    for place in range(shots):
        seen = {row["database"] for row in shown}
        wanted = kinds[place % len(kinds)]
        shown.append(
            next(row for row in rows if _kind(row["sql"]) == wanted and row["database"] not in seen)
        )
    random.Random(SEED).shuffle(shown)
    return shown
