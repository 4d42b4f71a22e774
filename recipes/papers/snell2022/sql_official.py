"""Does a SQL query match the gold query as Spider's official evaluator has it, its faults included?

The rule of `evaluation.py --etype match` and `process_sql.py` in taoyds/spider (commit b7b5b8c,
Apache-2.0; Yu et al. 2018), told again in one file, for figures that stand beside published ones.
`sql_exact_set.py` follows the paper's definition instead, and says where the two differ.

Read is the evaluator's own grammar, over the words that NLTK's tokenizer makes. A query outside it
is worth 0, though it may be right SQL: INNER, LEFT, NATURAL and CROSS JOIN, a comma between tables,
USING; an alias without AS, of a column, or of a nested query; parentheses around a condition;
`T1.*`, quoted names, `<>`, `a=1` and `a >=1` without their blanks; lists after IN, IS NULL, EXISTS,
NOT ahead of a condition, functions, CASE, WITH, UNION ALL; a table or column that the schema lacks;
a quote without its partner. But text behind a query that could end there goes unread (so a text
behind a semicolon, OFFSET, or the second number of `LIMIT 1, 2`), unless it holds a lone quote.

Two queries match if these are equal:

- SELECT items with their aggregates, in any order. DISTINCT makes no difference, in aggregates
  neither.
- The tables of FROM. Join conditions make none, but for holding an OR, NOT, IN or LIKE.
- WHERE conditions, in any order, and which of AND and OR join them. On the right only a nested
  query counts: a column there is left out as a value is, and with it an OR behind it and all up to
  the next AND.
- GROUP BY columns, in order; beside them, HAVING conditions and what joins them, in order.
- ORDER BY keys, in order; all have the direction that is written last. Whether there is a LIMIT.
- The query behind UNION, INTERSECT or EXCEPT, by these rules; left goes with left.

Nested queries are compared word for word after parsing: items and conditions in order, with
DISTINCT and LIMIT's number, and in FROM with all values. Outside them, columns that the schema's
foreign keys tie are one column, joined or not.

Not told again: where the evaluator stops with a traceback (FROM with two nested queries each), two
queries match by the rules above. Two conditions without AND or OR between them are not read. The
sentences that NLTK looks for ahead of the words end where a blank stands behind a full stop, so
that no model of sentences is needed. The version in taoyds/test-suite-sql-eval, which differs,
reads any LIMIT as 1, and `value` in an answer as `1`.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from nltk.tokenize import NLTKWordTokenizer

from unprompt.metrics import Metric
from unprompt.records import Example

LONGEST = 10_000
"""Characters of a query; a longer one is worth 0, so that no answer takes long."""

_CLAUSES = ("select", "from", "where", "group", "order", "limit", "intersect", "union", "except")
_JOINS = ("join", "on", "as")
_COMPARISONS = ("=", ">", "<", ">=", "<=", "!=")
_TESTS = (*_COMPARISONS, "not", "between", "in", "like", "is", "exists")
_SIGNS = ("none", "-", "+", "*", "/")
_AGGREGATES = ("none", "max", "min", "count", "sum", "avg")


def official_match(answer: str, example: Example) -> float:
    """1 if the answer matches the target as the official evaluator has it, else 0.

    Args:
        answer: The query, as extracted.
        example: Its target is the gold query, or a list of accepted ones. Its field `schema` is the
            database's entry in Spider's tables.json: `table_names_original`,
            `column_names_original` and `foreign_keys`.

    Raises:
        ValueError: There is no such schema, or the official evaluator can't read a gold query.
    """
    entry = example.fields.get("schema")
    if not isinstance(entry, Mapping):
        raise ValueError(
            f"example '{example.id}' has no field `schema` -> give each row its database's entry in"
            " Spider's tables.json"
        )
    schema = _Schema.of(entry)
    targets = example.target if isinstance(example.target, (list, tuple)) else [example.target]
    golds = [_parse(str(target), schema) for target in targets]
    if None in golds:
        raise ValueError(
            f"example '{example.id}': its gold query is outside the official grammar:"
            f" {str(targets[golds.index(None)])[:200]} -> mend its target, or use sql_exact_set"
        )
    predicted = _parse(answer, schema)
    return float(
        predicted is not None
        and any(_same(_tied(predicted, schema), _tied(gold, schema)) for gold in golds if gold)
    )


metric = Metric(official_match, refuses_gold=True)


@dataclass(frozen=True)
class _Schema:
    """Tables with their columns, and columns (`table.column`) that foreign keys tie -> the one that
    stands for them. All in lower case.
    """

    columns: dict[str, tuple[str, ...]]
    tied: dict[str, str]

    @staticmethod
    def of(entry: Mapping[str, Any]) -> _Schema:
        tables = [name.lower() for name in entry["table_names_original"]]
        columns = {
            table: tuple(
                column.lower() for at, column in entry["column_names_original"] if at == number
            )
            for number, table in enumerate(tables)
        }
        names = [
            f"{tables[at]}.{column.lower()}" if at >= 0 else "*"
            for at, column in entry["column_names_original"]
        ]
        groups: list[set[int]] = []
        for pair in entry["foreign_keys"]:
            # two groups that a later key ties stay two, as there
            group = next((group for group in groups if group & set(pair)), None)
            if group is None:
                groups.append(set(pair))
            else:
                group |= set(pair)
        tied = {names[at]: names[min(group)] for group in groups for at in sorted(group)}
        return _Schema(columns, tied)


# -- what a query is read into ---------------------------------------------------------------------


class _Column(NamedTuple):
    aggregate: str
    name: str  # `table.column`, or `*`
    distinct: bool | None


class _Term(NamedTuple):
    """One column, or two with a sign between them."""

    sign: str
    left: _Column
    right: _Column | None


class _Condition(NamedTuple):
    negated: bool
    test: str
    term: _Term
    value: _Value
    upper: _Value  # of BETWEEN


class _Conditions(NamedTuple):
    each: tuple[_Condition, ...] = ()
    joined_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Query:
    """A query; `other` stands behind the set operation `operator`."""

    distinct: bool
    items: tuple[tuple[str, _Term], ...]
    tables: tuple[str | _Query, ...]
    on: _Conditions
    where: _Conditions
    group: tuple[_Column, ...]
    having: _Conditions
    direction: str
    order: tuple[_Term, ...]
    limit: int | None
    operator: str = ""
    other: _Query | None = None


_Value = _Query | _Column | str | float | None


# -- reading ---------------------------------------------------------------------------------------


class _UnreadableError(ValueError):
    """A query outside the official grammar."""


def _parse(text: str, schema: _Schema) -> _Query | None:
    """The query at the beginning of a text; None if there is none."""
    if len(text) > LONGEST:
        return None
    try:
        return _Parser(_words(text), schema).query()
    except (_UnreadableError, RecursionError):
        return None


def _words(text: str) -> list[str]:
    """Words in lower case, and quoted texts as they are, in double quotes."""
    pieces = text.replace("'", '"').split('"')
    if len(pieces) % 2 == 0:
        raise _UnreadableError("a quote without its partner")
    quoted = {f"__val_{n}__": f'"{piece}"' for n, piece in enumerate(pieces) if n % 2}
    plain = "".join(f"__val_{n}__" if n % 2 else piece for n, piece in enumerate(pieces))
    split = _tokenizer().tokenize
    words = [
        word.lower() for sentence in re.split(r"(?<=[.?!])\s+", plain) for word in split(sentence)
    ]
    words = [quoted.get(word, word) for word in words]
    for at in range(len(words) - 1, 0, -1):
        if words[at] == "=" and words[at - 1] in ("!", ">", "<"):
            words[at - 1 : at + 1] = [words[at - 1] + "="]
    return words


@functools.cache
def _tokenizer() -> NLTKWordTokenizer:
    return NLTKWordTokenizer()


class _Parser:
    """Reads words from left to right. Behind the last one, each is the empty word."""

    def __init__(self, words: list[str], schema: _Schema) -> None:
        self.words, self.schema, self.at = words, schema, 0
        self.names = {
            words[at + 1] if at + 1 < len(words) else "": words[at - 1]
            for at, word in enumerate(words)
            if word == "as"
        }
        if "" in self.names or self.names.keys() & schema.columns.keys():
            raise _UnreadableError("an alias that is missing, or a table's name")
        self.names |= {table: table for table in schema.columns}

    @property
    def word(self) -> str:
        return self.words[self.at] if self.at < len(self.words) else ""

    def take(self, *wanted: str) -> str:
        """The next word if it is one of these, else the empty word."""
        word = self.word
        if word not in wanted:
            return ""
        self.at += 1
        return word

    def need(self, *wanted: str) -> str:
        if not (word := self.take(*wanted)):
            raise _UnreadableError(f"{wanted} expected, not {self.word!r}")
        return word

    def query(self) -> _Query:
        start = self.at
        block = self.take("(")
        begin = self.at
        if "from" not in self.words[start:]:
            raise _UnreadableError("no FROM")
        # FROM ahead of SELECT, for the tables that unqualified columns may belong to
        self.at = self.words.index("from", start) + 1
        tables, on = self.tables()
        named = [table for table in tables if isinstance(table, str)]
        behind, self.at = self.at, begin
        distinct, items = self.items(named)
        self.at = behind
        where = self.conditions(named) if self.take("where") else _Conditions()
        group = self.group(named)
        having = self.conditions(named) if self.take("having") else _Conditions()
        direction, order = self.order(named)
        limit = self.limit()
        self.semicolons()
        if block:
            self.need(")")
        self.semicolons()
        operator = self.take("intersect", "union", "except")
        other = self.query() if operator else None
        return _Query(
            *(bool(distinct), items, tables, on, where),
            *(group, having, direction, order, limit, operator, other),
        )

    def semicolons(self) -> None:
        while self.take(";"):
            pass

    def ends(self) -> bool:
        """Whether a list of tables, columns or keys is over."""
        return self.word == "" or self.word in _CLAUSES or self.word in (")", ";")

    def tables(self) -> tuple[tuple[str | _Query, ...], _Conditions]:
        tables: list[str | _Query] = []
        each: tuple[_Condition, ...] = ()
        joined_by: tuple[str, ...] = ()
        while self.word:
            block = self.take("(")
            if self.word == "select":
                tables.append(self.query())
            else:
                self.take("join")
                tables.append(self.table())
            if self.take("on"):
                on = self.conditions([table for table in tables if isinstance(table, str)])
                joined_by += (("and",) if each else ()) + on.joined_by
                each += on.each
            if block:
                self.need(")")
            if self.ends():
                break
        return tuple(tables), _Conditions(each, joined_by)

    def table(self) -> str:
        table = self.names.get(self.word, "")
        if table not in self.schema.columns:
            raise _UnreadableError(f"no table {self.word!r}")
        self.at += 1
        if self.take("as"):
            self.at += 1
        return table

    def items(self, named: list[str]) -> tuple[str, tuple[tuple[str, _Term], ...]]:
        self.need("select")
        distinct = self.take("distinct")
        items = []
        while self.word and self.word not in _CLAUSES:
            aggregate = self.take(*_AGGREGATES) or "none"
            items.append((aggregate, self.term(named)))
            self.take(",")
        return distinct, tuple(items)

    def group(self, named: list[str]) -> tuple[_Column, ...]:
        columns = []
        if self.take("group"):
            self.need("by")
            while not self.ends():
                columns.append(self.column(named))
                if not self.take(","):
                    break
        return tuple(columns)

    def order(self, named: list[str]) -> tuple[str, tuple[_Term, ...]]:
        keys = []
        if not self.take("order"):
            return "", ()
        self.need("by")
        direction = "asc"
        while not self.ends():
            keys.append(self.term(named))
            direction = self.take("desc", "asc") or direction
            if not self.take(","):
                break
        return direction, tuple(keys)

    def limit(self) -> int | None:
        if not self.take("limit"):
            return None
        try:
            number = int(self.word)
        except ValueError:
            raise _UnreadableError("LIMIT without a number") from None
        self.at += 1
        return number

    def conditions(self, named: list[str]) -> _Conditions:
        each, joined_by = [], []
        while self.word:
            each.append(self.condition(named))
            if self.ends() or self.word in _JOINS:
                break
            joined_by.append(self.need("and", "or"))
        return _Conditions(tuple(each), tuple(joined_by))

    def condition(self, named: list[str]) -> _Condition:
        term = self.term(named)
        negated = bool(self.take("not"))
        test = self.need(*_TESTS)
        value, upper = self.value(named), None
        if test == "between":
            self.need("and")
            upper = self.value(named)
        return _Condition(negated, test, term, value, upper)

    def value(self, named: list[str]) -> _Value:
        start = self.at
        block = self.take("(")
        value: _Value
        if self.word == "select":
            value = self.query()
        elif '"' in self.word:
            value = self.word
            self.at += 1
        elif (number := _number(self.word)) is not None:
            value = number
            self.at += 1
        else:
            end = self.at
            stops = (",", ")", "and", *_CLAUSES, *_JOINS)
            while end < len(self.words) and self.words[end] not in stops:
                end += 1
            value = self.column_between(start, end, named)
        if block:
            self.need(")")
        return value

    def column_between(self, start: int, end: int, named: list[str]) -> _Column:
        """The column that begins at `start`; what else stands ahead of `end` is skipped."""
        words, self.words, self.at = self.words, self.words[:end], start
        try:
            return self.column(named)
        finally:
            self.words, self.at = words, end

    def term(self, named: list[str]) -> _Term:
        block = self.take("(")
        left, right = self.column(named), None
        if sign := self.take(*_SIGNS):
            right = self.column(named)
        if block:
            self.need(")")
        return _Term(sign or "none", left, right)

    def column(self, named: list[str]) -> _Column:
        block = self.take("(")
        if aggregate := self.take(*_AGGREGATES):
            self.need("(")
            distinct = bool(self.take("distinct"))
            name = self.name(named)
            self.need(")")  # that of `block` is never asked for here
            return _Column(aggregate, name, distinct)
        distinct = bool(self.take("distinct"))
        name = self.name(named)
        if block:
            self.need(")")
        return _Column("none", name, distinct)

    def name(self, named: list[str]) -> str:
        word = self.word
        self.at += 1
        if word == "*":
            return word
        first, dot, column = word.partition(".")
        if dot:
            owners = [self.names.get(first, "")]
        else:
            owners, column = named, word
        for table in owners:
            if column in self.schema.columns.get(table, ()):
                return f"{table}.{column}"
        raise _UnreadableError(f"no column {word!r}")


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


# -- comparing -------------------------------------------------------------------------------------


def _tied(query: _Query, schema: _Schema) -> _Query:
    """The query without values and DISTINCT, its columns tied by foreign keys if their table stands
    in its FROM; nested queries lose their values alone.
    """
    tables = frozenset(table for table in query.tables if isinstance(table, str))

    def column(old: _Column) -> _Column:
        name = schema.tied.get(old.name, old.name)
        inside = old.name.partition(".")[0] in tables
        return _Column(old.aggregate, name if inside else old.name, None)

    def term(old: _Term) -> _Term:
        return _Term(old.sign, column(old.left), old.right and column(old.right))

    def conditions(old: _Conditions) -> _Conditions:
        return old._replace(each=tuple(one._replace(term=term(one.term)) for one in old.each))

    def tied(query: _Query) -> _Query:
        return replace(
            query,
            items=tuple((aggregate, term(item)) for aggregate, item in query.items),
            where=conditions(query.where),
            group=tuple(map(column, query.group)),
            having=conditions(query.having),
            order=tuple(map(term, query.order)),
            other=query.other and tied(query.other),
        )

    return tied(_without_values(query))


def _without_values(query: _Query) -> _Query:
    def kept(value: _Value) -> _Value:
        return _without_values(value) if isinstance(value, _Query) else None

    def conditions(old: _Conditions) -> _Conditions:
        each = [one._replace(value=kept(one.value), upper=kept(one.upper)) for one in old.each]
        return old._replace(each=tuple(each))

    return replace(
        query,
        on=conditions(query.on),
        where=conditions(query.where),
        having=conditions(query.having),
        other=query.other and _without_values(query.other),
    )


def _same(a: _Query, b: _Query) -> bool:
    """Whether two queries match, clause by clause."""
    return (
        Counter(a.items) == Counter(b.items)
        and Counter(a.tables) == Counter(b.tables)
        and Counter(a.where.each) == Counter(b.where.each)
        and set(a.where.joined_by) == set(b.where.joined_by)
        and [column.name for column in a.group] == [column.name for column in b.group]
        and (not a.group or a.having == b.having)
        and (a.direction, a.order) == (b.direction, b.order)
        and _keywords(a) == _keywords(b)
        and (a.other is b.other or bool(a.other and b.other and _same(a.other, b.other)))
    )


def _keywords(query: _Query) -> set[str]:
    """What else has to be the same."""
    everywhere = (query.on, query.where, query.having)
    each = [one for conditions in everywhere for one in conditions.each]
    return {
        *("or" for conditions in everywhere if "or" in conditions.joined_by),
        *("not" for one in each if one.negated),
        *(one.test for one in each if one.test in ("in", "like")),
        *(["having"] if query.having.each else []),
        *(["limit"] if query.limit is not None else []),
        query.operator,
    }
