"""What goes in: rows of every format, templates, and the recipe itself."""

from __future__ import annotations

import itertools
import json
import random
import sys
import types
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import yaml

from conftest import tiny_recipe
from unprompt import UserError, load, parse
from unprompt.engines.tokens import common_prefix, encode
from unprompt.recipe import Context, Data, Examples, Sample, Template
from unprompt.recipe.names import local_path
from unprompt.records import Completion, Example, Prompt, as_text
from unprompt.stages import inputs
from unprompt.stages.inputs import draw
from unprompt.stages.inputs.sieve import Sieve
from unprompt.stages.templates.render import render, render_all

ROWS = [
    {"id": "a", "text": "red, or so", "target": "warm"},
    {"id": "b", "text": "grün\n😀", "target": "cold"},
]
EXAMPLES = [Example(row["id"], row, row["target"]) for row in ROWS]


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])


# -- inputs ----------------------------------------------------------------------------------------


def separated(separator: str) -> bytes:
    cells = [ROWS[0].keys(), *(row.values() for row in ROWS)]
    return "".join(separator.join(f'"{cell}"' for cell in line) + "\r\n" for line in cells).encode()


def parquet(path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)


FORMATS: dict[str, bytes] = {
    "in.jsonl": b"\n".join(json.dumps(row).encode() for row in ROWS) + b"\n\n",
    "in.ndjson": (
        b"\xef\xbb\xbf" + b"\r\n".join(json.dumps(row, ensure_ascii=False).encode() for row in ROWS)
    ),
    "in.json": json.dumps(ROWS, indent=2).encode(),
    "in.csv": b"\xef\xbb\xbf" + separated(","),
    "in.TSV": separated("\t"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_files(name: str, tmp_path: Path) -> None:
    """The same rows, whatever the format; marks of byte order, Windows line ends and empty lines do
    no harm.
    """
    (tmp_path / name).write_bytes(FORMATS[name])
    assert inputs.load(Data(file=str(tmp_path / name)), "inputs") == EXAMPLES
    assert inputs.load(Data(file=str(tmp_path / name), limit=1), "inputs") == EXAMPLES[:1]


def test_parquet(tmp_path: Path) -> None:
    parquet(tmp_path / "in.parquet")
    assert inputs.load(Data(file=str(tmp_path / "in.parquet")), "inputs") == EXAMPLES


def test_rows() -> None:
    assert inputs.load(Data(rows=tuple(ROWS)), "inputs") == EXAMPLES


def test_ids_and_targets() -> None:
    """Rows without an id are numbered, numbers become text, and a target may be anything or
    nothing.
    """
    rows = (
        {"key": 7, "text": "a", "gold": ["x", "y"]},
        {"text": "b"},
        {"key": None, "text": "c", "gold": 0},
    )
    found = inputs.load(Data(rows=rows, id="key", target="gold"), "inputs")
    assert [example.id for example in found] == ["7", "row-000002", "row-000003"]
    assert [example.target for example in found] == [["x", "y"], None, 0]
    assert found[1].fields == {"text": "b"}


def test_a_rule_is_called_with_its_arguments_and_only_as_far_as_needed(tmp_path: Path) -> None:
    (tmp_path / "counting_rule.py").write_text(
        "def up(start, by=1):\n    while True:\n        yield {'text': start}\n        start +="
        " by\n"
    )
    data = Data(rule="counting_rule:up", args={"start": 3, "by": 2}, limit=3)
    assert [example.fields["text"] for example in inputs.load(data, "inputs", str(tmp_path))] == [
        3,
        5,
        7,
    ]


def test_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(path: str, **options: Any) -> list[dict[str, str]]:
        asked.append((path, options))
        return ROWS

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    assert (
        inputs.load(Data(hub="someone/colours", split="test", args={"name": "en"}), "inputs")
        == EXAMPLES
    )
    assert asked == [("someone/colours", {"split": "test", "name": "en"})]


def test_what_rows_depend_on(tmp_path: Path) -> None:
    """Files, those of a mixture and of seeds among them, rules, and paths that rules are given."""
    texts = {name: tmp_path / name for name in ("a.jsonl", "b.csv", "mine.py", "words.txt")}
    for path in texts.values():
        path.write_text("")
    rule = Data(rule="mine:rows", args={"words": "words.txt", "count": 3})
    seeds = {"seeds": {"file": str(texts["b.csv"])}, "template": "x", "count": 1}
    mixed = {"mix": [{"data": str(texts["a.jsonl"]), "share": 1}, {"data": rule, "share": 1}]}
    data = Data.model_validate(
        {"mix": [{"data": mixed, "share": 1}, {"data": {"sample": seeds}, "share": 1}]}
    )
    seen = [inputs.digests(data, str(tmp_path))]
    for path in texts.values():
        path.write_text("changed")
        seen.append(inputs.digests(data, str(tmp_path)))
        assert seen[-1] not in seen[:-1], path
    assert inputs.digests(Data(rows=({"text": "a"},)), str(tmp_path)) == []


def test_a_file_in_a_package() -> None:
    assert local_path("pkg:yaml/loader.py", "inputs") == Path(yaml.__file__).with_name("loader.py")


@pytest.mark.parametrize(
    "path", ["pkg:yaml/../secret", "pkg:/etc/passwd", "pkg:../yaml/a", "pkg:csv/a", "pkg:"]
)
def test_only_a_file_in_a_package(path: str) -> None:
    with pytest.raises(UserError, match="package"):
        local_path(path, "inputs")


# -- templates -------------------------------------------------------------------------------------

RED = Example("i", {"text": "red", "tags": ["warm", "bright"], "n": 3}, "warm")


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("Colour: {{ text }}", "Colour: red"),
        ("Colour: {{ text }}\n", "Colour: red"),  # the line end that a YAML block brings along
        ("Colour: {{ text }}\n\n", "Colour: red\n"),
        ("{{ text }}:  ", "red:  "),
        (
            "{% for e in examples %}{{ e.text }} is {{ e.kind }}\n{% endfor %}{{ text }} is",
            "blue is cold\npink is warm\nred is",
        ),
        ("{{ examples[n % 2].text }} {{ tags | join('/') }}", "pink warm/bright"),
        (
            "{{ '<b>' }} {{ note | default('-') }} {% raw %}{{ text }}{% endraw %}",
            "<b> - {{ text }}",
        ),
        ("no field at all", "no field at all"),
    ],
)
def test_text_templates(template: str, text: str) -> None:
    pool = [{"text": "blue", "kind": "cold"}, {"text": "pink", "kind": "warm"}]
    assert render(Template.model_validate(template), "c", RED, pool, "teacher").content == text


