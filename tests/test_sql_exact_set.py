"""Spider's exact-set match: each clause both ways, what makes no difference, and answers that are
no query.
"""

from __future__ import annotations

import contextlib
import random

import pytest

from conftest import SNELL, beside_recipes
from unprompt import metrics
from unprompt.messages import UserError
from unprompt.records import Example
from unprompt.stages import evaluate

sql_exact_set = beside_recipes("sql_exact_set")
LONGEST, exact_set_match, read_schema = (
    sql_exact_set.LONGEST,
    sql_exact_set.exact_set_match,
    sql_exact_set.read_schema,
)

SCHEMA = {
    "singer": ["id", "name", "age", "country"],
    "concert": ["cid", "singer_id", "year", "venue"],
    "venue": ["vid", "title", "seats"],
}


def score(answer: str, target: object, **options: object) -> float:
    return exact_set_match(answer, Example("e1", {}, target), **options)  # type: ignore[arg-type]


J = "FROM singer AS T1 JOIN concert AS T2 ON T1.id = T2.singer_id"

SAME = [
    # what makes no difference
    ("select NAME from Singer", "SELECT name FROM singer"),
    ("SELECT name FROM singer;", "SELECT name FROM singer"),
    ("  SELECT\n\tname -- all\nFROM singer ; ;", "SELECT name FROM singer"),
    ('SELECT "name" FROM `singer`', "SELECT [name] FROM singer"),
    ("(SELECT name FROM singer)", "SELECT name FROM singer"),
    ("SELECT s.name FROM singer s", "SELECT name FROM singer"),
    ("SELECT singer.name FROM singer", "SELECT name FROM singer"),
    ("SELECT name FROM singer WHERE age <> 1", "SELECT name FROM singer WHERE age != 1"),
    # SELECT
    ("SELECT age, name FROM singer", "SELECT name, age FROM singer"),
    ("SELECT name AS who FROM singer", "SELECT name FROM singer"),
    ("SELECT max(age), COUNT(*) FROM singer", "SELECT count(*), MAX(age) FROM singer"),
    ("SELECT count(DISTINCT(country)) FROM singer", "SELECT count(DISTINCT country) FROM singer"),
    ("SELECT T1.* FROM singer AS T1", "SELECT * FROM singer"),
    ("SELECT age + id FROM singer", "SELECT id + age FROM singer"),
    # FROM
    ("SELECT b.venue FROM concert b JOIN singer a ON b.singer_id = a.id", f"SELECT T2.venue {J}"),
    (
        "SELECT T2.venue FROM singer T1 INNER JOIN concert T2 ON (T1.id = T2.singer_id)",
        f"SELECT T2.venue {J}",
    ),
    ("SELECT a.name FROM singer a, venue b", "SELECT a.name FROM singer a CROSS JOIN venue b"),
    ("SELECT a.name FROM a JOIN b USING (id)", "SELECT a.name FROM a JOIN b ON b.id = a.id"),
    (
        "SELECT venue FROM singer JOIN concert ON id = singer_id",
        f"SELECT T2.venue {J}",
    ),  # compared by name alone
    (
        (
            "SELECT T2.singer_id, count(*) FROM singer T1 JOIN concert T2 ON T1.id = T2.singer_id"
            " GROUP BY T2.singer_id"
        ),
        f"SELECT T1.id, count(*) {J} GROUP BY T1.id",
    ),  # set equal by the join
    (
        "SELECT a.x FROM (a JOIN b ON a.x = b.x) JOIN c ON b.y = c.y",
        "SELECT a.x FROM a JOIN b JOIN c ON a.x = b.x AND b.y = c.y",
    ),
    (
        "SELECT a.x FROM a LEFT OUTER JOIN b ON b.x = a.x",
        "SELECT a.x FROM a LEFT JOIN b ON a.x = b.x",
    ),
    # WHERE
    (
        "SELECT name FROM singer WHERE age > 5 AND country = 'France'",
        "SELECT name FROM singer WHERE country = 'Spain' AND age > 30",
    ),
    (
        'SELECT name FROM singer WHERE country = "France"',
        "SELECT name FROM singer WHERE country = 'France'",
    ),
    ("SELECT name FROM singer WHERE 5 < age", "SELECT name FROM singer WHERE age > 5"),
    ("SELECT name FROM singer WHERE age > -5", "SELECT name FROM singer WHERE age > 2.5"),
    (
        "SELECT name FROM singer WHERE (age = 1 OR age = 2) AND id = 3",
        "SELECT name FROM singer WHERE id = 1 AND (age = 1 OR age = 2)",
    ),
    (
        "SELECT name FROM singer WHERE age = 1 AND (age = 2 OR id = 3)",
        "SELECT name FROM singer WHERE (age = 1 AND age = 2) OR id = 3",
    ),  # a limit
    ("SELECT name FROM singer WHERE age IN (1, 2)", "SELECT name FROM singer WHERE age IN (3)"),
    (
        "SELECT name FROM singer WHERE NOT age IN (1)",
        "SELECT name FROM singer WHERE age NOT IN (1)",
    ),
    (
        "SELECT name FROM singer WHERE name LIKE '%a%'",
        'SELECT name FROM singer WHERE name LIKE "b%"',
    ),
    (
        "SELECT name FROM singer WHERE age BETWEEN 1 AND 2",
        "SELECT name FROM singer WHERE age BETWEEN 10 AND 20",
    ),
    (
        "SELECT name FROM singer WHERE NOT age IS NULL",
        "SELECT name FROM singer WHERE age IS NOT NULL",
    ),
    # GROUP BY, HAVING, ORDER BY, LIMIT
    (
        "SELECT count(*) FROM singer GROUP BY age, country",
        "SELECT count(*) FROM singer GROUP BY country, age",
    ),
    ("SELECT country FROM singer GROUP BY 1", "SELECT country FROM singer GROUP BY country"),
    (
        "SELECT country, count(*) AS n FROM singer GROUP BY country HAVING n > 2",
        "SELECT country, count(*) FROM singer GROUP BY country HAVING count(*) > 1",
    ),
    (
        "SELECT max(age) AS age FROM singer WHERE age > 5",
        "SELECT max(age) FROM singer WHERE age > 5",
    ),
    (
        "SELECT country, max(age) AS age FROM singer GROUP BY country HAVING age > 5",
        "SELECT country, max(age) FROM singer GROUP BY country HAVING age > 5",
    ),
    ("SELECT name FROM singer ORDER BY age", "SELECT name FROM singer ORDER BY age ASC"),
    (
        "SELECT country, count(*) AS n FROM singer GROUP BY country ORDER BY n DESC",
        "SELECT country, count(*) FROM singer GROUP BY country ORDER BY count(*) DESC",
    ),
    ("SELECT name, age FROM singer ORDER BY 2", "SELECT name, age FROM singer ORDER BY age"),
    (
        "SELECT name FROM singer ORDER BY age LIMIT 3",
        "SELECT name FROM singer ORDER BY age LIMIT 1",
    ),
    # UNION, INTERSECT, EXCEPT
    ("SELECT name FROM a UNION SELECT name FROM b", "SELECT name FROM b UNION SELECT name FROM a"),
    (
        "SELECT x FROM a UNION SELECT x FROM b UNION SELECT x FROM c",
        "SELECT x FROM c UNION (SELECT x FROM a) UNION SELECT x FROM b",
    ),
    (
        "(SELECT x FROM c UNION SELECT x FROM a) UNION SELECT x FROM b",
        "SELECT x FROM a UNION SELECT x FROM b UNION SELECT x FROM c",
    ),
    ("SELECT x FROM b INTERSECT SELECT x FROM a", "SELECT x FROM a INTERSECT SELECT x FROM b"),
    (
        "SELECT x FROM a EXCEPT SELECT x FROM b EXCEPT SELECT x FROM c",
        "SELECT x FROM a EXCEPT SELECT x FROM c EXCEPT SELECT x FROM b",
    ),
    # nested
    (
        "SELECT name FROM singer WHERE age > (SELECT AVG(s.age) FROM singer AS s)",
        "SELECT name FROM singer WHERE age > (SELECT avg(age) FROM singer)",
    ),
    (
        (
            "SELECT name FROM singer WHERE id NOT IN (SELECT c.singer_id FROM concert c WHERE"
            " c.year = 1)"
        ),
        "SELECT name FROM singer WHERE id NOT IN (SELECT singer_id FROM concert WHERE year = 2)",
    ),
    (
        "SELECT name FROM singer s WHERE EXISTS (SELECT * FROM concert c WHERE s.id = c.singer_id)",
        (
            "SELECT name FROM singer WHERE EXISTS (SELECT * FROM concert WHERE concert.singer_id ="
            " singer.id)"
        ),
    ),
    (
        "SELECT max(t.n) FROM (SELECT count(*) AS n FROM singer GROUP BY age) AS t",
        "SELECT max(k) FROM (SELECT count(*) AS k FROM singer GROUP BY age)",
    ),
    (
        "WITH t AS (SELECT count(*) AS n FROM singer) SELECT n FROM t",
        "SELECT u.m FROM (SELECT count(*) AS m FROM singer) AS u",
    ),
    (
        "SELECT CASE WHEN age > 3 THEN 'a' ELSE 'b' END FROM singer",
        "SELECT case when age > 3 then 'a' else 'b' end FROM singer",
    ),
    (
        "SELECT rank() OVER (PARTITION BY s.country ORDER BY s.age) FROM singer s",
        "SELECT RANK() OVER (PARTITION BY country ORDER BY age) FROM singer",
    ),
]

