"""Spider's official exact-set match, told again: every rule, and where it differs from the paper's
definition (`sql_exact_set`). What the official evaluator says of these pairs was asked of itself
when they were written (`benchmarks/spider_agreement.py` asks it of many more).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import SNELL, beside_recipes
from unprompt import metrics
from unprompt.messages import UserError
from unprompt.records import Example
from unprompt.stages import evaluate

sql_official, sql_exact_set = beside_recipes("sql_official"), beside_recipes("sql_exact_set")

ENTRY: dict[str, Any] = {
    "table_names_original": ["Singer", "Concert"],
    "column_names_original": [
        *[[-1, "*"], [0, "Id"], [0, "Name"], [0, "Age"], [0, "Country"]],
        *[[1, "Cid"], [1, "Singer_id"], [1, "Year"], [1, "Venue"]],
    ],
    "foreign_keys": [[6, 1]],
}
SCHEMA = {
    "singer": ["id", "name", "age", "country"],
    "concert": ["cid", "singer_id", "year", "venue"],
}


def score(answer: str, target: object) -> float:
    return sql_official.official_match(answer, Example("e1", {"schema": ENTRY}, target))


def by_the_paper(answer: str, target: object) -> float:
    return sql_exact_set.exact_set_match(answer, Example("e1", {}, target), schema=SCHEMA)


S = "SELECT name FROM singer"
J = "FROM singer AS T1 JOIN concert AS T2 ON T1.id = T2.singer_id"
NESTED = f"{S} WHERE id IN (SELECT singer_id FROM concert"
G = "SELECT count(*) FROM singer GROUP BY country"

BOTH_RIGHT = {
    "letter case": [("select NAME from Singer", S), (f"{S} WHERE AGE > 1", f"{S} where age > 1")],
    "items in any order": [
        ("SELECT age, name FROM singer", "SELECT name, age FROM singer"),
        ("SELECT max(age), count(*) FROM singer", "SELECT count(*), max(age) FROM singer"),
    ],
    "values": [
        (f"{S} WHERE age > 5", f"{S} WHERE age > 6"),
        (
            f"{S} WHERE country = 'x' AND age BETWEEN 1 AND 2",
            f'{S} WHERE country = "y" AND age BETWEEN 3 AND 4',
        ),
    ],
    "conditions in any order": [
        (f"{S} WHERE age = 1 AND id = 2", f"{S} WHERE id = 2 AND age = 1"),
        (
            f"{S} WHERE age = 1 OR id = 2 AND name = 'x'",
            f"{S} WHERE name = 'x' AND id = 2 OR age = 1",
        ),
    ],
    "names of aliases": [
        (f"SELECT a.venue {J.replace('T1', 'b').replace('T2', 'a')}", f"SELECT T2.venue {J}"),
        ("SELECT T1.name FROM singer AS T1", S),
    ],
    "joined tables in any order": [
        (
            "SELECT T1.venue FROM concert AS T1 JOIN singer AS T2 ON T1.singer_id = T2.id",
            f"SELECT T2.venue {J}",
        ),
        ("SELECT count(*) FROM concert JOIN singer", "SELECT count(*) FROM singer JOIN concert"),
    ],
    "whose column it is": [
        (f"SELECT venue {J}", f"SELECT T2.venue {J}"),
        ("SELECT singer.name FROM singer", S),
    ],
    "columns that a join ties": [
        (f"SELECT T2.singer_id {J}", f"SELECT T1.id {J}"),
        (f"SELECT count(*) {J} GROUP BY T2.singer_id", f"SELECT count(*) {J} GROUP BY T1.id"),
    ],
    "LIMIT's number": [
        (f"{S} ORDER BY age LIMIT 3", f"{S} ORDER BY age LIMIT 1"),
        (f"{S} LIMIT 2", f"{S} LIMIT 1"),
    ],
    "parentheses around a column or the query": [
        ("SELECT (name) FROM singer", S),
        (f"({S})", S),
    ],
}

BOTH_WRONG = {
    "items": [("SELECT age FROM singer", S), ("SELECT name, age FROM singer", S)],
    "aggregates": [
        ("SELECT max(age) FROM singer", "SELECT min(age) FROM singer"),
        ("SELECT count(*) FROM singer", "SELECT count(id) FROM singer"),
    ],
    "tables": [
        (f"SELECT T1.name {J}", S),
        ("SELECT count(*) FROM concert", "SELECT count(*) FROM singer"),
    ],
    "conditions": [
        (f"{S} WHERE age > 1", f"{S} WHERE age < 1"),
        (f"{S} WHERE age > 1 AND id = 1", f"{S} WHERE age > 1"),
        (f"{S} WHERE name NOT LIKE 'x'", f"{S} WHERE name LIKE 'x'"),
    ],
    "AND and OR": [
        (f"{S} WHERE age = 1 OR id = 1", f"{S} WHERE age = 1 AND id = 1"),
        (f"{S} WHERE age = 1 AND id = 1 OR id = 2", f"{S} WHERE age = 1 AND id = 1 AND id = 2"),
    ],
    "GROUP BY": [(G, "SELECT count(*) FROM singer"), (G, G.replace("country", "age"))],
    "HAVING": [
        (f"{G} HAVING count(*) > 1", G),
        (f"{G} HAVING count(*) > 1", f"{G} HAVING max(age) > 1"),
        (f"{G} HAVING count(*) > 1 OR max(age) > 1", f"{G} HAVING count(*) > 1 AND max(age) > 1"),
    ],
    "ORDER BY": [
        (f"{S} ORDER BY age", S),
        (f"{S} ORDER BY age DESC", f"{S} ORDER BY age"),
        (f"{S} ORDER BY age, id", f"{S} ORDER BY id, age"),
    ],
    "LIMIT": [(f"{S} LIMIT 1", S), (f"{S} ORDER BY age", f"{S} ORDER BY age LIMIT 1")],
    "set operations": [
        (f"{S} UNION {S}", f"{S} INTERSECT {S}"),
        (f"{S} EXCEPT {S} WHERE age = 1", f"{S} EXCEPT {S}"),
        (S, f"{S} UNION {S} WHERE age = 1"),
    ],
    "nested queries": [
        (
            f"{S} WHERE age > (SELECT max(age) FROM singer)",
            f"{S} WHERE age > (SELECT avg(age) FROM singer)",
        ),
        (f"{NESTED})", f"{NESTED})".replace("IN", "NOT IN")),
    ],
    "no query": [("", S), ("I do not know.", S), ("SELECT", S), ("SELECT name FROM", S)],
    "text ahead": [(f"The query is {S}", S), (f"```sql\n{S}\n```", S)],
    "tables and columns that are not there": [
        ("SELECT name FROM singers", S),
        ("SELECT names FROM singer", S),
    ],
}

ONLY_OFFICIALLY_RIGHT = {
    "DISTINCT": [
        ("SELECT DISTINCT name FROM singer", S),
        ("SELECT count(age) FROM singer", "SELECT count(DISTINCT age) FROM singer"),
    ],
    "join conditions": [
        ("SELECT T1.name FROM singer AS T1 JOIN concert AS T2", f"SELECT T1.name {J}"),
        (f"SELECT T1.name {J.replace('singer_id', 'cid')}", f"SELECT T1.name {J}"),
    ],
    "a column on the right": [
        (f"{S} WHERE age > id", f"{S} WHERE age > 5"),
        (f"{S} WHERE name = country", f"{S} WHERE name = 'x'"),
    ],
    "one direction for all keys": [
        (f"{S} ORDER BY age, id DESC", f"{S} ORDER BY age DESC, id DESC"),
        (f"{S} ORDER BY age DESC, id", f"{S} ORDER BY age DESC, id DESC"),
    ],
    "OFFSET": [
        (f"{S} ORDER BY age LIMIT 1 OFFSET 2", f"{S} ORDER BY age LIMIT 1"),
        (f"{S} LIMIT 1, 2", f"{S} LIMIT 1"),
    ],
    "text behind": [
        (f"{S};\n\nThis query lists the names.", S),
        (f"{S};\n```", S),
        (f"{S} ORDER BY age DESC. This query sorts them.", f"{S} ORDER BY age DESC"),
        (f"{S} ; {S}", S),
    ],
    "columns that a foreign key ties, not joined on": [
        (
            "SELECT T2.singer_id FROM singer AS T1 JOIN concert AS T2",
            "SELECT T1.id FROM singer AS T1 JOIN concert AS T2",
        ),
        (
            f"SELECT T2.singer_id {J.replace('T1.id', 'T1.age')}",
            f"SELECT T1.id {J.replace('T1.id', 'T1.age')}",
        ),
    ],
}

ONLY_BY_THE_PAPER_RIGHT = {
    "INNER JOIN": [
        (f"SELECT T1.name {J.replace('JOIN', 'INNER JOIN')}", f"SELECT T1.name {J}"),
        (
            "SELECT count(*) FROM singer INNER JOIN concert",
            "SELECT count(*) FROM singer JOIN concert",
        ),
    ],
    "a comma between tables": [
        ("SELECT count(*) FROM singer, concert", "SELECT count(*) FROM singer JOIN concert"),
        ("SELECT venue FROM concert, singer", "SELECT venue FROM singer JOIN concert"),
    ],
    "aliases without AS": [
        ("SELECT s.name FROM singer s", S),
        (f"SELECT T1.name {J.replace(' AS', '')}", f"SELECT T1.name {J}"),
    ],
    "aliases of columns": [
        ("SELECT name AS who FROM singer", S),
        ("SELECT count(*) AS n FROM singer", "SELECT count(*) FROM singer"),
    ],
    "parentheses around conditions": [
        (f"{S} WHERE (age > 1)", f"{S} WHERE age > 1"),
        (f"SELECT T1.name {J.replace('ON ', 'ON (')})", f"SELECT T1.name {J}"),
    ],
    "blanks left out": [
        (f"{S} WHERE age=1", f"{S} WHERE age = 1"),
        (f"SELECT T1.name {J.replace(' = ', '=')}", f"SELECT T1.name {J}"),
        (f"{S} WHERE age >=1", f"{S} WHERE age >= 1"),
    ],
    "other spellings": [
        (f"{S} WHERE age <> 1", f"{S} WHERE age != 1"),
        ("SELECT `name` FROM `singer`", S),
        ("SELECT T1.* FROM singer AS T1", "SELECT * FROM singer"),
        ("SELECT count(DISTINCT (age)) FROM singer", "SELECT count(DISTINCT age) FROM singer"),
    ],
    "GROUP BY in another order": [
        (f"{G}, age", G.replace("country", "age, country")),
        (f"{G}, age HAVING count(*) > 1", G.replace("country", "age, country HAVING count(*) > 1")),
    ],
    "HAVING in another order": [
        (f"{G} HAVING count(*) > 1 AND max(age) > 2", f"{G} HAVING max(age) > 2 AND count(*) > 1"),
        (f"{G} HAVING max(id) > 1 OR max(age) > 2", f"{G} HAVING max(age) > 2 OR max(id) > 1"),
    ],
    "operands in another order": [
        (f"{S} UNION SELECT venue FROM concert", f"SELECT venue FROM concert UNION {S}"),
        (f"{S} INTERSECT {S} WHERE age = 1", f"{S} WHERE age = 1 INTERSECT {S}"),
    ],
    "nested queries in another order": [
        (f"{NESTED} WHERE year = 1 AND venue = 2)", f"{NESTED} WHERE venue = 2 AND year = 1)"),
        (
            f"{S} WHERE id IN (SELECT T2.singer_id FROM concert AS T2 JOIN singer AS T1)",
            f"{S} WHERE id IN (SELECT T2.singer_id FROM singer AS T1 JOIN concert AS T2)",
        ),
    ],
    "a nested query's LIMIT": [
        (f"{NESTED} LIMIT 1)", f"{NESTED} LIMIT 2)"),
        (f"{NESTED} ORDER BY year LIMIT 3)", f"{NESTED} ORDER BY year LIMIT 1)"),
    ],
    "values of a nested query in FROM": [
        (f"SELECT count(*) FROM ({S} WHERE age > 1)", f"SELECT count(*) FROM ({S} WHERE age > 2)"),
        (
            f"SELECT count(*) FROM ({S} WHERE name = 'x')",
            f"SELECT count(*) FROM ({S} WHERE name = 'y')",
        ),
    ],
    "a lone quote behind a comment": [(f"{S} -- it's all", S), (f"{S} /* the singers' */", S)],
}


def pairs(table: dict[str, list[tuple[str, str]]]) -> list[Any]:
    return [
        pytest.param(*pair, id=f"{name} {n}")
        for name in table
        for n, pair in enumerate(table[name])
    ]


@pytest.mark.parametrize(("answer", "gold"), pairs(BOTH_RIGHT))
def test_both_rules_call_it_right(answer: str, gold: str) -> None:
    assert score(answer, gold) == by_the_paper(answer, gold) == 1


@pytest.mark.parametrize(("answer", "gold"), pairs(BOTH_WRONG))
def test_both_rules_call_it_wrong(answer: str, gold: str) -> None:
    assert score(answer, gold) == by_the_paper(answer, gold) == 0


@pytest.mark.parametrize(("answer", "gold"), pairs(ONLY_OFFICIALLY_RIGHT))
def test_only_the_official_rule_calls_it_right(answer: str, gold: str) -> None:
    assert (score(answer, gold), by_the_paper(answer, gold)) == (1, 0)


@pytest.mark.parametrize(("answer", "gold"), pairs(ONLY_BY_THE_PAPER_RIGHT))
def test_only_the_papers_definition_calls_it_right(answer: str, gold: str) -> None:
    assert (score(answer, gold), by_the_paper(answer, gold)) == (0, 1)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (NESTED.replace("SELECT singer_id", "SELECT DISTINCT singer_id") + ")", f"{NESTED})"),
        (f"SELECT count(*) FROM ({S})", "SELECT count(*) FROM (SELECT DISTINCT name FROM singer)"),
        ("SELECT name FROM singer WHERE age IN (1, 2)", f"{S} WHERE age IN (1)"),
        (f"{S} WHERE NOT age = 1", f"{S} WHERE age = 1"),
        (f"{S} WHERE age IS NOT NULL", f"{S} WHERE age > 1"),
        (f"{S}. This query lists the names.", S),
        (f"{S}; It's the singers' names, isn't it?", S),
    ],
)
def test_what_else_is_worth_nothing_officially(answer: str, gold: str) -> None:
    assert score(answer, gold) == 0


@pytest.mark.parametrize(
    "query",
    [
        "SELECT venue FROM concert JOIN singer USING (name)",
        "SELECT T1.name FROM singer AS T1 LEFT JOIN concert AS T2 ON T1.id = T2.singer_id",
        "SELECT T1.name FROM singer AS T1 NATURAL JOIN concert AS T2",
        f"{S} WHERE EXISTS (SELECT cid FROM concert)",
        f"{S} WHERE age IS NULL",
        f"{S} WHERE age IN (1, 2)",
        f"{S} WHERE lower(name) = 'x'",
        "SELECT CASE WHEN age > 1 THEN name END FROM singer",
        "SELECT upper(name) FROM singer",
        "SELECT age + id + 1 FROM singer",
        f"{S} UNION ALL {S}",
        f"WITH young AS ({S}) SELECT name FROM young",
        f"SELECT name FROM ({S}) AS t",
        f"{S} ORDER BY 1",
    ],
)
def test_sql_outside_the_official_grammar_matches_itself_by_the_paper_alone(query: str) -> None:
    assert by_the_paper(query, query) == 1
    with pytest.raises(ValueError, match="outside the official grammar"):
        score(query, query)


def test_an_or_of_a_join_condition_counts() -> None:
    for word, other in (("OR", "AND"), ("AND", "OR")):
        gold = f"SELECT T1.name {J} AND T1.age > 1 {word} T2.year > 2"
        assert score(gold, gold) == 1
        assert score(f"SELECT T1.name {J} AND T1.age > 1 {other} T2.year > 2", gold) == 0


def test_an_or_behind_a_column_on_the_right_goes_unread() -> None:
    assert score(f"{S} WHERE age > id OR age = 1", f"{S} WHERE age > 5") == 1
    assert score(f"{S} WHERE age > id OR age = 1 AND id = 2", f"{S} WHERE age > 5 AND id = 2") == 1
    assert score(f"{S} WHERE age > 5 OR age = 1", f"{S} WHERE age > 5") == 0


def test_any_of_several_gold_queries_will_do() -> None:
    golds = [S, f"{S} ORDER BY name"]
    assert score(f"{S} ORDER BY name", golds) == score(S, golds) == 1
    assert score(f"{S} LIMIT 1", golds) == 0


@pytest.mark.parametrize(
    "answer",
    [
        "SELECT " * 1400,
        "(" * 9000,
        "SELECT name FROM singer WHERE age IN (" * 250,
        "SELECT name FROM singer WHERE " + "age = 1 OR " * 800 + "age = 1",
        f"{S} UNION " * 400 + S,
        "SELECT name FROM (" * 500 + "singer" + ")" * 500,
        f"{S} WHERE age = " + "(SELECT age FROM singer WHERE age = " * 200 + "1" + ")" * 200,
        "x" * 20_000,
    ],
    ids=lambda text: text[:24],
)
def test_no_answer_takes_for_ever(answer: str) -> None:
    assert score(answer, S) == 0


def test_what_can_not_be_compared_is_refused_ahead_of_asking() -> None:
    name = "sql_official:metric"
    assert metrics.find(name, "evaluate.metrics", str(SNELL)).refuses_gold
    evaluate.refuse_gold(name, [Example("e1", {"schema": ENTRY}, S)], "target", str(SNELL))
    for fields, target, said in (
        ({"schema": ENTRY}, "SELECT s.name FROM singer s", "outside the official grammar"),
        ({"schema": ENTRY}, "no query", "outside the official grammar"),
        ({}, S, "has no field `schema`"),
        ({"schema": "CREATE TABLE"}, S, "has no field `schema`"),
    ):
        with pytest.raises(UserError, match=said):
            evaluate.refuse_gold(name, [Example("e1", fields, target)], "target", str(SNELL))


def test_the_rows_of_the_recipe_bring_their_schema(tmp_path: Path) -> None:
    entry = {**ENTRY, "db_id": "music"}
    (tmp_path / "tables.json").write_text(json.dumps([entry]))
    row = {"id": "a", "input": {"question": "Who?", "db_id": "music"}, "target": S}
    (tmp_path / "dev.jsonl").write_text(json.dumps(row))
    [found] = beside_recipes("h4_spider").queries(str(tmp_path), "test")
    example = Example("a", found, found["sql"])
    assert sql_official.official_match("SELECT NAME FROM Singer ;", example) == 1
    assert sql_official.official_match("SELECT age FROM singer", example) == 0