def test_chat_templates_take_any_roles() -> None:
    template = Template.model_validate(
        [{"role": "system", "content": "Be brief.\n"}, {"role": "tool", "content": "{{ text }}"}]
    )
    found = render(template, "c", RED, [], "teacher")
    assert found.content == (
        {"role": "system", "content": "Be brief."},
        {"role": "tool", "content": "red"},
    )
    assert as_text(found.content) == "[system] Be brief.\n[tool] red"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (
            "{{ target }}",
            "'target' is undefined in input 'i'",
        ),  # the gold answer, when it is not a field
        ("{{ e.text }}", "'e' is undefined"),
        ("{{ text.nothing.more }}", "has no attribute 'nothing'"),
        ("{{ n / 0 }}", "ZeroDivisionError"),
        ("{{ text + n }}", "TypeError"),
        ("{{ text | shout }}", "No filter named 'shout'"),
        ("{% include 'secret.txt' %}", "no loader"),
        ("{{ text.__init__.__globals__ }}", "SecurityError"),
        ("{{ '%c' | format(1e9) }}", "failed on input 'i'"),
        ("{{ tags.append('x') }}", "SecurityError"),
        ("{% for i in range(10**9) %}{% endfor %}", "OverflowError"),
    ],
)
def test_a_template_that_can_not_be_rendered(template: str, said: str) -> None:
    with pytest.raises(UserError, match=r"contexts\.c\.teacher") as error:
        render(Template.model_validate(template), "c", RED, [{}], "contexts.c.teacher")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_both_sides_of_a_context() -> None:
    context = Context.model_validate(
        {"inputs": ROWS, "teacher": "Long. {{ text }}", "student": "{{ text }}"}
    )
    for side, ahead in (("teacher", "Long. "), ("student", "")):
        template = context.teacher if side == "teacher" else context.student
        assert template
        found = render_all("c", template, side, EXAMPLES, [[]])
        assert [(p.example_id, p.context, p.content) for p in found] == [
            (e.id, "c", ahead + e.fields["text"]) for e in EXAMPLES
        ]