OTHER = [
    # SELECT
    ("SELECT name FROM singer", "SELECT age FROM singer"),
    ("SELECT name FROM singer", "SELECT name, age FROM singer"),
    ("SELECT name, name FROM singer", "SELECT name FROM singer"),
    ("SELECT DISTINCT name FROM singer", "SELECT name FROM singer"),
    ("SELECT max(age) FROM singer", "SELECT min(age) FROM singer"),
    ("SELECT count(country) FROM singer", "SELECT count(DISTINCT country) FROM singer"),
    ("SELECT count(*) FROM singer", "SELECT count(name) FROM singer"),
    ("SELECT age - id FROM singer", "SELECT id - age FROM singer"),
    (
        "SELECT age * 2 FROM singer",
        "SELECT age * 3 FROM singer",
    ),  # no condition: not a value to be ignored
    ("SELECT 'name' FROM singer", "SELECT name FROM singer"),
    # FROM
    ("SELECT name FROM singer", "SELECT name FROM venue"),
    ("SELECT name FROM singer", f"SELECT T1.name {J}"),
    (f"SELECT T1.year {J}", f"SELECT T2.year {J}"),
    (
        "SELECT T1.name FROM singer AS T1 JOIN concert AS T2 ON T1.id = T2.cid",
        f"SELECT T1.name {J}",
    ),
    ("SELECT T1.name FROM singer AS T1 JOIN concert AS T2", f"SELECT T1.name {J}"),
    (
        "SELECT T1.name FROM singer AS T1 LEFT JOIN concert AS T2 ON T1.id = T2.singer_id",
        f"SELECT T1.name {J}",
    ),
    ("SELECT a.x FROM a LEFT JOIN b ON a.x = b.x", "SELECT a.x FROM b LEFT JOIN a ON a.x = b.x"),
    (
        "SELECT a.x FROM a LEFT JOIN b ON a.x = b.y",
        "SELECT b.y FROM a LEFT JOIN b ON a.x = b.y",
    ),  # an outer join sets nothing equal
    (
        "SELECT a.x FROM a JOIN b ON a.x = b.x OR a.y = b.y",
        "SELECT a.x FROM a JOIN b ON a.x = b.x AND a.y = b.y",
    ),
    ("SELECT a.x FROM a NATURAL JOIN b", "SELECT a.x FROM a JOIN b"),
    (
        "SELECT T1.id FROM p T1 JOIN p T2 ON T1.id = T2.parent",
        "SELECT T2.parent FROM p T1 JOIN p T2 ON T1.id = T2.parent",
    ),
    # WHERE
    ("SELECT name FROM singer WHERE age > 5", "SELECT name FROM singer"),
    ("SELECT name FROM singer WHERE age > 5", "SELECT name FROM singer WHERE age >= 5"),
    ("SELECT name FROM singer WHERE age > 5", "SELECT name FROM singer WHERE age < 5"),
    ("SELECT name FROM singer WHERE age > 5", "SELECT name FROM singer WHERE id > 5"),
    ("SELECT name FROM singer WHERE age = 5", "SELECT name FROM singer WHERE age = id"),
    (
        "SELECT name FROM singer WHERE age = 1 OR id = 2",
        "SELECT name FROM singer WHERE age = 1 AND id = 2",
    ),
    (
        "SELECT name FROM singer WHERE age = 1 OR id = 2 AND id = 3",
        "SELECT name FROM singer WHERE age = 1 OR id = 2 OR id = 3",
    ),
    ("SELECT name FROM singer WHERE age = 1 AND age = 2", "SELECT name FROM singer WHERE age = 1"),
    (
        "SELECT name FROM singer WHERE age IN (1, 2)",
        "SELECT name FROM singer WHERE age NOT IN (1, 2)",
    ),
    (
        "SELECT name FROM singer WHERE name LIKE 'a'",
        "SELECT name FROM singer WHERE name NOT LIKE 'a'",
    ),
    ("SELECT name FROM singer WHERE name LIKE 'a'", "SELECT name FROM singer WHERE name = 'a'"),
    (
        "SELECT name FROM singer WHERE age BETWEEN 1 AND 2",
        "SELECT name FROM singer WHERE age NOT BETWEEN 1 AND 2",
    ),
    ("SELECT name FROM singer WHERE age IS NULL", "SELECT name FROM singer WHERE age IS NOT NULL"),
    (
        "SELECT name FROM singer WHERE age = 1",
        "SELECT name FROM singer WHERE NOT (age = 1 AND id = 2)",
    ),
    # GROUP BY, HAVING, ORDER BY, LIMIT
    ("SELECT count(*) FROM singer GROUP BY age", "SELECT count(*) FROM singer"),
    ("SELECT count(*) FROM singer GROUP BY age", "SELECT count(*) FROM singer GROUP BY country"),
    (
        "SELECT age FROM singer GROUP BY age HAVING count(*) > 1",
        "SELECT age FROM singer GROUP BY age",
    ),
    (
        "SELECT age FROM singer GROUP BY age HAVING count(*) > 1",
        "SELECT age FROM singer GROUP BY age HAVING avg(id) > 1",
    ),
    (
        "SELECT age FROM singer GROUP BY age HAVING count(*) > 1",
        "SELECT age FROM singer WHERE count(*) > 1 GROUP BY age",
    ),
    ("SELECT name FROM singer ORDER BY age", "SELECT name FROM singer"),
    ("SELECT name FROM singer ORDER BY age", "SELECT name FROM singer ORDER BY age DESC"),
    ("SELECT name FROM singer ORDER BY age, id", "SELECT name FROM singer ORDER BY id, age"),
    (
        "SELECT name FROM singer ORDER BY age, id DESC",
        "SELECT name FROM singer ORDER BY age DESC, id DESC",
    ),
    ("SELECT name FROM singer ORDER BY age LIMIT 1", "SELECT name FROM singer ORDER BY age"),
    ("SELECT name FROM singer LIMIT 1 OFFSET 1", "SELECT name FROM singer LIMIT 1"),
    # UNION, INTERSECT, EXCEPT
    ("SELECT x FROM a UNION SELECT x FROM b", "SELECT x FROM a INTERSECT SELECT x FROM b"),
    ("SELECT x FROM a UNION SELECT x FROM b", "SELECT x FROM a UNION ALL SELECT x FROM b"),
    ("SELECT x FROM a EXCEPT SELECT x FROM b", "SELECT x FROM b EXCEPT SELECT x FROM a"),
    ("SELECT x FROM a UNION SELECT x FROM b", "SELECT x FROM a UNION SELECT x FROM c"),
    ("SELECT x FROM a", "SELECT x FROM a UNION SELECT x FROM a"),
    ("SELECT x FROM a UNION SELECT x FROM b ORDER BY x", "SELECT x FROM a UNION SELECT x FROM b"),
    (
        "SELECT x FROM a UNION SELECT x FROM b LIMIT 1",
        "SELECT x FROM a UNION SELECT * FROM (SELECT x FROM b LIMIT 1)",
    ),
    # nested
    (
        "SELECT x FROM a WHERE y > (SELECT avg(y) FROM a)",
        "SELECT x FROM a WHERE y > (SELECT max(y) FROM a)",
    ),
    ("SELECT x FROM a WHERE y > (SELECT avg(y) FROM a)", "SELECT x FROM a WHERE y > 3"),
    (
        "SELECT x FROM a WHERE y IN (SELECT y FROM b WHERE z > 1)",
        "SELECT x FROM a WHERE y IN (SELECT y FROM b)",
    ),
    ("SELECT x FROM a WHERE y IN (SELECT y FROM b)", "SELECT x FROM a WHERE y = (SELECT y FROM b)"),
    (
        "SELECT x FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.k = a.k)",
        "SELECT x FROM a WHERE NOT EXISTS (SELECT 1 FROM b WHERE b.k = a.k)",
    ),
    (
        "SELECT x FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.k = a.k)",
        "SELECT x FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.k = a.j)",
    ),
    (
        "SELECT t.n FROM (SELECT count(*) AS n, max(x) AS m FROM a) t",
        "SELECT t.m FROM (SELECT count(*) AS n, max(x) AS m FROM a) t",
    ),
]

