"""Every file that a user, a model's author or an accident may have damaged: a good one with bytes
flipped, cut or put in, or with values of other kinds. Only `UserError`s of one line come out.

`UNPROMPT_FUZZ=3000 pytest tests/test_readers.py` tries fresh ones, as `test_fuzz.py`.
"""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from hypothesis import given, settings, strategies as st
from pyarrow import parquet

from conftest import byte_tokenizer, decoder, tiny_recipe
from test_fuzz import MANY, fuzz, mutated, only_user_errors
from test_turns import gguf_file
from unprompt.engines import models
from unprompt.engines.tokens import encode, open_thought, writes_date
from unprompt.messages import UserError
from unprompt.metrics.numeric import numeric_match
from unprompt.recipe import Data, Extract, Model, load, parse, prices
from unprompt.records import Example
from unprompt.stages import check, inputs
from unprompt.stages.lessons import extract
from unprompt.store.folder import RunDir
from unprompt.tools import starter
from unprompt.tools.rating import ballots, rate, sheets

few = settings(fuzz, max_examples=MANY or 25)
PUT_IN = [
    *(b"[" * 20_000, b"{" * 9_000, b'{"a":' * 9_000, b"9" * 5_000, b"1e999", b"2024-02-30"),
    *(b"\xed\xa0\x80", b'"\\ud800"', b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b[2J", b"null"),
    *(b"&a [*a]", b"!!bool x", b"- ", b"? ", b"'", b'"', b"\n", b"\r", b"\t", b",", b"{{ x[0] }}"),
]


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file of which one to three places were changed."""
    found = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, min(len(found), 4_000) - 1)))
        how = draw(st.sampled_from(["flip", "cut", "put in", "take out"]))
        if how == "flip" and found:
            found[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "cut":
            del found[at:]
        elif how == "put in":
            found[at:at] = draw(st.sampled_from(PUT_IN))
        else:
            del found[at : at + draw(st.integers(1, 40))]
    return bytes(found)


# -- recipes ---------------------------------------------------------------------------------------

RECIPE = yaml.safe_dump(tiny_recipe(Path("nowhere"))).encode()
PRICES = b"date: 2026-01\nprices:\n  a: {input: 1.5, output: 2, cached_input: 0.5}\n"
WORDS = [each.decode("utf-8", "surrogateescape") for each in PUT_IN]


@fuzz
@given(damaged(RECIPE), damaged(PRICES))
def test_recipes_and_prices(tmp_path: Path, recipe: bytes, table: bytes) -> None:
    (tmp_path / "r.yaml").write_bytes(recipe)
    only_user_errors(lambda: load(tmp_path / "r.yaml"))
    (tmp_path / "p.yaml").write_bytes(table)
    only_user_errors(lambda: prices.load(str(tmp_path / "p.yaml")))


@fuzz
@given(
    st.sampled_from(["train.epochs", "model", "contexts.colours.inputs", "seed", "a.b", ""]),
    st.lists(st.sampled_from(WORDS) | st.text(max_size=8), max_size=3).map("".join),
)
def test_overrides(tmp_path: Path, key: str, value: str) -> None:
    (tmp_path / "r.yaml").write_bytes(RECIPE)
    only_user_errors(lambda: load(tmp_path / "r.yaml", [f"{key}={value}"]))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("name: 2024-02-30", "r.yaml:1: not YAML: the value can't be read"),
        ("seed: 1\nname: 2023-02-29 10:00:00", "r.yaml:2: not YAML: the value can't be read"),
        ("seed: " + "9" * 5_000, "the value can't be read"),
        ("seed: !!int ''", "the value can't be read"),
        ("name: !!set [x]", "expected a mapping"),
        ("seed: " + "[" * 10_000, "nested too deeply"),
        ("seed: " + "[" * 200 + "]" * 200, "nested too deeply"),
        ("seed: " + "{a: " * 120 + "1" + "}" * 120, "nested too deeply"),
        ('name: "\\ud800"', r"half a character \(\\ud800\)"),
        ('a:\n  "\\udfff x": 1', "r.yaml:2: not YAML: half a character"),
        ("a: &a [*a]", "a section that holds itself"),
        ("a: &a {b: {c: *a}}", "a section that holds itself"),
    ],
)
def test_yaml_that_nobody_writes_is_one_line(text: str, match: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UserError, match=match) as caught:
        load(tmp_path / "r.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["[{0}]", "{{a: {0}}}"])
def test_a_few_lines_of_yaml_do_not_fill_the_memory(form: str, tmp_path: Path) -> None:
    """Lists of lists that are named again and again: 10 to the 9 values."""
    lines = ["k0: &k0 [1, 2, 3]"]
    for n in range(1, 9):
        inner = ", ".join([f"*k{n - 1}"] * 10)
        lines.append(f"k{n}: &k{n} " + form.format(f"[{inner}]"))
    (tmp_path / "r.yaml").write_text("\n".join(lines))
    with pytest.raises(UserError, match="values, those that are named again counted"):
        load(tmp_path / "r.yaml")


@pytest.mark.parametrize("name", ["x" * 300, "./" + "x" * 5_000, "~nobody-of-this-name/x", "a\0b"])
def test_what_can_be_no_path_is_one_line(name: str) -> None:
    words = tiny_recipe(Path("nowhere"))
    for change in ({"model": name}, {"model": {"gguf": name}}, {"modules": name}):
        with pytest.raises(UserError) as caught:
            parse(words | change)
        assert "\n" not in str(caught.value)


def test_what_is_named_again_is_read(tmp_path: Path) -> None:
    words = tiny_recipe(Path("nowhere"))
    words["contexts"]["more"] = words["contexts"]["colours"]  # safe_dump writes an anchor
    text = yaml.safe_dump(words)
    assert "*id001" in text
    (tmp_path / "r.yaml").write_text(text)
    assert set(load(tmp_path / "r.yaml").contexts) == {"colours", "more"}


# -- data and prompts ------------------------------------------------------------------------------

ROWS = [{"id": str(n), "text": f'grün, "{n}"\n', "n": n} for n in range(3)]


def _separated(separator: str) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(ROWS[0]), delimiter=separator)
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue().encode()


def _parquet() -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(ROWS), sink)
    return sink.getvalue().to_pybytes()


GOOD = {
    "json": json.dumps(ROWS).encode(),
    "jsonl": "\n".join(map(json.dumps, ROWS)).encode(),
    "csv": _separated(","),
    "tsv": _separated("\t"),
    "parquet": _parquet(),
}


@pytest.mark.parametrize("kind", GOOD)
def test_data(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"d.{kind}"

    @few
    @given(damaged(GOOD[kind]))
    def reads(raw: bytes) -> None:
        path.write_bytes(raw)
        only_user_errors(lambda: inputs.load(Data(file=str(path)), "inputs", "."))

    path.write_bytes(GOOD[kind])
    assert len(inputs.load(Data(file=str(path)), "inputs", ".")) == len(ROWS)
    reads()


@few
@given(damaged(b"Sort {a} into {b}, or {{ none }}.\n\n- one\n- two\n"))
def test_prompt_files(tmp_path: Path, raw: bytes) -> None:
    path, rows = tmp_path / "prompt.txt", tmp_path / "rows.jsonl"
    path.write_bytes(raw)
    rows.write_text('{"a": "x", "b": "y"}\n')
    for written in tmp_path.glob("*.yaml"):
        written.unlink()
    wanted = starter.Wanted(path, inputs=rows, measure=False)
    if only_user_errors(lambda: starter.write(wanted, tmp_path / "r.yaml")):
        only_user_errors(lambda: load(tmp_path / "r.yaml"))


# -- models ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    decoder().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def _read_model(folder: Path) -> None:
    """All that `check` and a run read of a model, each on its own."""
    model = Model(name=str(folder))

    def tokenizer() -> Any:
        read = models.load_tokenizer(model, "model")
        encode(read, ({"role": "user", "content": "hello"},))
        open_thought(read)
        writes_date(read)
        return models.ends_of(model, read, models.load_config(model, "model"), "model")

    config: Callable[[], Any] = lambda: models.positions(models.load_config(model, "model"))  # noqa: E731
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for read in (config, tokenizer, lambda: models.load_weights(model, "model")):
            only_user_errors(read)


FILES = ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"]


@pytest.mark.parametrize("name", [*FILES, "chat_template.jinja", "model.safetensors"])
def test_files_of_a_model(name: str, good_model: Path) -> None:
    path = good_model / name
    whole = path.read_bytes()
    assert models.load_weights(Model(name=str(good_model)), "model")
    changed = damaged(whole)
    if name in FILES[:3]:
        changed |= mutated(json.loads(whole)).map(lambda data: json.dumps(data).encode())

    @settings(fuzz, max_examples=MANY or 12)
    @given(changed)
    def reads(raw: bytes) -> None:
        path.write_bytes(raw)
        _read_model(good_model)

    try:
        reads()
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("name", "key", "value", "match"),
    [
        ("generation_config.json", "eos_token_id", "", "eos_token_id is ''"),
        ("generation_config.json", "eos_token_id", [1, {}], "eos_token_id is '{}'"),
        ("tokenizer_config.json", "model_max_length", "x", "the tokenizer can't be used"),
        ("tokenizer.json", "model", {}, "the model can't be loaded"),
        ("tokenizer.json", "decoder", {"type": "no"}, "the model can't be loaded"),
        ("config.json", "hidden_size", "x", "the model can't be loaded"),
        ("config.json", "model_type", ["llama"], "the model can't be loaded"),
    ],
)
def test_a_value_of_another_kind(
    name: str, key: str, value: Any, match: str, good_model: Path
) -> None:
    path = good_model / name
    whole = path.read_bytes()
    path.write_text(json.dumps(json.loads(whole) | {key: value}))
    model = Model(name=str(good_model))

    def reads() -> None:
        config, tokenizer = models.load_config(model, "m"), models.load_tokenizer(model, "m")
        models.ends_of(model, tokenizer, config, "m")

    try:
        with pytest.raises(UserError, match=match) as caught:
            reads()
        assert "\n" not in str(caught.value)
    finally:
        path.write_bytes(whole)


def test_gguf_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNPROMPT_CACHE", str(tmp_path / "cache"))
    path = gguf_file(tmp_path / "m.gguf", "gpt-2", None)
    whole = path.read_bytes()

    @settings(fuzz, max_examples=MANY or 15)
    @given(damaged(whole))
    def reads(raw: bytes) -> None:
        path.write_bytes(raw)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            only_user_errors(lambda: models.load_tokenizer(Model(gguf=str(path)), "model"))

    reads()


# -- a run's folder --------------------------------------------------------------------------------

KEY: dict[str, Any] = {
    "made_from": "x",
    "low": 0,
    "high": 6,
    "rows": {
        f"r{n}": {
            "context": "c",
            "example_id": f"h{n}",
            "system": "after",
            "group": None,
            "input": "?",
            "response": "yes",
        }
        for n in range(3)
    },
}
SHEET = b"id,input,response,rating,rater\nr0,?,yes,1,ann\nr1,?,yes,2,ann\nr2,?,yes,3,ann\n"


@fuzz
@given(st.data())
def test_ratings(tmp_path: Path, data: st.DataObject) -> None:
    sheet, key = tmp_path / "sheet.csv", tmp_path / rate.KEY
    sheet.write_bytes(SHEET)
    key.write_text(json.dumps(KEY))
    (tmp_path / rate.RATINGS).unlink(missing_ok=True)
    assert rate.ratings(tmp_path, [sheet])["raters"] == {"ann": 3}
    whole = {path: path.read_bytes() for path in (sheet, key, tmp_path / rate.RATINGS)}
    path = data.draw(st.sampled_from(list(whole)))
    if path == key and data.draw(st.booleans()):
        path.write_text(json.dumps(data.draw(mutated(KEY))))
    else:
        path.write_bytes(data.draw(damaged(whole[path])))
    only_user_errors(lambda: rate.lines(rate.ratings(tmp_path, [sheet])))


@few
@given(st.data())
def test_ballots(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / rate.BALLOTS
    path.unlink(missing_ok=True)
    ballots.create(path)
    ballots.save(path, "ann", "r0", 3)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute(
            "REPLACE INTO ratings (rater, id, rating) VALUES (?, ?, ?)",
            data.draw(st.tuples(*[st.sampled_from([b"\xff", "x", 1, 2.5, "\x1b["])] * 3)),
        )
    connection.close()
    if data.draw(st.booleans()):
        path.write_bytes(data.draw(damaged(path.read_bytes())))
    only_user_errors(lambda: sheets.read(path, KEY) if ballots.is_one(path) else None)


@fuzz
@given(
    damaged(b'{"train": "abc", "report": "def", "first_day": "2026-01-02", "student": {"a": "b"}}')
    | mutated({"train": "abc", "first_day": "2026-01-02", "student": {"a": "b"}}).map(
        lambda data: json.dumps(data).encode()
    )
)
def test_notes_of_a_run(tmp_path: Path, raw: bytes) -> None:
    run = RunDir(tmp_path)
    (tmp_path / "student").mkdir(exist_ok=True)
    (tmp_path / "train_log.json").touch()
    for name in ("state.json", "report.json"):
        (tmp_path / name).write_bytes(raw)
    only_user_errors(run.report)
    only_user_errors(lambda: (run.trained("abc"), run.first_day()))
    assert run.first_day() == run.first_day()


# -- answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["9" * 5_000, "-" + "1" * 9_000 + ".5", "1/" + "3" * 6_000])
def test_numbers_of_any_length(answer: str) -> None:
    assert numeric_match(answer, Example("1", {}, "7")) == 0
    rule = Extract.model_validate({"json": "a"})
    value = answer.split("/")[-1]
    for text in (f'{{"a": {value}}}', f'{{"b": [{value}], "a": {value}}}'):
        span = extract.extract(rule, text, "end")
        assert isinstance(span, extract.Span)
        assert text[span.start : span.end] == value


@pytest.mark.parametrize(
    ("key", "value"),
    [("rope_parameters", {"rope_theta": [1]}), ("num_attention_heads", 0), ("hidden_size", 10**30)],
)
def test_a_configuration_that_fits_no_model(key: str, value: Any, good_model: Path) -> None:
    path = good_model / "config.json"
    whole = path.read_bytes()
    path.write_text(json.dumps(json.loads(whole) | {key: value}))
    try:
        with pytest.raises(UserError) as caught:
            check.check(parse(tiny_recipe(good_model)))
        assert "\n" not in str(caught.value)
    finally:
        path.write_bytes(whole)


def test_a_recipe_from_python_is_held_to_the_same(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        parse({"name": "x", "model": {"name": 1 + 2j}})
