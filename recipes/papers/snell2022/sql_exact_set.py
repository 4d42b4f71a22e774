"""Does a SQL query ask what the gold query asks? Spider's exact-set match (Yu et al. 2018, section
5), over sqlglot's parse.

Two queries match if every clause matches as a set (with multiplicity): SELECT items with aggregates
and DISTINCT; FROM tables and join conditions; WHERE and HAVING conditions, and which of AND and OR
join them; GROUP BY columns; ORDER BY keys, in order, each with its direction; whether there is a
LIMIT; UNION, INTERSECT and EXCEPT with their operands; nested queries by the same rules. Letter
case, quotes, blanks, comments, alias names, `<>` for `!=`, `a < b` for `b > a` and a semicolon at
the end make no difference. Constants in conditions do not count unless asked for.

It is written from the paper's definition and is not the official evaluator (taoyds/spider,
evaluation.py), so its numbers are not to be set beside published ones without saying so.
`sql_official.py` tells that one's rule again, faults included; `tests/test_sql_official.py` holds
the two apart, point by point.

Stricter than the official one here:

- DISTINCT counts, in SELECT and in aggregates. There, in nested queries alone.
- All join conditions count. There, only whether they hold an OR, NOT, IN or LIKE.
- A column on the right of a comparison counts: `a = b` is not `a = c`. There, all but a nested
  query is dropped as a value.
- Each ORDER BY key has its own direction. There, all have the last one's.
- OFFSET counts, and an answer is one query alone. There, text behind a query goes unread, and
  OFFSET is such a text.
- Columns are one if an inner join sets them equal. There, if a foreign key of the schema does,
  joined on or not.

More lenient here:

- Whatever sqlglot reads in SQLite's dialect is compared, also what the official grammar has no
  place for and scores 0: INNER JOIN, a comma between tables, outer joins (told from inner ones, by
  side), USING; aliases without AS, aliases of columns; parentheses around conditions; `a=1`
  without blanks, `<>`, backticks, `T1.*`; CASE, functions, longer arithmetic, window functions, IS
  NULL, IN lists (as one value), ORDER BY 1, UNION ALL (told from UNION), several set operations,
  WITH (as a nested query in FROM).
- GROUP BY columns and HAVING conditions are in no order, nor are the operands of UNION and
  INTERSECT. There, all are.
- A nested query is compared by the same rules. There, word for word: items and conditions in order,
  with LIMIT's number, and in FROM with values.
- Whether a table or a column exists is not checked: a query that would not run can match.

Known limits. As in Spider, AND and OR are compared as a set, so `a AND (b OR c)` matches `(a AND b)
OR c` (the official evaluator reads neither); and both sides of a self-join are one table, so
swapped aliases go unseen. Our own: columns that an inner join of two different tables sets equal
are one column outside the join. An unqualified column over several tables that no schema settles is
compared by its name alone, in both queries. A double-quoted word is a text where a value is usual
(right of a comparison, bounds, lists) and a column elsewhere; a schema settles it as SQLite would.
Queries that mean the same by other clauses do not match: IN and EXISTS, a join and a nested query,
BETWEEN and two comparisons, a comma with WHERE and JOIN with ON, `NOT a = b` and `a != b`, another
path of join conditions through the same columns.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlglot
from sqlglot import Expr, exp
from sqlglot.errors import SqlglotError

from unprompt.metrics import Metric
from unprompt.records import Example

LONGEST = 10_000
"""Characters of a query; a longer one counts as unparsable, so that no answer takes long. Spider's
development set has none above 422."""

Schema = Mapping[str, Collection[str]]
"""Table name -> names of its columns."""


def exact_set_match(
    answer: str, example: Example, *, values: bool = False, schema: Schema | None = None
) -> float:
    """1 if the answer is one SQL query (SQLite's dialect) that matches the target clause by clause,
    else 0.

    Args:
        answer: The query alone; take it out of prose or a code block with `extract`.
        example: Its target is the gold query, or a list of accepted ones.
        values: Whether constants count too: in conditions, LIMIT and OFFSET. Spider's exact-set
            match leaves them out.
        schema: The tables' columns (see `read_schema`), to tell which table an unqualified column
            belongs to.

    Returns:
        0.0 or 1.0. An answer that does not parse, is not a query, or is several, is worth 0.

    Raises:
        ValueError: A gold query does not parse.
    """
    known = {
        table.lower(): frozenset(name.lower() for name in names)
        for table, names in (schema or {}).items()
    }
    targets = example.target if isinstance(example.target, (list, tuple)) else [example.target]
    predicted = _parse(answer)
    matched = False
    for target in targets:
        gold = _parse(str(target))
        if gold is None or _same(gold, gold, values, known) is None:
            raise ValueError(
                f"example '{example.id}': its gold query cannot be read as one SQL query:"
                f" {str(target)[:200]} -> mend its target"
            )
        matched = matched or (
            predicted is not None and _same(predicted, gold, values, known) is True
        )
    return float(matched)


metric = Metric(exact_set_match, refuses_gold=True)


def read_schema(ddl: str) -> dict[str, list[str]]:
    """Table name -> column names, from CREATE TABLE statements.

    Raises:
        sqlglot.errors.SqlglotError: The text does not parse.
    """
    tables: dict[str, list[str]] = {}
    for statement in sqlglot.parse(ddl, read="sqlite"):
        if isinstance(statement, exp.Create) and isinstance(made := statement.this, exp.Schema):
            tables[made.this.name] = [
                column.name for column in made.expressions if isinstance(column, exp.ColumnDef)
            ]
    return tables


def _parse(text: str) -> exp.Query | None:
    """The one query in the text, or None."""
    # sqlglot also reads other dialects' and other statements' first words, or logs a warning and
    # keeps the text as a "command"
    if len(text) > LONGEST or not text.lstrip().lower().startswith(
        ("select", "with", "(", "--", "/*")
    ):
        return None
    try:
        statements = [
            tree
            for tree in sqlglot.parse(text, read="sqlite")
            if tree is not None and not isinstance(tree, exp.Semicolon)
        ]
    except (SqlglotError, RecursionError):
        return None
    if len(statements) != 1 or not isinstance(statements[0], exp.Query):
        return None
    return (
        statements[0]
        if all(select.expressions for select in statements[0].find_all(exp.Select))
        else None
    )


def _same(
    a: exp.Query, b: exp.Query, values: bool, schema: Mapping[str, frozenset[str]]
) -> bool | None:
    """Whether two queries have the same normal form; None if one is nested too deep to say."""
    try:
        readers = [_Reader(values, schema, frozenset()) for _ in (a, b)]
        forms = [
            reader.query(tree, None, {}).form for reader, tree in zip(readers, (a, b), strict=True)
        ]
        # a column that is `name` in one query and `T1.name` in the other can only be compared by
        # its name, and then so in both
        if loose := frozenset[str]().union(*(reader.ambiguous for reader in readers)):
            forms = [_Reader(values, schema, loose).query(tree, None, {}).form for tree in (a, b)]
    except RecursionError:
        return None
    return forms[0] == forms[1]


_Place = tuple[str, str]
"""A column: the label of its table or nested query (empty if open) and its name there."""


@dataclass(frozen=True, slots=True)
class _Source:
    """What a FROM clause reads.

    Attributes:
        label: The table's name, or a digest of the nested query.
        columns: Its column names; None if not known.
        made: For a nested query, column name -> digest of what it is made from, so that names given
            inside make no difference.
    """

    label: str
    columns: frozenset[str] | None = None
    made: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Scope:
    """The names that one SELECT can use.

    Attributes:
        sources: Alias -> what it stands for.
        labels: How often each label is read: more than once in a self-join.
        outer: The query around it, for correlated columns.
        named: WITH queries in sight.
        aliases: Names given in SELECT -> normal form, in clauses that can use them.
        items: The SELECT list's normal forms, for ORDER BY 1.
        equal: (label, column) -> the one that stands for it, for columns that a join sets equal.
    """

    outer: _Scope | None
    named: Mapping[str, _Source]
    sources: dict[str, _Source] = field(default_factory=dict)
    labels: Counter[str] = field(default_factory=Counter)
    aliases: dict[str, str] = field(default_factory=dict)
    items: list[str] = field(default_factory=list)
    equal: dict[_Place, _Place] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Read:
    """A query's normal form, its output (name -> normal form; not all of it with a `*`), and the
    scope that its ORDER BY sees.
    """

    form: str
    output: dict[str, str]
    whole: bool
    scope: _Scope


_MIRRORED = {exp.GT: "lt", exp.GTE: "lte"}
_SYMMETRIC = (exp.EQ, exp.NEQ, exp.Add, exp.Mul)
_PREDICATES = (
    exp.EQ,
    exp.NEQ,
    exp.GT,
    exp.GTE,
    exp.LT,
    exp.LTE,
    exp.Is,
    exp.Like,
    exp.Glob,
    exp.RegexpLike,
    exp.Match,
    exp.Between,
    exp.In,
)
_READ = frozenset(
    {
        "this",
        "expression",
        "expressions",
        "distinct",
        "alias",
        "from",
        "joins",
        "where",
        "group",
        "having",
        "order",
        "limit",
        "offset",
        "with",
    }
)
"""Arguments of a query that are read by name; any other counts too, by its own form."""


class _Reader:
    """From a parsed query to a normal form: a text that is equal for queries that match.

    Nested queries stand in it as digests, so its length is bounded by the query's own.
    """

    def __init__(
        self, values: bool, schema: Mapping[str, frozenset[str]], loose: frozenset[str]
    ) -> None:
        self.values, self.schema, self.loose = values, schema, loose
        self.ambiguous: set[str] = set()

    # -- queries -----------------------------------------------------------------------------------

    def query(self, node: Expr, outer: _Scope | None, named: Mapping[str, _Source]) -> _Read:
        args = _args(node)
        for common in args["with"].expressions if "with" in args else ():
            named = {**named, common.alias.lower(): self.nested(common.this, outer, named)}
        if isinstance(node, exp.Select):
            read = self.select(node, args, outer, named)
        elif isinstance(node, exp.SetOperation):
            read = self.set_operation(node, outer, named)
        else:
            read = self.query(node.this, outer, named)
        tail = [self.ordered(args, read.scope)]
        tail += [
            f"{key} {self.expression(args[key], read.scope) if self.values else ''}"
            for key in ("limit", "offset")
            if key in args
        ]
        tail += [
            f"{key} {self.argument(value, read.scope)}"
            for key, value in sorted(args.items())
            if key not in _READ
        ]
        return _Read(
            read.form + "".join(f" {part}" for part in tail if part),
            read.output,
            read.whole,
            read.scope,
        )

    def nested(self, node: Expr, outer: _Scope | None, named: Mapping[str, _Source]) -> _Source:
        read = self.query(node, outer, named)
        made = {name: _digest(form) for name, form in read.output.items()}
        return _Source(_digest(read.form), frozenset(made) if read.whole else None, made)

    def set_operation(
        self, node: exp.SetOperation, outer: _Scope | None, named: Mapping[str, _Source]
    ) -> _Read:
        kind, every = type(node), node.args.get("distinct") is False
        operands = [node.expression]
        first: Expr = node.this
        while True:
            inner = first.this if _is_bare(first) else first
            own = _args(inner).keys() - {"this", "expression", "distinct"}  # an ORDER BY, a LIMIT
            if type(inner) is not kind or (inner.args.get("distinct") is False) != every or own:
                break
            operands.append(inner.expression)
            first = inner.this
        reads = [self.query(operand, outer, named) for operand in [first, *reversed(operands)]]
        forms = [read.form for read in reads]
        forms = [forms[0], *sorted(forms[1:])] if kind is exp.Except else sorted(forms)
        form = f"{node.key}{' all' if every else ''}({', '.join(map(_digest, forms))})"
        return _Read(form, reads[0].output, reads[0].whole, reads[0].scope)

    def select(
        self,
        node: exp.Select,
        args: dict[str, Any],
        outer: _Scope | None,
        named: Mapping[str, _Source],
    ) -> _Read:
        scope = _Scope(outer, named)
        parts = [f"from {self.tables(args, scope)}"]
        if "where" in args:
            parts.append(f"where {self.conditions([args['where'].this], scope)}")
        output, inward = {}, set[str]()
        for item in node.expressions:
            form = self.expression(item, scope)
            scope.items.append(form)
            if name := item.alias_or_name.lower():
                output.setdefault(name, form)
            if isinstance(item, exp.Alias) and any(
                column.name.lower() == name for column in item.find_all(exp.Column)
            ):
                inward.add(name)
        given = {
            item.alias.lower(): form
            for item, form in zip(node.expressions, scope.items, strict=True)
            if isinstance(item, exp.Alias)
        }
        # in `SELECT max(age) AS age ... HAVING age > 1` the column is meant, in ORDER BY the alias
        scope.aliases = {name: form for name, form in given.items() if name not in inward}
        if "group" in args:
            keys = [self.key(key, scope) for key in args["group"].expressions]
            rest = [
                f"{k} {self.argument(v, scope)}"
                for k, v in sorted(_args(args["group"]).items())
                if k != "expressions"
            ]
            parts.append(f"group {sorted(keys)} {' '.join(rest)}")
        if "having" in args:
            parts.append(f"having {self.conditions([args['having'].this], scope)}")
        scope.aliases = given
        distinct = (
            f" distinct {self.argument(args['distinct'].args.get('on'), scope)}"
            if "distinct" in args
            else ""
        )
        form = f"select{distinct} {_list(scope.items)} {' '.join(parts)}"
        return _Read(form, output, not any(item.is_star for item in node.expressions), scope)

    def ordered(self, args: dict[str, Any], scope: _Scope) -> str:
        if "order" not in args:
            return ""
        keys = []
        for key in args["order"].expressions:
            flags = " ".join(name for name in ("desc", "nulls_first") if key.args.get(name))
            keys.append(f"{self.key(key.this, scope)} {flags}")
        return f"order ({', '.join(keys)})"

    def key(self, node: Expr, scope: _Scope) -> str:
        """A GROUP BY or ORDER BY key; a number is the place of a SELECT item."""
        if (
            isinstance(node, exp.Literal)
            and not node.is_string
            and node.this.isdigit()
            and 0 < int(node.this[:9]) <= len(scope.items)
        ):
            return scope.items[int(node.this[:9]) - 1]
        return self.expression(node, scope)

    # -- FROM --------------------------------------------------------------------------------------

    def tables(self, args: dict[str, Any], scope: _Scope) -> str:
        """Tables and join conditions: of inner joins two sets, while an outer or natural join stays
        one piece.
        """
        inner: list[str] = []
        conditions: list[Expr] = []
        pairs: list[tuple[_Place, _Place]] = []
        pieces: list[str] = []
        for join, item in _from_items(args):
            before = list(scope.sources.values())
            source = self.source(item, scope)
            using = [name.name.lower() for name in (join.args.get("using") if join else None) or ()]
            shared = [(self.place(name, before), self.place(name, [source])) for name in using]
            on = (
                [given] if join and (given := join.args.get("on")) and given != exp.true() else []
            )  # sqlglot adds ON TRUE to a JOIN without
            kind = (
                [
                    word.lower()
                    for word in (join.method, join.side, join.kind)
                    if word not in ("", "INNER", "OUTER", "CROSS")
                ]
                if join
                else []
            )
            if kind:
                pieces.append(f"{kind} {source.label} {self.conditions(on, scope, shared)}")
            else:
                inner.append(source.label)
                conditions += on
                pairs += shared
        form = (
            f"{_list(inner)} on {self.conditions(conditions, scope, pairs)}"
            f" {' '.join(sorted(pieces))}"
        )
        leaves, connectors = _leaves(conditions)
        if "or" not in connectors:
            pairs += [
                (self.find(leaf.this, scope)[0], self.find(leaf.expression, scope)[0])
                for leaf in leaves
                if isinstance(leaf, exp.EQ)
                and isinstance(leaf.this, exp.Column)
                and isinstance(leaf.expression, exp.Column)
            ]
        scope.equal = _united(
            [
                pair
                for pair in pairs
                if pair[0][0] != pair[1][0] and all(scope.labels[label] == 1 for label, _ in pair)
            ]
        )
        return form

    def source(self, node: Expr, scope: _Scope) -> _Source:
        """What one item of FROM reads, added to the scope."""
        name = node.name.lower()
        if isinstance(node, exp.Subquery):
            source = self.nested(node.this if _is_bare(node) else node, scope.outer, scope.named)
        elif isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier):
            source = scope.named.get(name) or _Source(repr(name), self.schema.get(name))
        else:  # a table function
            source = _Source(_digest(self.generic(node, scope)))
        scope.sources[node.alias_or_name.lower() or f" {len(scope.sources)}"] = source
        scope.labels[source.label] += 1
        return source

    # -- columns -----------------------------------------------------------------------------------

    def place(self, name: str, sources: Iterable[_Source]) -> _Place:
        """Where an unqualified column belongs among these sources; its label is empty if that is
        open.
        """
        sources = list(sources)
        sure = {
            source.label: source
            for source in sources
            if source.columns is not None and name in source.columns
        }
        maybe = {source.label: source for source in sources if source.columns is None}
        for found in (sure, maybe):
            if len(found) == 1:
                return self.at(next(iter(found.values())), name)
            if found:
                break
        if sure or maybe:
            self.ambiguous.add(name)
        return "", name

    def at(self, source: _Source, name: str) -> _Place:
        return ("", name) if name in self.loose else (source.label, source.made.get(name, name))

    def find(self, column: exp.Column, scope: _Scope) -> tuple[_Place, _Scope]:
        """The (label, name) of a column, and the query, this one or one around it, that it belongs
        to.
        """
        name, qualifier = column.name.lower(), column.table.lower()
        around: _Scope | None = scope
        while around:
            if qualifier in around.sources:
                return self.at(around.sources[qualifier], name), around
            if not qualifier and any(
                source.columns is None or name in source.columns
                for source in around.sources.values()
            ):
                return self.place(name, around.sources.values()), around
            around = around.outer
        return (repr(qualifier) if qualifier and name not in self.loose else "", name), scope

    def column(self, node: exp.Column, scope: _Scope) -> str:
        if isinstance(node.this, exp.Star):
            source = scope.sources.get(node.table.lower())
            return (
                "*"
                if source and len(scope.sources) == 1
                else f"{source.label if source else node.table.lower()}.*"
            )
        if not node.table and node.name.lower() in scope.aliases:
            return scope.aliases[node.name.lower()]
        place, around = self.find(node, scope)
        label, name = around.equal.get(place, place)
        return f"{label}.{name!r}"

    def is_text(self, node: Expr, scope: _Scope, expected: bool) -> bool:
        """Whether a double-quoted word is a text and no column; `expected` where a value is
        usual.
        """
        if (
            not isinstance(node, exp.Column)
            or node.table
            or not isinstance(node.this, exp.Identifier)
            or not node.this.quoted
        ):
            return False
        sources: list[_Source] = []
        around: _Scope | None = scope
        while around:
            sources += around.sources.values()
            around = around.outer
        if any(
            source.columns is not None and node.name.lower() in source.columns for source in sources
        ):
            return False
        return expected or (
            bool(sources)
            and all(source.columns is not None for source in sources)
            and node.name.lower() not in scope.aliases
        )

    # -- conditions and expressions ----------------------------------------------------------------

    def conditions(
        self, nodes: list[Expr], scope: _Scope, pairs: Iterable[tuple[_Place, _Place]] | None = None
    ) -> str:
        """Conditions as a set, and which of AND and OR join them.

        Of a join, `pairs` are the columns that USING sets equal, and AND goes without saying: ON a
        AND b, or ON a and ON b.
        """
        leaves, connectors = _leaves(nodes)
        forms = [self.expression(leaf, scope) for leaf in leaves]
        shared = [
            f"eq({', '.join(sorted(f'{label}.{name!r}' for label, name in pair))})"
            for pair in pairs or ()
        ]
        return (
            f"{_list(forms + shared)}"
            f" {' '.join(sorted(connectors - ({'and'} if pairs is not None else set())))}"
        )

    def expression(self, node: Expr, scope: _Scope) -> str:
        if isinstance(node, (exp.Paren, exp.Alias)):
            return self.expression(node.this, scope)
        if isinstance(node, exp.Query):
            return _digest(self.query(node, scope, scope.named).form)
        if isinstance(node, (exp.And, exp.Or)):
            return f"({self.conditions([node], scope)})"
        if isinstance(node, exp.Not):
            return f"not {self.expression(node.this, scope)}"
        if isinstance(node, _PREDICATES):
            return self.predicate(node, scope)
        if isinstance(node, exp.Column):
            return (
                repr(node.name)
                if self.is_text(node, scope, expected=False)
                else self.column(node, scope)
            )
        if isinstance(node, exp.Literal):
            return repr(node.this) if node.is_string else _number(node.this)
        if isinstance(node, exp.Star):
            return "*"
        if isinstance(node, (exp.Identifier, exp.Var)):
            return repr(node.name.lower())
        return self.generic(node, scope)

    def predicate(self, node: Expr, scope: _Scope) -> str:
        sign = (
            "not " if node.args.get("negate") else ""
        )  # newer versions of sqlglot mark NOT LIKE so
        left = self.operand(node.this, scope, expected=False)
        if isinstance(node, exp.Between):
            low, high = (self.operand(node.args[bound], scope) for bound in ("low", "high"))
            return f"{sign}between({left}, {low}, {high})"
        if isinstance(node, exp.In):
            among = node.args.get("query") or node.args.get("field")
            items = sorted({self.operand(item, scope) for item in node.expressions})
            if isinstance(among, exp.Column):  # IN table
                known = scope.named.get(among.name.lower())
                items.append(known.label if known else repr(among.name.lower()))
            elif among is not None:
                items.append(self.expression(among, scope))
            return f"{sign}in({left}, {items})"
        right = self.operand(node.expression, scope)
        if isinstance(node, _SYMMETRIC):
            left, right = sorted((left, right))
        elif type(node) in _MIRRORED:
            return f"{_MIRRORED[type(node)]}({right}, {left})"
        return f"{sign}{node.key}({left}, {right})"

    def operand(self, node: Expr, scope: _Scope, expected: bool = True) -> str:
        """One side of a comparison; a constant is `?` unless values count. NULL is no constant."""
        while isinstance(node, exp.Paren):
            node = node.this
        text = self.is_text(node, scope, expected)
        if not self.values and (
            text
            or not node.find(exp.Column, exp.Query, exp.AggFunc, exp.Star, exp.Null, exp.Window)
        ):
            return "?"
        return repr(node.name) if text else self.expression(node, scope)

    def generic(self, node: Expr, scope: _Scope) -> str:
        """Any other node: its kind (a function's name) and its parts in order; those of + and * in
        any order.
        """
        if isinstance(node, exp.Anonymous):
            inner = ", ".join(self.expression(part, scope) for part in node.expressions)
            return f"{node.name.lower()}({inner})"
        parts = [
            f"{key}={form}"
            for key, value in _args(node).items()
            if (form := self.argument(value, scope))
        ]
        if isinstance(node, _SYMMETRIC):
            parts = sorted(part.partition("=")[2] for part in parts)
        return f"{node.key}({', '.join(parts)})"

    def argument(self, value: object, scope: _Scope) -> str:
        if isinstance(value, Expr):
            return self.expression(value, scope)
        if isinstance(value, list):
            return f"[{', '.join(self.argument(part, scope) for part in value)}]"
        return "" if value is None else str(value).lower()


# -- sqlglot's trees -------------------------------------------------------------------------------


def _args(node: Expr) -> dict[str, Any]:
    """A node's arguments that say something. Some versions of sqlglot write `from_` and `with_` for
    `from` and `with`.
    """
    return {
        key.rstrip("_"): value
        for key, value in node.args.items()
        if value is not None and value is not False and value != []
    }


def _is_bare(node: Expr) -> bool:
    """Parentheses around a query, without an ORDER BY or LIMIT of their own."""
    return isinstance(node, exp.Subquery) and not (_args(node).keys() - {"this", "alias", "joins"})


def _from_items(args: dict[str, Any]) -> list[tuple[exp.Join | None, Expr]]:
    """What FROM reads, in order, each with its join; parentheses around joins are opened."""
    todo: list[tuple[exp.Join | None, Expr]] = [
        (join, join.this) for join in reversed(args.get("joins", []))
    ]
    if "from" in args:
        todo.append((None, args["from"].this))
    found = []
    while todo:
        join, item = todo.pop()
        todo += [(more, more.this) for more in reversed(item.args.get("joins") or [])]
        if isinstance(item, (exp.Subquery, exp.Paren)) and not isinstance(item.this, exp.Query):
            todo.append((join, item.this))
        else:
            found.append((join, item))
    return found


def _leaves(nodes: list[Expr]) -> tuple[list[Expr], set[str]]:
    """The conditions under AND, OR and parentheses, and which of the two there are. A loop: a chain
    of thousands is that deep a tree.
    """
    leaves, connectors, todo = [], set[str](), list(reversed(nodes))
    while todo:
        node = todo.pop()
        if isinstance(node, (exp.And, exp.Or)):
            connectors.add(node.key)
            todo += [node.expression, node.this]
        elif isinstance(node, exp.Paren):
            todo.append(node.this)
        else:
            leaves.append(node)
    return leaves, connectors


def _united(pairs: list[tuple[_Place, _Place]]) -> dict[_Place, _Place]:
    """Each column that is set equal to others -> the first of them by name."""
    groups: list[set[_Place]] = []
    for pair in pairs:
        joined = set(pair).union(*(group for group in groups if group & set(pair)))
        groups = [group for group in groups if not group & joined] + [joined]
    return {place: min(group) for group in groups for place in group}


def _number(text: str) -> str:
    try:
        return f"{float(text):.17g}"
    except ValueError:  # hexadecimal
        return text.lower()


def _list(forms: Iterable[str]) -> str:
    return f"[{', '.join(sorted(forms))}]"


def _digest(form: str) -> str:
    return "#" + hashlib.blake2b(form.encode(errors="surrogatepass"), digest_size=16).hexdigest()