NO_QUERY = [
    "",
    " ",
    ";",
    "hello",
    "I do not know.",
    "SELECT",
    "SELECT name FROM",
    "SELECT FROM singer",
    "FROM singer",
    "SELECT name FROM singer WHERE",
    "SELECT name FROM singer; SELECT name FROM singer",
    "DROP TABLE singer",
    "```sql\nSELECT name FROM singer\n```",
    "SELECT 'name FROM singer",
    "The query is SELECT name FROM singer",
    "SHOW singer",
    "SELECT name FROM singer )",
    "\x00",
    "WITH",
    "(",
    "-- nothing",
    "with a",
]


@pytest.mark.parametrize(("answer", "gold"), SAME)
def test_match(answer: str, gold: str) -> None:
    assert score(answer, gold) == score(gold, answer) == 1


@pytest.mark.parametrize(("answer", "gold"), OTHER)
def test_mismatch(answer: str, gold: str) -> None:
    assert score(answer, gold) == score(gold, answer) == 0


@pytest.mark.parametrize("query", sorted({query for pair in SAME + OTHER for query in pair}))
@pytest.mark.parametrize(
    "options", [{}, {"values": True}, {"schema": SCHEMA}], ids=["plain", "values", "schema"]
)
def test_a_query_matches_itself_however_it_is_written(
    query: str, options: dict[str, object]
) -> None:
    spread = query.replace(" ", " \n ").replace("(", " ( ") + " ;"
    assert score(query, query, **options) == score(spread, query, **options) == 1