def test_text_becomes_tokens(tokenizer: Any) -> None:
    assert tokenizer.decode(encode(tokenizer, "grün 😀")) == "grün 😀"
    assert encode(tokenizer, "") == []


@pytest.mark.parametrize(
    ("roles", "text"),
    [
        (["system", "user"], "<system>0<|end|><user>1<|end|><assistant>"),
        (
            ["user", "assistant", "user"],
            "<user>0<|end|><assistant>1<|end|><user>2<|end|><assistant>",
        ),
        (
            ["user", "assistant"],
            "<user>0<|end|><assistant>1",
        ),  # a beginning of the answer, to go on from
    ],
)
def test_messages_become_tokens(roles: list[str], text: str, tokenizer: Any) -> None:
    content = tuple({"role": role, "content": str(n)} for n, role in enumerate(roles))
    assert tokenizer.decode(encode(tokenizer, content)) == text


def test_roles_that_the_chat_template_refuses(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        tokenizer, "chat_template", "{{ raise_exception('only user and assistant') }}"
    )
    with pytest.raises(UserError, match="only user and assistant"):
        encode(tokenizer, ({"role": "critic", "content": "x"},), "contexts.c.teacher")


@pytest.mark.parametrize(
    ("sequences", "length"),
    [
        ([], 0),
        ([[]], 0),
        ([[1, 2, 3]], 2),  # one token has to be left to read
        ([[1, 2], [1, 2]], 1),
        ([[1, 2, 3], [1, 2]], 1),
        ([[1, 2, 3], [1, 2, 4], [1, 2, 3, 5]], 2),
        ([[2, 1], [1, 2]], 0),
        ([[1], []], 0),
    ],
)
def test_common_prefix(sequences: list[list[int]], length: int) -> None:
    assert common_prefix(sequences) == length


def test_common_prefix_of_anything() -> None:
    draw = random.Random(0)
    for _ in range(300):
        shared = [draw.randrange(2) for _ in range(draw.randrange(6))]
        sequences = [
            shared + [draw.randrange(2) for _ in range(draw.randrange(4))]
            for _ in range(draw.randint(1, 5))
        ]
        expected = max(
            0,
            min(
                sum(
                    1
                    for _ in itertools.takewhile(
                        lambda column: len(set(column)) == 1, zip(*sequences, strict=False)
                    )
                ),
                min(map(len, sequences)) - 1,
            ),
        )
        assert common_prefix(sequences) == expected, sequences


# -- the recipe ------------------------------------------------------------------------------------

