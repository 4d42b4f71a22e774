"""Rows of all types that data files can hold, through templates: each value stands in the prompt as
a person would write it, or is refused with its row's id.

`UNPROMPT_FUZZ=3000 pytest tests/test_rows.py` tries fresh ones, as `test_fuzz.py`.
"""

from __future__ import annotations

import csv
import datetime
import json
import keyword
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, strategies as st
from pyarrow import parquet

from test_fuzz import fuzz
from unprompt.messages import UserError
from unprompt.recipe import Data, Template
from unprompt.stages import inputs
from unprompt.stages.templates.render import render

NAMES = st.one_of(
    st.sampled_from(
        [
            *("text", "copy", "items", "values", "keys", "get", "input", "range", "dict", "self"),
            *("true", "none", "loop", "join", "col name", "order-id", "Größe", "é", "1st", "a.b"),
            *("cycler", "namespace", "upper", "target", "if", "not", 'a"b', "class", "examples"),
        ]
    ),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6),
).filter(lambda name: name != "id")
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
IN_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=3)),
    max_leaves=8,
)
SHORT = st.floats(width=32, allow_nan=False, allow_infinity=False)
DAYS = st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2100, 1, 1))
IN_PARQUET: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (pa.string(), WORDS),
    (pa.large_string(), WORDS),
    (pa.dictionary(pa.int8(), pa.string()), WORDS),
    (pa.bool_(), st.booleans()),
    (pa.int8(), st.integers(-128, 127)),
    (pa.uint64(), st.integers(0, 2**64 - 1)),
    (pa.float16(), st.floats(width=16)),
    (pa.float32(), st.floats(width=32)),
    (pa.float64(), st.floats()),
    (pa.decimal128(10, 2), st.decimals(-999, 999, places=2)),
    (pa.date32(), DAYS.map(lambda day: day.date())),
    (pa.time64("us"), DAYS.map(lambda day: day.time())),
    (pa.timestamp("us"), DAYS),
    (
        pa.timestamp("ms", tz="UTC"),
        DAYS.map(lambda day: day.replace(microsecond=0, tzinfo=datetime.UTC)),
    ),
    (pa.duration("us"), st.timedeltas(datetime.timedelta(-99), datetime.timedelta(99))),
    (pa.binary(), st.binary(max_size=4)),
    (pa.uuid(), st.uuids()),
    (pa.list_(pa.float32()), st.lists(SHORT, max_size=3)),
    (pa.list_(pa.string()), st.lists(st.one_of(WORDS, st.none()), max_size=3)),
    (pa.map_(pa.string(), pa.float32()), st.dictionaries(WORDS, SHORT, max_size=3)),
    (
        pa.struct([("copy", pa.float32()), ("z", pa.list_(pa.int16()))]),
        st.fixed_dictionaries({"copy": SHORT, "z": st.lists(st.integers(-99, 99), max_size=2)}),
    ),
]
HIDDEN = {"true", "false", "none", "self", "if", "not"}
WAYS = [
    "{{ % }}",
    "{{ '' ~ % }}",
    "{{ % | string }}",
    "{{ '\0s' | format(%) }}",
    "{{ '{}'.format(%) }}",
    "{{ '\0s' \0 % }}",
    "{{ [%] | join }}",
    "{\0 set x = % \0}{{ x }}",
]
"""How a template may put a field (`%`) in; `\\0` is a percent sign."""

Row = dict[str, tuple[Any, Any]]
"""Name -> type in Parquet and value."""


@st.composite
def rows(draw: st.DrawFn) -> tuple[str, Row]:
    """The ending of a data file, and the row in it."""
    suffix = draw(st.sampled_from(["json", "jsonl", "csv", "parquet"]))
    row = {}
    for name in draw(st.lists(NAMES, min_size=1, max_size=4, unique=True)):
        if suffix == "parquet":
            kind, values = draw(st.sampled_from(IN_PARQUET))
            row[name] = kind, draw(st.one_of(values, st.none()))
        else:
            row[name] = None, draw(WORDS if suffix == "csv" else IN_JSON)
    return suffix, row