@pytest.mark.parametrize("answer", NO_QUERY)
def test_an_answer_that_is_no_query_is_worth_nothing(
    answer: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert score(answer, "SELECT name FROM singer") == 0
    assert not caplog.records  # sqlglot would warn of statements that it only half knows


@pytest.mark.parametrize(
    "gold", [*NO_QUERY, None, "SELECT " + "(" * 9000, "SELECT " + "1+" * 4000 + "1"]
)
def test_a_gold_query_that_does_not_parse_names_its_example(gold: object) -> None:
    for answer in ("SELECT name FROM singer", "no query"):
        with pytest.raises(ValueError, match="example 'e1': its gold query cannot be read"):
            score(answer, gold)


def test_any_of_several_gold_queries_will_do() -> None:
    golds = ["SELECT name FROM singer", "SELECT name FROM singer ORDER BY name"]
    assert score("SELECT name FROM singer ORDER BY name", golds) == 1
    assert score("SELECT name FROM singer LIMIT 1", golds) == 0


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        ("SELECT a FROM t WHERE b = 1", "SELECT a FROM t WHERE b = 1.0", True),
        ("SELECT a FROM t WHERE b = 1", "SELECT a FROM t WHERE b = 2", False),
        ('SELECT a FROM t WHERE b = "x"', "SELECT a FROM t WHERE b = 'x'", True),
        ("SELECT a FROM t WHERE b = 'X'", "SELECT a FROM t WHERE b = 'x'", False),
        ("SELECT a FROM t WHERE b = '1'", "SELECT a FROM t WHERE b = 1", False),
        (
            "SELECT a FROM t LEFT JOIN u ON t.i = u.i AND u.n = 'X'",
            "SELECT a FROM t LEFT JOIN u ON t.i = u.i AND u.n = 'x'",
            False,
        ),
        ("SELECT a FROM t WHERE b IN (2, 1)", "SELECT a FROM t WHERE b IN (1, 2)", True),
        ("SELECT a FROM t WHERE b IN (2, 1)", "SELECT a FROM t WHERE b IN (1, 3)", False),
        ("SELECT a FROM t WHERE b LIKE '%x'", "SELECT a FROM t WHERE b LIKE 'x%'", False),
        (
            "SELECT a FROM t WHERE b BETWEEN 1 AND 2",
            "SELECT a FROM t WHERE b BETWEEN 2 AND 1",
            False,
        ),
        ("SELECT a FROM t LIMIT 1", "SELECT a FROM t LIMIT 2", False),
        ("SELECT a FROM t LIMIT 1, 2", "SELECT a FROM t LIMIT 2 OFFSET 1", True),
    ],
)
def test_values_count_if_asked_for(answer: str, gold: str, same: bool) -> None:
    assert score(answer, gold, values=True) == same


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        (f"SELECT name {J}", f"SELECT T1.name {J}", True),
        (
            f"SELECT name {J}",
            f"SELECT T2.name {J}",
            False,
        ),  # without the schema, the name alone is compared
        (f"SELECT T1.name {J} WHERE year = 1", f"SELECT T1.name {J} WHERE T2.year = 1", True),
        (
            "SELECT name FROM singer WHERE EXISTS (SELECT 1 FROM concert WHERE singer_id = id)",
            (
                "SELECT name FROM singer WHERE EXISTS (SELECT 1 FROM concert WHERE"
                " concert.singer_id = singer.id)"
            ),
            True,
        ),  # the outer query's column
        (
            'SELECT name FROM singer WHERE name = "Country"',
            "SELECT name FROM singer WHERE name = country",
            True,
        ),
        (
            'SELECT name FROM singer WHERE name = "France"',
            "SELECT name FROM singer WHERE name = 'France'",
            True,
        ),
        (
            'SELECT name FROM singer WHERE "France" = country',
            "SELECT name FROM singer WHERE country = 'France'",
            True,
        ),
    ],
)
def test_a_schema_tells_whose_column_it_is(answer: str, gold: str, same: bool) -> None:
    assert score(answer, gold, schema=SCHEMA) == same
    upper = {table.upper(): [name.upper() for name in names] for table, names in SCHEMA.items()}
    assert score(answer, gold, schema=upper) == same


