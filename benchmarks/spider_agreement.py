"""How often the two SQL metrics beside the recipes say what Spider's official evaluator says.

    python benchmarks/spider_agreement.py EVALUATOR DATA

EVALUATOR is a folder with `evaluation.py` and `process_sql.py` of github.com/taoyds/spider, DATA
one with `tables.json`, `train.jsonl` and `dev.jsonl` (rows with `input.db_id` and `target`). The
evaluator needs NLTK's model of sentences: `python -m nltk.downloader punkt_tab`.

Each gold query is an answer as it is, and changed in the ways in which models' answers differ.
`right` is how many the official evaluator accepts; the two columns behind it are the shares of
pairs on which a metric says the same. Pairs on which the evaluator stops with a traceback are
counted beside and left out. Everything is seeded.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

METRICS = Path(__file__).parents[1] / "recipes/papers/snell2022"
FLAGS = re.IGNORECASE


class Gold(NamedTuple):
    """A gold query, with tables.json's entry of its database and the database's other queries."""

    sql: str
    entry: dict[str, Any]
    others: list[str]


Change = Callable[[Gold, random.Random], str | tuple[str, str] | None]
"""A gold query -> an answer, an answer and another gold query, or None if there is nothing to
change."""


def sub(pattern: str, by: str, count: int = 0) -> Change:
    return lambda gold, _: re.sub(pattern, by, gold.sql, count=count, flags=FLAGS)


def both(pattern: str, answer: str, gold: str) -> Change:
    """Changes the gold query, too: for what few of them have."""

    def change(old: Gold, _: random.Random) -> tuple[str, str]:
        return (
            re.sub(pattern, answer, old.sql, count=1, flags=FLAGS),
            re.sub(pattern, gold, old.sql, count=1, flags=FLAGS),
        )

    return change


def other_aliases(gold: Gold, _: random.Random) -> str:
    return re.sub(r"\bT(\d)\b", r"alias\1", gold.sql, flags=FLAGS)


def no_aliases(gold: Gold, _: random.Random) -> str | None:
    tables = {
        alias.lower(): table
        for table, alias in re.findall(r"(\w+)\s+AS\s+(T\d)\b", gold.sql, FLAGS)
    }
    if len(set(tables.values())) < len(tables):
        return None
    bare = re.sub(r"\s+AS\s+T\d\b", "", gold.sql, flags=FLAGS)
    return re.sub(r"\b(T\d)\.", lambda m: tables.get(m[1].lower(), m[1]) + ".", bare, flags=FLAGS)


def qualified(gold: Gold, _: random.Random) -> str | None:
    """`name` of one table as `singer.name`."""
    found = re.fullmatch(r"(SELECT\s+)(\w+)(\s+FROM\s+(\w+)\b(?!\s+AS).*)", gold.sql, FLAGS)
    return found and f"{found[1]}{found[4]}.{found[2]}{found[3]}"


def keywords_lower(gold: Gold, _: random.Random) -> str:
    return re.sub(r"\b[A-Z]{2,}\b", lambda word: word[0].lower(), gold.sql)


def upper(gold: Gold, _: random.Random) -> str:
    return "".join(
        part if n % 2 else part.upper()
        for n, part in enumerate(re.split(r"(['\"].*?['\"])", gold.sql))
    )


def another_query(gold: Gold, rng: random.Random) -> str:
    return rng.choice(gold.others)


def another_column(gold: Gold, rng: random.Random) -> str | None:
    columns = [name for at, name in gold.entry["column_names_original"] if at >= 0]
    there = [name for name in columns if re.search(rf"\b{re.escape(name)}\b", gold.sql, FLAGS)]
    if not there:
        return None
    old = re.escape(rng.choice(there))
    return re.sub(rf"\b{old}\b", rng.choice(columns), gold.sql, count=1, flags=FLAGS)


def cut(gold: Gold, rng: random.Random) -> str:
    words = gold.sql.split()
    return " ".join(words[: rng.randrange(1, len(words))])


def word_lost(gold: Gold, rng: random.Random) -> str:
    words = gold.sql.split()
    del words[rng.randrange(len(words))]
    return " ".join(words)


def words_swapped(gold: Gold, rng: random.Random) -> str:
    words = gold.sql.split()
    at = rng.randrange(len(words) - 1)
    words[at : at + 2] = words[at + 1], words[at]
    return " ".join(words)


SIDE = r"([\w.]+\s*(?:=|>|<|!=|>=|<=|like)\s*(?:'[^']*'|\"[^\"]*\"|[\w.]+))"
KINDS: dict[str, dict[str, Change]] = {
    "gold queries as they are": {"as it is": lambda gold, _: gold.sql},
    "joins and aliases": {
        "INNER JOIN": sub(r"\bJOIN\b", "INNER JOIN"),
        "LEFT JOIN": sub(r"\bJOIN\b", "LEFT JOIN"),
        "comma for JOIN, ON to WHERE": sub(
            r"\sJOIN\s(.*?)\sON\s([\w.]+\s*=\s*[\w.]+)(?!.*\bWHERE\b)", r" , \1 WHERE \2", 1
        ),
        "aliases without AS": sub(r"\bAS\s+(T\d)\b", r"\1"),
        "other alias names": other_aliases,
        "tables' names for aliases": no_aliases,
        "alias where there is none": sub(r"^(SELECT\s[^()]*\sFROM\s+\w+)\b(?!\s+AS)", r"\1 AS T1"),
        "joined tables swapped": sub(
            r"FROM\s+(\w+\s+AS\s+T\d)\s+JOIN\s+(\w+\s+AS\s+T\d)\b", r"FROM \2 JOIN \1", 1
        ),
        "sides of ON swapped": sub(r"\bON\s+([\w.]+)\s*=\s*([\w.]+)", r"ON \2 = \1"),
        "ON left out": sub(r"\sON\s+[\w.]+\s*=\s*[\w.]+", ""),
        "joined on another column": sub(r"\bON\s+([\w.]+)\s*=\s*([\w.]+)", r"ON \1 = \1"),
        "T1's column for T2's": sub(r"^(SELECT.*?)\bT1\.", r"\1T2.", 1),
    },
    "parentheses": {
        "WHERE in parentheses": sub(rf"\bWHERE\s+{SIDE}", r"WHERE (\1)", 1),
        "ON in parentheses": sub(rf"\bON\s+{SIDE}", r"ON (\1)"),
        "column in parentheses": sub(r"^SELECT\s+([\w.]+)\s+FROM", r"SELECT (\1) FROM"),
        "query in parentheses": sub(r"^(.*)$", r"(\1)"),
        "count(DISTINCT (x))": sub(
            r"count\s*\(\s*DISTINCT\s+([\w.]+)\s*\)", r"count(DISTINCT (\1))"
        ),
    },
    "how it is written": {
        "keywords in lower case": keywords_lower,
        "all in upper case": upper,
        "in lines": sub(r"\s+(FROM|WHERE|GROUP|ORDER|LIMIT|HAVING)\b", r"\n\1"),
        "no blanks around =": sub(r"\s*(?<![<>!])=\s*", "="),
        "<> for !=": sub(r"!\s*=", "<>"),
        "other quotes": lambda gold, _: gold.sql.translate(str.maketrans("'\"", "\"'")),
        "names in backticks": sub(r"\bFROM\s+(\w+)", r"FROM `\1`", 1),
        "a column with an alias": sub(r"\bcount\(\*\)(\s*(?:,|FROM))", r"count(*) AS total\1", 1),
        "qualified column": qualified,
    },
    "text around the query": {
        "semicolon": sub(r"\s*;?\s*$", ";", 1),
        "text behind a semicolon": sub(
            r"\s*;?\s*$", ";\n\nThis query lists what was asked for.", 1
        ),
        "text with an apostrophe": sub(r"\s*;?\s*$", "; It's what was asked for.", 1),
        "text behind": sub(r"\s*;?\s*$", " This query lists what was asked for.", 1),
        "text behind a full stop": sub(r"\s*;?\s*$", ". This query lists what was asked for.", 1),
        "text ahead": sub(r"^", "The query is: ", 1),
        "another query behind": sub(r"\s*;?\s*$", "; SELECT 1", 1),
        "fence around": sub(r"^(.*)$", r"```sql\n\1\n```"),
        "fence behind": sub(r"\s*;?\s*$", "\n```", 1),
        "fence behind a semicolon": sub(r"\s*;?\s*$", ";\n```", 1),
    },
    "DISTINCT": {
        "DISTINCT added": sub(r"^SELECT\s+(?!DISTINCT)", "SELECT DISTINCT ", 1),
        "DISTINCT left out": sub(r"\bDISTINCT\b", ""),
        "DISTINCT added in an aggregate": sub(
            r"\b(count|max|avg|sum)\s*\(\s*(\w)", r"\1(DISTINCT \2"
        ),
        "DISTINCT added in a nested query": sub(r"\(\s*SELECT\s+(?!DISTINCT)", "(SELECT DISTINCT "),
    },
    "clauses: order, left out, other values": {
        "items in another order": sub(
            r"^SELECT\s+([^,]*?)\s*,\s*([^,]*?)\s+FROM", r"SELECT \2, \1 FROM"
        ),
        "conditions in another order": sub(
            rf"\bWHERE\s+{SIDE}\s+(AND|OR)\s+{SIDE}", r"WHERE \3 \2 \1", 1
        ),
        "OR for AND": sub(r"\bAND\b", "OR", 1),
        "AND and OR": both(
            rf"\bWHERE\s+{SIDE}", r"WHERE \1 AND \1 OR \1", r"WHERE \1 OR \1 AND \1"
        ),
        "a NOT": sub(r"\bWHERE\s+", "WHERE NOT ", 1),
        "other values": sub(r"'[^']*'|\"[^\"]*\"", "'other'"),
        "other numbers": sub(r"(=|>|<)\s*\d+", r"\1 17"),
        "another sign": sub(r"(?<![<>!])>", "<", 1),
        "IN and a list": sub(r"=\s*('[^']*'|\"[^\"]*\")", r"IN (\1)"),
        "another aggregate": sub(r"\b(max|avg|sum)\s*\(", "min(", 1),
        "count of a column": sub(
            r"count\(\*\)(.*\bFROM\s+\w+\s+AS\s+T1\b.*\bON\s+(T1\.\w+))", r"count(\2)\1"
        ),
        "GROUP BY in another order": both(
            r"^(SELECT\s+([\w.]+)\b.*\bGROUP BY\s+)([\w.]+)", r"\1\2, \3", r"\1\3, \2"
        ),
        "GROUP BY left out": sub(r"\sGROUP BY\s+[\w.]+", ""),
        "HAVING in another order": both(
            r"\b(GROUP BY\s+([\w.]+))(?![\w.]|\s*HAVING|\s*,)",
            r"\1 HAVING count(*) > 1 AND max(\2) > 2",
            r"\1 HAVING max(\2) > 1 AND count(*) > 2",
        ),
        "HAVING with OR for AND": both(
            r"\b(GROUP BY\s+([\w.]+))(?![\w.]|\s*HAVING|\s*,)",
            r"\1 HAVING count(*) > 1 OR max(\2) > 2",
            r"\1 HAVING count(*) > 1 AND max(\2) > 2",
        ),
        "ASC written": sub(r"\b(ORDER BY\s+[\w.]+)(?!.*\b(?:DESC|ASC)\b)", r"\1 ASC", 1),
        "DESC for ASC": sub(r"\bDESC\b", "ASC"),
        "each key its direction": both(
            r"\bORDER BY\s+([\w.]+)(?![\w.(])", r"ORDER BY \1 DESC, \1 ASC", r"ORDER BY \1, \1"
        ),
        "ORDER BY a number": sub(r"\bORDER BY\s+[\w.]+(?![\w.(])", "ORDER BY 1"),
        "another LIMIT": sub(r"\bLIMIT\s+\d+", "LIMIT 7"),
        "LIMIT left out": sub(r"\s+LIMIT\s+\d+", ""),
        "LIMIT added": sub(r"(ORDER BY\s+[\w.]+)\s*$", r"\1 LIMIT 1"),
        "OFFSET": sub(r"\b(LIMIT\s+\d+)", r"\1 OFFSET 2"),
        "LIMIT 0, 1": sub(r"\bLIMIT\s+(\d+)", r"LIMIT 0, \1"),
    },
    "nested queries and set operations": {
        "other values in a nested query": sub(
            r"(\(\s*SELECT.*?)('[^']*'|\"[^\"]*\")", r"\1'other'"
        ),
        "conditions of a nested query": both(
            r"(\(\s*SELECT\s+([\w.]+)\s+FROM\s+\w+)\s*\)",
            r"\1 WHERE \2 > 1 AND \2 < 1)",
            r"\1 WHERE \2 < 1 AND \2 > 1)",
        ),
        "LIMIT of a nested query": both(
            r"(\(\s*SELECT\s+[\w.]+\s+FROM\s+\w+)\s*\)", r"\1 LIMIT 1)", r"\1 LIMIT 2)"
        ),
        "nested query in FROM": sub(r"\bFROM\s+(\w+)\s*$", r"FROM (SELECT * FROM \1)"),
        "operands swapped": sub(r"^(.*?)\s+(UNION|INTERSECT|EXCEPT)\s+(.*)$", r"\3 \2 \1"),
        "UNION ALL": sub(r"\bUNION\b", "UNION ALL"),
        "another set operation": sub(r"\b(INTERSECT|EXCEPT)\b", "UNION"),
    },
    "another query, half a query, none": {
        "another query": another_query,
        "another column": another_column,
        "cut": cut,
        "a word lost": word_lost,
        "two words swapped": words_swapped,
        "no query": lambda _, rng: rng.choice(
            ["", "I don't know.", "There is no such table.", "SELECT"]
        ),
    },
}


def golds(data: Path) -> Iterator[Gold]:
    entries = {entry["db_id"]: entry for entry in json.loads((data / "tables.json").read_text())}
    queries: dict[str, list[str]] = defaultdict(list)
    for part in ("train", "dev"):
        for line in (data / f"{part}.jsonl").open(encoding="utf-8"):
            row = json.loads(line)
            queries[row["input"]["db_id"]].append(row["target"].strip())
    for database, each in queries.items():
        for sql in each:
            yield Gold(sql, entries[database], each)


def official(evaluation: Any, answer: str, gold: str, entry: dict[str, Any]) -> bool | None:
    """What `evaluate` of evaluation.py says of one pair; None where it would stop."""
    tables = [table.lower() for table in entry["table_names_original"]]
    columns = entry["column_names_original"]
    schema = evaluation.Schema(
        {
            table: [name.lower() for at, name in columns if at == number]
            for number, table in enumerate(tables)
        }
    )
    keys = evaluation.build_foreign_key_map(entry)

    def rebuilt(sql: Any) -> Any:
        valid = evaluation.build_valid_col_units(sql["from"]["table_units"], schema)
        return evaluation.rebuild_sql_col(valid, evaluation.rebuild_sql_val(sql), keys)

    try:
        wanted = evaluation.get_sql(schema, gold)
    except Exception:
        return None
    try:
        read = evaluation.get_sql(schema, answer)
    except Exception:
        return False  # there, an empty query takes its place, which matches no gold query
    try:
        return bool(evaluation.Evaluator().eval_exact_match(rebuilt(read), rebuilt(wanted)))
    except Exception:
        return None


def ours(answer: str, gold: str, entry: dict[str, Any]) -> tuple[bool, bool]:
    """What `sql_official` and `sql_exact_set` say."""
    from sql_exact_set import exact_set_match  # pyright: ignore[reportMissingImports]
    from sql_official import official_match  # pyright: ignore[reportMissingImports]

    from unprompt.records import Example

    example = Example("pair", {"schema": entry}, gold)
    schema: dict[str, list[str]] = defaultdict(list)
    for at, name in entry["column_names_original"]:
        schema[entry["table_names_original"][at] if at >= 0 else ""].append(name)
    return (
        bool(official_match(answer, example)),
        bool(exact_set_match(answer, example, schema=schema)),
    )


class Counts(NamedTuple):
    """Of pairs: all, those officially right, those on which each metric agrees, and those left
    out.
    """

    pairs: int = 0
    right: int = 0
    sql_official: int = 0
    sql_exact_set: int = 0
    stopped: int = 0

    def plus(self, other: Counts) -> Counts:
        return Counts(*map(sum, zip(self, other, strict=True)))

    def line(self, kind: str) -> str:
        shares = (self.sql_official, self.sql_exact_set)
        written = [f"{100 * each / self.pairs:.2f} %" if self.pairs else "" for each in shares]
        return (
            f"| {kind} | {self.pairs:,} | {self.right:,} | {' | '.join(written)} | {self.stopped} |"
        )


def compare(evaluation: Any, answer: str, gold: str, entry: dict[str, Any]) -> Counts:
    """One pair. A disagreement of `sql_official` is printed."""
    said = official(evaluation, " ".join(answer.split()), gold, entry)
    if said is None:
        return Counts(stopped=1)
    strict, paper = ours(answer, gold, entry)
    if strict != said:
        print(f"official {said}\n  answer {answer!r}\n  gold   {gold!r}", file=sys.stderr)
    return Counts(1, said, strict == said, paper == said)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("evaluator", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sample", type=int, default=0, help="gold queries; 0: all")
    parser.add_argument("--kinds", action="store_true", help="a line for each kind of change, too")
    args = parser.parse_args()
    sys.path[:0] = [str(args.evaluator), str(METRICS)]
    evaluation = importlib.import_module("evaluation")
    rows = list(golds(args.data))
    if args.sample:
        rows = random.Random(0).sample(rows, args.sample)
    print("| answers | pairs | right | sql_official | sql_exact_set | stopped |")
    print("|---|---|---|---|---|---|")
    total = Counts()
    for group, kinds in KINDS.items():
        of_group = Counts()
        for kind, change in kinds.items():
            rng, of_kind = random.Random(0), Counts()
            for row in rows:
                changed = change(row, rng)
                answer, gold = changed if isinstance(changed, tuple) else (changed, row.sql)
                if answer is not None and (answer != row.sql or kind == "as it is"):
                    of_kind = of_kind.plus(compare(evaluation, answer, gold, row.entry))
            if args.kinds:
                print(of_kind.line(f"... {kind}"), flush=True)
            of_group = of_group.plus(of_kind)
        print(of_group.line(group), flush=True)
        if "as it is" not in kinds:
            total = total.plus(of_group)
    print(total.line("**all that are changed**"))


if __name__ == "__main__":
    main()