EVERYTHING: dict[str, Any] = {
    "name": "1e5",
    "model": {"gguf": "weights/small.gguf", "dtype": "float16", "device": "cpu"},
    "teacher_model": "someone/big",
    "contexts": {
        "a": {
            "inputs": {"file": "in.csv", "id": "key", "target": "gold", "limit": 5},
            "examples": [{"text": "12e4", "on": "yes", "n": 1.5, "list": [1, None]}],
            "teacher": [
                {"role": "system", "content": "Be brief: {{ text }}\n\n  indented\t"},
                {"role": "user", "content": "'\"{# #}"},
            ],
            "student": "{{ text }} 😀 \n",
            "extract": {"regex": r"(?i)answer:\s*(\w+)"},
        },
        "b": {
            "inputs": {"rule": "m:f", "args": {"x": [1]}},
            "teacher": "t",
            "student": "s",
            "extract": {"json": "answer"},
        },
        "c": {
            "inputs": {"hub": "someone/colours", "split": "test"},
            "teacher": "t",
            "student": "s",
            "extract": {"after": "A: "},
        },
        "d": {"inputs": "pkg:yaml/a.jsonl", "teacher": "t", "student": "s", "extract": "m:f"},
    },
    "sampling": {"stop": ["\n", "  "], "top_p": 0.5},
    "labels": {"kind": "top_k", "k": 7},
    "train": {
        "adapter": None,
        "learning_rate": "5e-4",
        "trainer": {"adam_epsilon": "1e-8", "run_name": "7"},
    },
    "evaluate": {"data": "held.jsonl", "metrics": []},
    "seed": 7,
}