def test_without_a_schema_only_the_name_is_compared() -> None:
    assert (
        score(f"SELECT name {J}", f"SELECT T1.name {J}")
        == score(f"SELECT name {J}", f"SELECT T2.name {J}")
        == 1
    )
    assert score(f"SELECT title {J}", f"SELECT T1.name {J}") == 0


def test_the_schema_of_create_table_statements() -> None:
    ddl = (
        'CREATE TABLE "Singer" ("Id" number PRIMARY KEY, "Full Name" text, FOREIGN KEY ("Id")'
        ' REFERENCES "X" ("Id"));\nCREATE TABLE x (id others);'
    )
    assert read_schema(ddl) == {"Singer": ["Id", "Full Name"], "x": ["id"]}


def test_clauses_decide_one_by_one() -> None:
    """Random queries from parts: shuffled set-like parts match, and one part changed does not."""
    rng = random.Random(0)
    columns = ["a", "b", "c", "d"]
    for _ in range(60):
        select = rng.sample(["a", "b", "max(c)", "count(*)", "count(DISTINCT d)"], 2)
        where = rng.sample(
            [
                "a = 1",
                "b > 2",
                "c LIKE 'x'",
                "d IN (SELECT a FROM u)",
                "a BETWEEN 1 AND 2",
                "NOT b = 3",
            ],
            3,
        )
        group, order, word = (
            rng.sample(columns, 2),
            rng.sample(columns, 2),
            rng.choice([" AND ", " OR "]),
        )

        def write(
            select: list[str],
            where: list[str],
            word: str,
            group: list[str],
            order: list[str],
            end: str = "",
        ) -> str:
            return (
                f"SELECT {', '.join(select)} FROM t WHERE {word.join(where)} GROUP BY"
                f" {', '.join(group)} ORDER BY {', '.join(order)}{end}"
            )

        gold = write(select, where, word, group, order)
        assert score(write(select[::-1], rng.sample(where, 3), word, group[::-1], order), gold) == 1
        assert (
            score(write(select, where, " OR " if word == " AND " else " AND ", group, order), gold)
            == 0
        )
        assert score(write(select, where[1:], word, group, order), gold) == 0
        assert score(write(select[1:], where, word, group, order), gold) == 0
        assert score(write(select, where, word, group[1:], order), gold) == 0
        assert score(write(select, where, word, group, order[::-1]), gold) == 0
        assert score(write(select, where, word, group, order, " DESC"), gold) == 0
        assert score(write(select, where, word, group, order, " LIMIT 1"), gold) == 0


