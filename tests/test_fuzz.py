"""Whatever is put in, only `UserError`s of one line come out: no traceback, no hang.

`UNPROMPT_FUZZ=3000 pytest tests/test_fuzz.py` tries 3,000 fresh cases of each kind; without it, the
same few each time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings, strategies as st

from conftest import byte_tokenizer, tiny_recipe
from unprompt.engines.server import replies, written
from unprompt.engines.server.engine import ServerEngine
from unprompt.engines.server.ledger import Asked, Attempt, Ledger
from unprompt.messages import UserError
from unprompt.recipe import Data, Extract, Judge, Labels, Sampling, Server, Template, load, prices
from unprompt.records import Completion, Example, Grade, Lesson, Prompt, SoftLabels
from unprompt.stages import check, inputs
from unprompt.stages.evaluate import judge
from unprompt.stages.lessons import extract
from unprompt.stages.templates import sandbox
from unprompt.stages.templates.render import render
from unprompt.store.folder import RunDir
from unprompt.store.tables import (
    read_completions,
    read_grades,
    read_lessons,
    write_completions,
    write_grades,
    write_lessons,
)
from unprompt.tools import transfer

MANY = int(os.environ.get("UNPROMPT_FUZZ", 0))
fuzz = settings(
    max_examples=MANY or 60,
    derandomize=not MANY,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
slow = settings(fuzz, max_examples=max(10, MANY // 10))
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12))
JSON = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
CHOICE = {
    "text": "hi",
    "message": {"content": "hi"},
    "finish_reason": "stop",
    "stop_reason": None,
    "logprobs": {
        "content": [
            {
                "token": "h",
                "logprob": -0.5,
                "bytes": [104],
                "top_logprobs": [{"token": "h", "logprob": -0.5}],
            }
        ],
        "tokens": ["h"],
        "token_logprobs": [-0.5],
        "top_logprobs": [{"h": -0.5}],
    },
}
REPLY = {"model": "m", "choices": [CHOICE], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}


def only_user_errors(work: Callable[[], Any]) -> Any:
    found = error = None
    try:
        found = work()
    except UserError as refused:
        error = refused
    assert "\n" not in str(error)
    return found


@st.composite
def mutated(draw: st.DrawFn, whole: Any) -> Any:
    """A copy of plain data with one to three places replaced, dropped or put in."""
    found = json.loads(json.dumps(whole))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(found))
        parent, key = draw(st.sampled_from(places))
        how = draw(st.sampled_from(["replace", "drop", "new"]))
        if how == "drop":
            del parent[key]
        elif how == "new" and isinstance(parent, dict):
            parent[draw(st.text(max_size=8))] = draw(JSON)
        else:
            parent[key] = draw(JSON)
        if not list(_places(found)):
            break
    return found


def _places(data: Any) -> Any:
    entries = (
        data.items()
        if isinstance(data, dict)
        else enumerate(data)
        if isinstance(data, list)
        else ()
    )
    for key, value in list(entries):
        yield data, key
        yield from _places(value)


@fuzz
@given(mutated(REPLY))
def test_server_replies(reply: Any) -> None:
    found = only_user_errors(lambda: replies.read(reply, "m", 8))
    if found and found.tokens:
        vocabulary = written.Vocabulary(byte_tokenizer())
        assert all(
            id_ is None or 0 <= id_ < 259
            for piece, _ in found.tokens
            for id_ in [vocabulary.id_of(piece)]
        )


@fuzz
@given(mutated(tiny_recipe(Path("nowhere"))))
def test_recipes(tmp_path: Path, recipe: Any) -> None:
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    only_user_errors(lambda: load(tmp_path / "r.yaml"))


@fuzz
@given(
    st.one_of(
        st.binary(max_size=60),
        st.text(alphabet="{}[]:,-!&*#|>%@`'\"\n\tab01 ", max_size=60).map(str.encode),
    )
)
def test_yaml(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "r.yaml").write_bytes(text)
    only_user_errors(lambda: load(tmp_path / "r.yaml"))
    only_user_errors(lambda: prices.load(str(tmp_path / "r.yaml")))


@fuzz
@given(
    mutated(
        {
            "date": "2026-01",
            "prices": {"a": {"input": 1.5, "output": 2, "cached_input": 0.5, "cache_minimum": 10}},
        }
    )
)
def test_price_tables(tmp_path: Path, table: Any) -> None:
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(table), "utf-8")
    only_user_errors(lambda: prices.load(str(tmp_path / "p.yaml")))


@fuzz
@given(
    st.one_of(
        st.binary(max_size=80),
        st.lists(JSON, max_size=3).map(
            lambda rows: "\n".join(json.dumps(row) for row in rows).encode()
        ),
    )
)
def test_data_files(tmp_path: Path, raw: bytes) -> None:
    for suffix in ("jsonl", "json", "csv", "parquet"):
        (tmp_path / f"d.{suffix}").write_bytes(raw)
        only_user_errors(
            lambda suffix=suffix: inputs.load(
                Data(file=str(tmp_path / f"d.{suffix}")), "inputs", "."
            )
        )


VALUE = st.recursive(
    st.sampled_from(
        [
            "a",
            "b",
            "x",
            "nothing",
            "1",
            "-1",
            "10**9",
            "''",
            "'%s'",
            "range(100000)",
            "loop",
            "self",
            "namespace(y=b)",
            "dict(a=1)",
            "cycler(1)",
        ]
    ),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "*", "**", "%", "~", "//", "in", "and"]), inner).map(
            " ".join
        ),
        st.tuples(
            inner,
            st.sampled_from(
                [
                    "list",
                    "join",
                    "center(10**8)",
                    "map('upper')",
                    "batch(3)",
                    "tojson",
                    "xmlattr",
                    "sort",
                    "int",
                    "length",
                    "format(1)",
                    "replace('', 'aa')",
                    "urlize",
                    "random",
                    "attr('__class__')",
                    "groupby('y')",
                ]
            ),
        ).map("|".join),
        inner.map(lambda value: f"({value})"),
        inner.map(lambda value: f"{value}.y"),
        inner.map(lambda value: f"{value}[0]"),
        inner.map(lambda value: f"{value}()"),
    ),
    max_leaves=6,
)
TEMPLATE = st.recursive(
    st.one_of(st.just("t"), VALUE.map(lambda value: "{{ " + value + " }}")),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(VALUE, inner).map(
            lambda pair: "{% for i in " + pair[0] + " %}" + pair[1] + "{% endfor %}"
        ),
        st.tuples(VALUE, inner).map(
            lambda pair: "{% if " + pair[0] + " %}" + pair[1] + "{% endif %}"
        ),
        st.tuples(VALUE, inner).map(lambda pair: "{% set a = " + pair[0] + " %}" + pair[1]),
        inner.map(lambda body: "{% macro f(n) %}" + body + "{{ f(n) }}{% endmacro %}{{ f(3) }}"),
        inner.map(lambda body: "{% filter upper %}" + body + "{% endfilter %}"),
    ),
    max_leaves=5,
)


@slow
@given(TEMPLATE)
def test_templates_of_a_language(source: str) -> None:
    row = Example("1", {"a": "text", "b": [1, 2], "x": {"y": 1}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "TURNS", 2_000)
        only_user_errors(lambda: render(Template(text=source), "c", row, None, "t"))


@fuzz
@given(st.text(alphabet="{}%|.()[]'\" abx0-+*_\n", max_size=40))
def test_templates(source: str) -> None:
    row = Example("1", {"a": "text", "b": [1, 2], "x": {"y": 1}})
    only_user_errors(lambda: render(Template(text=source), "c", row, None, "t"))


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ a.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ b.append(3) }}",
        "{{ ''|attr('__class__') }}",
    ],
)
def test_templates_reach_nothing(source: str) -> None:
    with pytest.raises(UserError):
        render(Template(text=source), "c", Example("1", {"a": "text", "b": [1]}), None, "t")


@fuzz
@given(
    st.one_of(
        st.builds(lambda x: {"after": x}, st.text(max_size=5)),
        st.builds(lambda x: {"json": x}, st.text(max_size=5)),
        st.builds(lambda x: {"regex": x}, st.text(alphabet="(a|b)*+?.[]{}1,^$\\", max_size=12)),
        st.sampled_from(["whole", "first_line", "last_line"]),
    ),
    st.one_of(
        st.text(max_size=40),
        st.text(alphabet='{}[]":,ab1\\ \n', max_size=40),
        st.just("a" * 3000 + "!"),
    ),
    st.sampled_from(["end", "length", "stop"]),
)
def test_extractors(rule: Any, text: str, stop: str) -> None:
    try:
        made = Extract.model_validate(rule)
    except ValueError:
        return
    found = only_user_errors(lambda: extract.extract(made, text, stop))
    if isinstance(found, extract.Span):
        assert 0 <= found.start <= found.end <= len(text)


def test_a_regex_that_would_run_for_ever_is_stopped() -> None:
    found = extract.extract(Extract.model_validate({"regex": "(a+)+$"}), "a" * 5000 + "!", "end")
    assert found in ("regex took over 1 s", "no match")


def _part(path: Path) -> Path:
    return path.parent / write_completions(
        path,
        [
            (
                f"k{n}",
                Completion(
                    f"i{n}",
                    "c",
                    f"text {n}",
                    (n, n + 1),
                    "end",
                    7,
                    SoftLabels.hard([n, n + 1], np.array([0.5, n], np.float32)),
                ),
            )
            for n in range(20)
        ],
    )


def _plain(store: Path) -> list[tuple[Any, ...]]:
    return [
        (
            key,
            c.example_id,
            c.text,
            c.token_ids,
            c.stop,
            c.prompt_tokens,
            c.labels and (c.labels.ids.tolist(), c.labels.teacher_nll.tolist()),
        )
        for key, c in read_completions(store).items()
    ]


def damage(path: Path, data: st.DataObject) -> None:
    """Cut the file, or flip a bit of it."""
    raw = bytearray(path.read_bytes())
    if data.draw(st.booleans(), label="cut"):
        del raw[data.draw(st.integers(0, len(raw) - 1), label="length") :]
    else:
        raw[data.draw(st.integers(0, len(raw) - 1), label="byte")] ^= 1 << data.draw(
            st.integers(0, 7), label="bit"
        )
    path.write_bytes(raw)


@fuzz
@given(st.data())
def test_part_files_that_were_cut_or_flipped(tmp_path: Path, data: st.DataObject) -> None:
    path = _part(tmp_path / "part-00000.parquet")
    whole = _plain(tmp_path)
    damage(path, data)
    found = only_user_errors(lambda: _plain(tmp_path))
    assert found is None or found == whole, "changed records were read as if they were whole"


@fuzz
@given(st.data())
def test_lessons_and_grades_that_were_cut_or_flipped(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "records.parquet"
    lessons = [
        Lesson(f"i{n}", "c", (n, 5, 6), 1, np.array([0, 1, 1], np.float32), SoftLabels.hard([5, 6]))
        for n in range(20)
    ]
    grades = [
        Grade(f"i{n}", "c", "after", f"text {n}", None, {"a": n}, 3, 2, "why", {"exact": 0.5})
        for n in range(20)
    ]
    write, read, rows = data.draw(
        st.sampled_from(
            [
                (write_lessons, read_lessons, lessons),
                (write_grades, read_grades, grades),
            ]
        )
    )
    write(path, rows)  # type: ignore[operator]
    whole = list(map(_shown, read(path)))
    damage(path, data)
    found = only_user_errors(lambda: list(map(_shown, read(path))))
    assert found is None or found == whole, "changed records were read as if they were whole"


def _shown(record: Lesson | Grade) -> Any:
    if isinstance(record, Grade):
        return record
    labels = record.labels
    return (
        record.example_id,
        record.input_ids,
        record.weights.tolist(),
        labels.ids.tolist(),
        labels.probs.tolist(),
        labels.teacher_nll.tolist(),
    )


@fuzz
@given(
    mutated({"train": "abc", "report": "def", "student": {"student/x.safetensors": "0" * 64}}),
    st.booleans(),
    st.integers(0, 60),
)
def test_the_state_of_a_run(tmp_path: Path, state: Any, cut: bool, length: int) -> None:
    run = RunDir(tmp_path)
    text = json.dumps(state)
    for name in ("state.json", "report.json"):
        (tmp_path / name).write_text(text[:length] if cut else text)
    only_user_errors(
        lambda: [
            run.finished("train", "abc"),
            run.trained("abc"),
            run.finished("report", "def"),
            run.notes.mended(),
            [*run.notes.damaged()],
            run.finish("x", []),
        ]
    )
    only_user_errors(run.report)


@fuzz
@given(
    st.lists(
        st.one_of(JSON.map(json.dumps), st.text(max_size=20), st.just("[1, 2, 3, 0, 0]")),
        max_size=5,
    )
)
def test_what_a_server_was_asked(tmp_path: Path, lines: list[str]) -> None:
    (tmp_path / "asked.jsonl").write_text("\n".join(lines), "utf-8", errors="replace")
    assert only_user_errors(lambda: Ledger(tmp_path / "asked.jsonl").total.tokens) >= 0


@fuzz
@given(mutated(REPLY), st.sampled_from([None, Labels(kind="hard"), Labels(kind="top_k", k=2)]))
def test_replies_become_completions_or_one_line(
    decoder_folder: Path, reply: Any, labels: Labels | None
) -> None:
    server = Server.model_validate(
        {
            "url": "http://127.0.0.1:9/v1",
            "model": "m",
            "api": "completions",
            "tokenizer": str(decoder_folder),
        }
    )
    engine = _ENGINES.setdefault(0, ServerEngine(server, "teacher_model", byte_tokenizer()))
    prompt = Prompt("i", "c", "ask")
    asked = engine._request(prompt, SAMPLING, labels, 0)
    most = Asked(1, asked.tokens, SAMPLING.max_new_tokens)
    sent = Attempt(engine.ledger, engine.ledger.begin(most), most)
    found = only_user_errors(lambda: engine._completion(asked, reply, SAMPLING, labels, sent))
    if found and labels:
        assert len(found.labels) == len(found.token_ids)


_ENGINES: dict[int, ServerEngine] = {}
SAMPLING = Sampling(temperature=0, max_new_tokens=8)
CHAT = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}] * 2


@fuzz
@given(
    st.one_of(
        mutated(CHAT).map(
            lambda rows: "\n".join(map(json.dumps, rows if isinstance(rows, list) else [rows]))
        ),
        st.text(max_size=80),
    )
)
def test_chats(text: str) -> None:
    found = only_user_errors(lambda: transfer.validate(text, "chats.jsonl"))
    assert found is None or transfer.summary(found, None)


@fuzz
@given(
    st.one_of(
        st.text(max_size=60),
        JSON.map(json.dumps),
        st.text(alphabet='{}":,0123456789 acurly\n', max_size=60),
    ),
    st.sampled_from(["end", "length"]),
)
def test_verdicts(text: str, stop: str) -> None:
    for of in ("answers", "difficulty"):
        rule = judge.rubric(Judge(), of)
        assert only_user_errors(lambda rule=rule: judge.read(text, stop, rule)) is not None


@slow
@given(st.data())
def test_recipes_are_checked(decoder_folder: Path, tmp_path: Path, data: st.DataObject) -> None:
    """What the schema lets through, the check refuses in a line or finds in order."""
    recipe = data.draw(mutated(tiny_recipe(decoder_folder)))
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    only_user_errors(lambda: check.check(load(tmp_path / "r.yaml"), estimate=False))