def written(path: Path, row: Row) -> Path:
    values = {"id": "r7"} | {name: value for name, (_, value) in row.items()}
    if path.suffix == ".parquet":
        columns = {"id": pa.array(["r7"])}
        for name, (kind, value) in row.items():
            stored = value.bytes if isinstance(value, uuid.UUID) else value
            if isinstance(value, dict) and pa.types.is_map(kind):
                stored = list(value.items())
            columns[name] = pa.array([stored], type=kind)
        parquet.write_table(pa.table(columns), path)
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, quoting=csv.QUOTE_ALL).writerows([values, values.values()])
    else:
        made = json.dumps(values, ensure_ascii=False)
        path.write_text(f"[{made}]" if path.suffix == ".json" else f"{made}\n", "utf-8")
    return path


def unwritable(value: Any, inside: bool = False) -> bool:
    """Whether nobody could say how it is written."""
    if isinstance(value, dict | list):
        return any(
            unwritable(x, True) for x in (value if isinstance(value, list) else value.values())
        )
    if isinstance(value, float):
        return not np.isfinite(value)
    return isinstance(value, bytes) or (value is None and not inside)


def assert_as_a_person_would(text: str, value: Any, kind: Any) -> None:
    if isinstance(value, str):
        assert text == value
    elif isinstance(value, bool):
        assert text == ("true" if value else "false")
    elif isinstance(value, dict | list):
        found = json.loads(text)
        assert json.dumps(found) == json.dumps(shortest(value, kind)), "order and values"
        for word in texts(value):
            assert json.dumps(word, ensure_ascii=False) in text, "letters as they are"
    elif isinstance(value, float):
        assert float(text) == shortest(value, kind)
        assert len(text) <= len(repr(float(text)))
    elif isinstance(value, int | Decimal):
        assert type(value)(text) == value
        assert set(text) <= set("-.0123456789")
    elif isinstance(value, datetime.date | datetime.time):
        assert type(value).fromisoformat(text) == value
    else:
        assert isinstance(value, uuid.UUID | datetime.timedelta)
        assert text.removeprefix("0 days ") == str(value)


def shortest(value: Any, kind: Any) -> Any:
    """The same with the fewest digits that tell the numbers of a type in Parquet."""
    if isinstance(value, list):
        inner = kind.value_type if kind else None
        return [shortest(each, inner) for each in value]
    if isinstance(value, dict):
        structs = pa.types.is_struct(kind) if kind else False
        return {
            name: shortest(each, kind.field(name).type if structs else kind and kind.item_type)
            for name, each in value.items()
        }
    if isinstance(value, float) and kind in (pa.float16(), pa.float32()):
        return float(str((np.float16 if kind == pa.float16() else np.float32)(value)))
    return value


def texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [*value, *texts(list(value.values()))]
    return [t for each in value for t in texts(each)] if isinstance(value, list) else []


@fuzz
@given(rows(), st.data())
def test_a_value_stands_as_a_person_would_write_it_or_is_refused(
    tmp_path: Path, made: tuple[str, Row], data: st.DataObject
) -> None:
    suffix, row = made
    [example] = inputs.load(Data(file=str(written(tmp_path / f"d.{suffix}", row))), "inputs")
    assert example.id == "r7"
    assert [*example.fields] == ["id", *row]
    name = data.draw(st.sampled_from(list(row)))
    kind, value = row[name]
    plain = name.isidentifier() and not keyword.iskeyword(name) and name not in HIDDEN
    if not plain and "input" in row:
        return  # a column of that name stands for itself
    put = name if plain else f"input[{json.dumps(name, ensure_ascii=False)}]"
    way = data.draw(st.sampled_from(WAYS))
    template = Template(text=way.replace("%", put).replace("\0", "%"))
    prompt, error = None, ""
    try:
        prompt = render(template, "c", example, None, "t")
    except UserError as found:
        error = str(found)
    if prompt is None:
        assert unwritable(value), error
        assert "input 'r7'" in error
        assert "\n" not in error
        return
    assert not unwritable(value)
    assert isinstance(prompt.content, str)
    number = isinstance(value, float | Decimal) and not isinstance(value, bool)
    if number and "\0s" in way:
        assert float(prompt.content) == float(shortest(value, kind))
    else:
        assert_as_a_person_would(prompt.content, value, kind)


@fuzz
@given(rows())
def test_columns_that_nothing_names_change_nothing(tmp_path: Path, made: tuple[str, Row]) -> None:
    suffix, row = made
    row = {**row, "text": (pa.string(), "as it is")}
    [example] = inputs.load(Data(file=str(written(tmp_path / f"d.{suffix}", row))), "inputs")
    prompt = render(Template(text="{{ text }}"), "c", example, None, "t")
    assert prompt.content == "as it is"