@pytest.mark.parametrize(
    "words", [EVERYTHING, tiny_recipe(Path("/models/tiny"))], ids=["everything", "tiny"]
)
def test_a_resolved_recipe_is_read_back_as_it_was(words: dict[str, Any], tmp_path: Path) -> None:
    """From any folder: paths are absolute by then."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "recipe.yaml").write_text(yaml.safe_dump(words), "utf-8")
    recipe = load(tmp_path / "here" / "recipe.yaml")
    (tmp_path / "resolved.yaml").write_text(recipe.to_yaml(), "utf-8")
    assert load(tmp_path / "resolved.yaml") == recipe
    assert load(tmp_path / "resolved.yaml").to_yaml() == recipe.to_yaml()


def test_paths_are_seen_from_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there" / "model").mkdir(parents=True)
    words = EVERYTHING | {"teacher_model": "model"}
    (tmp_path / "there" / "recipe.yaml").write_text(yaml.safe_dump(words), "utf-8")
    monkeypatch.chdir(tmp_path)
    recipe, base = load("there/recipe.yaml"), str(tmp_path / "there")
    assert recipe.model.gguf == f"{base}/weights/small.gguf"
    assert recipe.teacher_model
    assert (
        recipe.teacher_model.name == f"{base}/model"
    )  # a folder that is there; any other bare name is a hub id
    assert recipe.contexts["a"].inputs
    assert recipe.contexts["d"].inputs
    assert recipe.contexts["a"].inputs.file == f"{base}/in.csv"
    assert recipe.contexts["d"].inputs.file == "pkg:yaml/a.jsonl"
    assert recipe.modules == base
    assert (
        load("there/recipe.yaml", ["teacher_model=someone/big"]).teacher_model
        == parse(EVERYTHING).teacher_model
    )
    assert (
        load("there/recipe.yaml", ["teacher_model=../up"]).teacher_model
        == parse(words | {"teacher_model": f"{tmp_path}/up"}).teacher_model
    )


def test_the_name_is_that_of_the_file_unless_given(tmp_path: Path) -> None:
    words = tiny_recipe(Path("/models/tiny"))
    del words["name"]
    (tmp_path / "colours.v2.yaml").write_text(yaml.safe_dump(words))
    assert load(tmp_path / "colours.v2.yaml").name == "colours.v2"
    assert load(tmp_path / "colours.v2.yaml", ["name=other"]).name == "other"


DOUBLED: dict[str, tuple[Any, str]] = {
    "num_train_epochs": (3, "train.epochs"),
    "gradient_accumulation_steps": (2, "train.batch_size"),
    "per_device_train_batch_size": (2, "train.micro_batch_size"),
    "learning_rate": (1e-3, "train.learning_rate"),
    "lr_scheduler_type": ("cosine", "train.schedule: cosine"),
    "warmup_ratio": (0.1, "train.warmup"),
    "warmup_steps": (0.1, "train.warmup"),
    "weight_decay": ("1e-2", "train.weight_decay"),
    "max_grad_norm": (0.5, "train.max_grad_norm"),
    "save_steps": (10, "train.save_every"),
    "gradient_checkpointing": (True, "train.checkpointing"),
}


@pytest.mark.parametrize("name", DOUBLED)
@pytest.mark.parametrize("at", ["train", "rounds.first.train"])
def test_what_train_has_a_field_for_is_refused_in_trainer(name: str, at: str) -> None:
    value, field = DOUBLED[name]
    words = tiny_recipe(Path("/models/tiny"))
    said = {"trainer": {name: value}}
    where = words["train"] if at == "train" else {}
    where |= said
    if at != "train":
        words["rounds"] = {"first": {"contexts": ["colours"], "train": where}}
    with pytest.raises(UserError) as told:
        parse(words)
    assert str(told.value) == (
        f"recipe: '{at}.trainer': {name} has a field of its own -> write {field}"
    )


def test_what_train_has_no_field_for_stays_in_trainer() -> None:
    words = tiny_recipe(Path("/models/tiny"))
    only_there = {
        "lr_scheduler_type": "cosine_with_restarts",
        "warmup_steps": 20,
        "max_grad_norm": 0,
        "save_steps": 0.5,
        "gradient_checkpointing_kwargs": {"use_reentrant": True},
        "report_to": ["tensorboard"],
    }
    words["train"]["trainer"] = only_there
    assert parse(words).train.trainer == only_there


OVERRIDES: dict[str, Callable[[Any], bool]] = {
    "train.learning_rate=5e-4": lambda r: r.train.learning_rate == 5e-4,
    "train.trainer.adam_epsilon=1e-7": lambda r: r.train.trainer == {"adam_epsilon": 1e-7},
    "train.trainer={adam_epsilon: 1e-7, run_name: '7'}": lambda r: (
        r.train.trainer == {"adam_epsilon": 1e-7, "run_name": "7"}
    ),
    "train.adapter=null": lambda r: r.train.adapter is None,
    "train.adapter.rank=2": lambda r: r.train.adapter.rank == 2 and r.train.epochs == 2,
    "contexts.colours.extract={json: answer}": lambda r: (
        r.contexts["colours"].extract.json_field == "answer"
    ),
    "contexts.colours.inputs.rows=[]": lambda r: False,
    "contexts.new={inputs: [{text: a}], teacher: t, student: s}": lambda r: (
        list(r.contexts) == ["colours", "new"]
    ),
    "sampling.stop=['\\n', END]": lambda r: r.sampling.stop == ("\\n", "END"),
    'sampling.stop=["\\n"]': lambda r: r.sampling.stop == ("\n",),
    "evaluate=null": lambda r: r.evaluate is None,
    "evaluate.metrics=[]": lambda r: r.evaluate.metrics == (),
    "name='5'": lambda r: r.name == "5",
    "name=a=b": lambda r: r.name == "a=b",
    " seed =3": lambda r: r.seed == 3,
}


@pytest.mark.parametrize("override", OVERRIDES)
def test_set(override: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tiny_recipe(Path("/models/tiny"))))
    if override.startswith("contexts.colours.inputs."):  # the recipe has the short form there
        with pytest.raises(UserError, match=r"'contexts\.colours\.inputs' is not a section"):
            load(tmp_path / "recipe.yaml", [override])
    else:
        assert OVERRIDES[override](load(tmp_path / "recipe.yaml", [override]))


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ({}, (0.0, 1.0, 9, ("END",))),
        ({"temperature": 0.5, "top_p": 0.9}, (0.5, 0.9, 9, ("END",))),
        ({"max_new_tokens": 3, "stop": []}, (0.0, 1.0, 3, ())),
        ({"max_new_tokens": None, "stop": None}, (0.0, 1.0, 9, ("END",))),
    ],
)
def test_graded_answers_are_written_as_the_evaluation_says(given: Any, written: Any) -> None:
    words = tiny_recipe(Path("/models/tiny"))
    words["sampling"] = {"top_p": 0.7, "max_new_tokens": 9, "stop": ["END"], "per_input": 2}
    words["evaluate"] = {**words["evaluate"], **given}
    recipe = parse(words)
    sampling = recipe.sampling_of(recipe.evaluate)
    assert tuple(sampling.settings.values()) == written
    assert sampling.per_input == 1
    assert recipe.sampling_of(None).settings == recipe.sampling.settings
    assert parse(yaml.safe_load(recipe.to_yaml())) == recipe


def test_later_overrides_win(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tiny_recipe(Path("/models/tiny"))))
    recipe = load(
        tmp_path / "recipe.yaml",
        ["train.adapter=null", "seed=1", "train.adapter={rank: 3}", "seed=2"],
    )
    assert recipe.train.adapter
    assert (recipe.train.adapter.rank, recipe.seed) == (3, 2)


# -- mixtures, subsets, sampling -------------------------------------------------------------------


def rows(ahead: str, count: int) -> list[dict[str, str]]:
    return [{"id": f"{ahead}{n}", "text": f"{ahead}{n}"} for n in range(count)]


def mixture(**more: Any) -> Data:
    return Data.model_validate(
        {"mix": [{"data": rows("a", 30), "share": 3}, {"data": rows("b", 5), "share": 1}], **more}
    )


def test_a_mixture_keeps_its_shares() -> None:
    found = inputs.load(mixture(), "inputs")
    assert len(found) == 20, "b's 5 rows are a quarter"
    assert sum(example.fields["text"].startswith("a") for example in found) == 15
    assert sum(example.fields["text"].startswith("a") for example in found[:8]) == 6, (
        "in turns, so that a beginning has the shares, too"
    )
    assert len(inputs.load(mixture(limit=8), "inputs")) == 8


def test_subsets_use_every_row_before_one_comes_again() -> None:
    pool = [{"n": n} for n in range(12)]
    wanted = Examples.model_validate({"pool": pool, "per_prompt": 4, "prompts": 3})
    found = inputs.subsets(wanted, pool, 0, "examples")
    assert sorted(row["n"] for subset in found for row in subset) == list(range(12))
    assert found == inputs.subsets(wanted, pool, 0, "examples"), "the seed fixes them"
    assert found != inputs.subsets(wanted, pool, 1, "examples")
    many = inputs.subsets(
        Examples.model_validate({"pool": pool, "per_prompt": 11, "prompts": 12}),
        pool,
        0,
        "examples",
    )
    assert len({tuple(sorted(row["n"] for row in subset)) for subset in many}) == 12, (
        "all different"
    )
    assert all(len({row["n"] for row in subset}) == 11 for subset in many)
    assert inputs.subsets(Examples.model_validate(pool), pool, 0, "examples") == [pool], (
        "the whole pool in one prompt, in its order"
    )


def drawn(text: str, stop: str = "stop") -> Completion:
    return Completion("d", "c", text, (), stop, 0)


def test_the_sieve_counts_what_it_throws_away() -> None:
    sieve = Sieve(0.8, ["Where is my card?"], ["Held out message"])
    for text, stop in [
        (" Please refund me. ", "stop"),
        ("please  REFUND me.", "stop"),
        ("Please refund me!", "end"),
        ("where is my card", "stop"),
        ("Held out  message", "stop"),
        ("", "stop"),
        ("An endless text", "length"),
        ("Something else", "stop"),
    ]:
        sieve.add(drawn(text, stop))
    assert sieve.kept == ["Please refund me.", "Something else"]
    assert sieve.counts == {
        "kept": 2,
        "exact duplicate": 1,
        "near duplicate": 1,
        "copy of a seed": 1,
        "copy of a held-out input": 1,
        "empty": 1,
        "cut at max_new_tokens": 1,
    }


def test_draws_show_random_seeds_and_stop_when_there_are_enough() -> None:
    sample = Sample.model_validate(
        {
            "seeds": rows("s", 10),
            "template": "{% for e in examples %}{{ e.text }};{% endfor %}",
            "count": 5,
            "per_prompt": 3,
        }
    )
    seeds = inputs.load(sample.seeds, "seeds")
    prompts_ = draw.ask(sample, seeds, 0, 20, 0, "inputs")
    assert all(len(set(str(p.content).split(";")[:-1])) == 3 for p in prompts_)
    assert len({p.content for p in prompts_}) > 10
    assert draw.ask(sample, seeds, 7, 1, 0, "inputs")[0].content == prompts_[7].content, (
        "a draw does not depend on the batch"
    )
    asked: list[Prompt] = []

    def answer(batch: list[Prompt]) -> list[Completion]:
        asked.extend(batch)
        return [
            drawn("a new text about topic " + 5 * chr(97 + int(p.example_id[-2:]))) for p in batch
        ]

    found, counts = draw.draw(sample, seeds, [], answer, 0, "inputs")
    assert [len(found), counts["kept"], len(asked)] == [5, 5, 5]


def test_random_tokens_are_a_rule(decoder_folder: Path) -> None:
    args = {"model": str(decoder_folder), "count": 20, "shortest": 3, "longest": 6}
    found = inputs.load(Data(rule="unprompt.stages.inputs.draw:random_tokens", args=args), "inputs")
    assert len(found) == 20
    assert len({example.fields["text"] for example in found}) > 15
    assert found == inputs.load(
        Data(rule="unprompt.stages.inputs.draw:random_tokens", args=args), "inputs"
    )


# -- values as a person would write them -----------------------------------------------------------


def prompt_of(template: Any, **fields: Any) -> str:
    """What a template makes of a row."""
    made = Template.model_validate(template)
    return as_text(render(made, "c", Example("r7", fields), None, "contexts.c.student").content)


@pytest.mark.parametrize(
    ("template", "fields", "text"),
    [
        ("{{ e.copy }} {{ e.values }}", {"e": {"copy": "yes", "values": 3}}, "yes 3"),
        ("{{ order.items }}", {"order": {"items": "two cups"}}, "two cups"),
        ("{% for k, v in e.items() %}{{ k }}={{ v }};{% endfor %}", {"e": {"a": 1}}, "a=1;"),
        (
            "{{ e | tojson }}",
            {"e": {"b": "Søn's <b>", "a": None}},
            '{"b": "Søn\'s <b>", "a": null}',
        ),
        ("{{ e }}", {"e": {"b": ["東京", True]}}, '{"b": ["東京", true]}'),
        ("{{ e }}", {"e": [1, "two", 2.5]}, '[1, "two", 2.5]'),
        ("{{ e }}", {"e": True}, "true"),
        ("{{ e }}", {"e": 0.1}, "0.1"),
        ("{{ e }}", {"e": Decimal("1E+2")}, "100"),
        (
            "{{ e }} {{ f }} {{ g }}",
            {"e": np.int64(7), "f": np.float32(0.1), "g": np.bool_(1)},
            "7 0.1 true",
        ),
        ("{{ e }}", {"e": {"n": np.int64(7), "x": np.float32(0.1)}}, '{"n": 7, "x": 0.1}'),
        ("{{ e }}", {"e": date(2026, 3, 1)}, "2026-03-01"),
        ("{{ e | tojson }}", {"e": {"on": date(2026, 3, 1)}}, '{"on": "2026-03-01"}'),
        ("{{ e or '-' }}", {"e": None}, "-"),
        ("{{ e | default('-', true) }}", {"e": None}, "-"),
        ('{{ input["Customer message"] }}', {"Customer message": "Hi"}, "Hi"),
        ('{{ input["order-id"] }}/{{ a }}', {"order-id": 7, "a": "x"}, "7/x"),
        ("{{ input }}", {"input": "a column of that name"}, "a column of that name"),
        ("{{ range }} {{ dict }}", {"range": "5 km", "dict": "word"}, "5 km word"),
        ('{{ input["none"] }}', {"none": "nobody"}, "nobody"),
        ("{{ e | join('; ') }}", {"e": ["a", 2]}, "a; 2"),
        ("{{ e }}", {"e": [Decimal("1.50"), Decimal(2)]}, "[1.5, 2]"),
        ("{{ e }}", {"e": UUID(int=7)}, "00000000-0000-0000-0000-000000000007"),
    ],
)
def test_a_value_stands_as_a_person_would_write_it(
    template: str, fields: dict[str, Any], text: str
) -> None:
    assert prompt_of(template, **fields) == text


@pytest.mark.parametrize(
    ("template", "fields", "said"),
    [
        (
            "{{ note }}",
            {"note": None},
            r"a null would stand in the prompt of input 'r7' \(null there: note\)",
        ),
        ("{{ note | upper }}", {"note": None}, "a null"),
        ("{{ 'a ' ~ note }}", {"note": None}, "a null"),
        ("{{ 'a %s' % note }}", {"note": None}, "a null"),
        ("{{ 'a {}'.format(note) }}", {"note": None}, "a null"),
        ("{{ notes | join(', ') }}", {"notes": ["a", None]}, "a null"),
        ("{{ e.copy }}", {"e": {}}, "builtin_function_or_method"),
        ("{{ text.upper }}", {"text": "a"}, "builtin_function_or_method"),
        ("{{ self }}", {"self": "mine"}, r'a field \'self\'.*write input\["self"\]'),
        ("{{ true }}", {"true": "mine"}, r"a word of Jinja2\'s own"),
        ("{{ e }}", {"e": b"\x00"}, "bytes.*write it as text into the data"),
        ("{{ e }}", {"e": float("nan")}, "nan is no number"),
        ("{{ e }}", {"e": np.float32("nan")}, "nan is no number"),
        ("{{ e }}", {"e": {"a": float("inf")}}, "what JSON can't hold"),
        ("{{ Customer message }}", {"Customer message": "Hi"}, r'input\["Customer message"\]'),
        ("{{ order-id }}", {"order-id": 7}, r'input\["order-id"\]'),
    ],
)
def test_what_nobody_would_write_is_refused_with_its_row(
    template: str, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        prompt_of(template, **fields)


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_a_name_that_an_object_has_twice_is_refused(suffix: str, tmp_path: Path) -> None:
    rows = '{"text": "a", "note": {"b": 1, "b": 2}}'
    (tmp_path / f"d.{suffix}").write_text(f"[{rows}]" if suffix == "json" else rows)
    with pytest.raises(UserError, match=f"d.{suffix}:1.*the name 'b' twice"):
        inputs.load(Data(file=str(tmp_path / f"d.{suffix}")), "inputs")


def test_a_field_called_as_the_few_shot_examples_is_refused() -> None:
    row = Example("r7", {"examples": "mine", "text": "a"})
    with pytest.raises(UserError, match="a field 'examples'"):
        render(Template(text="{{ text }}"), "c", row, [{"text": "b"}], "contexts.c.teacher")


def test_turns_lose_nothing_without_a_word() -> None:
    turn = {"role": "assistant", "content": "Hi", "reasoning_content": "They greet."}
    with pytest.raises(UserError, match="turn 2 of input 'r7' has reasoning_content"):
        prompt_of([{"turns": "turns"}], turns=[{"role": "user", "content": "?"}, turn])
    empty = {"role": "user", "content": "Hi", "name": None, "tool_calls": []}
    assert prompt_of([{"turns": "turns"}], turns=[empty]) == "[user] Hi"