def fill(start: str, part: str, end: str = "", close: str = "") -> str:
    """A query as long as is read at all, by repeating `part`."""
    times = (LONGEST - len(start) - len(end)) // (len(part) + len(close))
    return start + part * times + end + close * times


@pytest.mark.parametrize(
    "answer",
    [
        "SELECT " * 1_000_000,
        fill("SELECT ", "("),
        fill("SELECT ", "(", "1", ")"),
        fill("", "("),
        fill("SELECT ", "NOT "),
        fill("SELECT ", "- "),
        fill("SELECT ", "f("),
        fill("SELECT ", "CASE WHEN "),
        fill("SELECT ", "a,", "a"),
        fill("SELECT a FROM ", "a,", "a"),
        fill("SELECT a FROM t0", " JOIN t ON a = b"),
        fill("SELECT a FROM t WHERE ", "a=1 OR ", "a=1"),
        fill("SELECT ", "1+", "1"),
        fill("SELECT a FROM t", " UNION SELECT a FROM t"),
        fill("SELECT a FROM t", " UNION SELECT a FROM t EXCEPT SELECT a FROM t"),
        fill("SELECT a FROM t WHERE a IN (", "SELECT a FROM t WHERE a IN (", "1", ")"),
        fill("SELECT a FROM ", "(SELECT a+a AS a FROM ", "t", ")"),
        fill("SELECT a FROM (", "a JOIN (", "b", ")"),
        fill("SELECT a+b+c+d+e+f AS a FROM t ORDER BY a", ",a"),
        fill(", ".join(["SELECT x0.a FROM x0", *(f"x{n}" for n in range(1000))]), ",a"),
        "SELECT "
        + ", ".join(f"c{n}" for n in range(700))
        + " FROM "
        + ", ".join(f"t{n}" for n in range(700)),
        "SELECT 1 FROM t" + "".join(f" JOIN t{n} ON t{n}.a = t{n + 1}.a" for n in range(600)),
        "WITH x0 AS (SELECT 1 AS a)"
        + "".join(
            f", x{n} AS (SELECT p.a FROM x{n - 1} AS p, x{n - 1} AS q)" for n in range(1, 300)
        )
        + " SELECT a FROM x299",
        "WITH RECURSIVE x AS (SELECT 1 AS a UNION SELECT a FROM x) SELECT a FROM x",
        "SELECT " + "\x00\U0010ffff" * 5000,
        "SELECT \ud800 FROM t",
    ],
    ids=lambda text: text[:24],
)
def test_no_answer_takes_for_ever(answer: str) -> None:
    """Each of them would, if its parts were tried one by one; pytest's own limit would end it."""
    assert score(answer, "SELECT name FROM singer") == 0
    with contextlib.suppress(ValueError):  # as gold it matches itself, or is refused
        assert score(answer, answer) == 1


def test_a_gold_query_that_can_not_be_read_is_refused_ahead_of_asking() -> None:
    name = "sql_exact_set:metric"
    found = metrics.find(name, "evaluate.metrics", str(SNELL))
    assert found.function.__name__ == exact_set_match.__name__  # its file may be read twice
    assert (found.needs_gold, found.is_share) == (True, True)
    evaluate.refuse_gold(name, [Example("e1", {}, "SELECT 1")], "target", str(SNELL))
    with pytest.raises(UserError, match="can't use the gold answer of example 'e1'"):
        evaluate.refuse_gold(name, [Example("e1", {}, "no query")], "target", str(SNELL))
