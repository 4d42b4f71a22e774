"""Agents and tools: what a turn and a prompt hold comes to the model, and what it calls is learned,
in its own words.

The chat templates are our own short tellings of what the models' own do at these places.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import unprompt
from conftest import byte_tokenizer, decoder, reads, tiny_recipe
from endpoint import Asked, serving
from test_report_schema import wrong
from unprompt.engines import chats
from unprompt.engines.hf.engine import HFEngine
from unprompt.engines.tokens import encode
from unprompt.messages import UserError
from unprompt.metrics import METRICS, calls, json_answers
from unprompt.recipe import Extract, Filter, Labels, Sampling, Template, load, parse
from unprompt.records import Chat, Completion, Example, Message, Messages, Prompt, as_text
from unprompt.report.sections.fields import _fields
from unprompt.stages import lessons
from unprompt.stages.check import check
from unprompt.stages.lessons import rationales
from unprompt.stages.prompts import rendered
from unprompt.stages.questions import key_of
from unprompt.stages.templates.render import render, render_all, variables
from unprompt.stages.train.loss import batch_kl, collate
from unprompt.store.tables import read_lessons
from unprompt.tools import transfer

BEGIN = "{% for m in messages %}<{{ m.role }}>"
END = "<|end|>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
JSON_CALLS = (
    "{% if tools %}<tools>{{ tools | tojson }}<|end|>{% endif %}" + BEGIN + "{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}"
    + END
)
"""As Hermes and Qwen write calls."""
TEXT_CALLS = (
    BEGIN + "{% if m.content is none %}{% for c in m.tool_calls %}[call {{ c.function.name + ' ' +"
    " c.function.arguments }}]{% endfor %}{% else %}{{ m.content }}{% endif %}" + END
)
"""As DeepSeek's: arguments are text, and a turn that calls has no content."""
ITEMS = (
    BEGIN + "{{ m.content }}{% for c in m.tool_calls or [] %}<call {{ c.function.name }}>{% for k,"
    " v in c.function.arguments.items() %}<{{ k }}>{{ v }}{% endfor %}</call>{% endfor %}" + END
)
"""As GLM's: each argument by its name; a null content would be the word None."""
PARTS = BEGIN + "{% for part in m.content %}{{ part.text }}{% endfor %}" + END
"""As those of models that see."""

LOOK = {
    "type": "function",
    "function": {"name": "look", "parameters": {"properties": {"at": {"type": "string"}}}},
}
TURNS = [
    {"role": "user", "content": "Look at Oslo."},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "function": {"name": "look", "arguments": '{"at": "Oslo"}'}}],
    },
    {"role": "tool", "tool_call_id": "c1", "name": "look", "content": "3"},
]


def tokenizer_of(template: str) -> Any:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def asked(turns: Sequence[Any] = TURNS, **more: Any) -> Prompt:
    """The prompt of a row that holds these turns."""
    template = Template.model_validate({"messages": [{"turns": "turns"}], **more})
    return render(template, "c", Example("i", {"turns": list(turns), "have": [LOOK]}), None, "t")


def chat_of(turns: Sequence[Any] = TURNS, **more: Any) -> Messages:
    content = asked(turns, **more).content
    assert not isinstance(content, str)
    return content


# -- the prompt ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "call"),
    [
        (JSON_CALLS, '<tool_call>{"name": "look", "arguments": {"at": "Oslo"}}</tool_call>'),
        (TEXT_CALLS, '[call look {"at": "Oslo"}]'),
        (ITEMS, "<call look><at>Oslo</call>"),
    ],
    ids=["objects", "texts", "items"],
)
def test_a_call_stands_in_the_prompt_as_the_template_takes_it(template: str, call: str) -> None:
    for content in (None, ""):
        turns = [TURNS[0], {**TURNS[1], "content": content}, TURNS[2]]
        text = chats.written(tokenizer_of(template), chat_of(turns), "t")
        assert (
            text == f"<user>Look at Oslo.<|end|><assistant>{call}<|end|><tool>3<|end|><assistant>"
        )
        said = chats.answer(tokenizer_of(template), chat_of(turns[:1]), chat_of(turns)[1], "t")
        assert said == call


def test_calls_and_tools_are_read_in_the_forms_that_people_write() -> None:
    plain = {"name": "look", "arguments": {"at": "Oslo"}}
    forms = [plain, {"function": plain}, {"type": "function", "function": plain, "id": "c1"}]
    texts = [dict(TURNS[1], tool_calls=[form]) for form in forms]
    found = [chat_of([TURNS[0], turn, TURNS[2]])[1]["tool_calls"][0] for turn in texts]
    assert [call["function"] for call in found] == [plain] * 3
    assert [call.get("id") for call in found] == [None, None, "c1"]
    for tools in ("have", "input.have", [LOOK], [LOOK["function"]], "have[:1]"):
        content = chat_of(tools=tools)
        assert isinstance(content, Chat)
        assert content.tools == (LOOK,)
    assert chat_of(tools="[]") == chat_of()  # a row may have none
    assert variables(Template.model_validate({"messages": [{"turns": "a"}], "tools": "b"})) == [
        "a",
        "b",
    ]


def test_tools_go_to_the_template_and_are_shown() -> None:
    content = chat_of(tools="have")
    text = chats.written(tokenizer_of(JSON_CALLS), content, "t")
    assert text.startswith(f"<tools>[{json.dumps(LOOK)}]<|end|><user>")
    assert '[tools] [{"type": "function"' in as_text(content)
    assert '[assistant] {"name": "look", "arguments": {"at": "Oslo"}}' in as_text(content)
    assert "[tool c1] 3" in as_text(content)


def test_parts_of_a_content_are_text() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    content = chat_of([{"role": "user", "content": parts}])
    joined = chats.written(tokenizer_of(JSON_CALLS), content, "t")
    assert joined == "<user>one\ntwo<|end|><assistant>"
    assert chats.written(tokenizer_of(PARTS), content, "t") == "<user>onetwo<|end|><assistant>"
    template = Template.model_validate(
        [{"role": "user", "content": [{"type": "text", "text": "{{ turns[0].content }}!"}]}]
    )
    made = render(template, "c", Example("i", {"turns": TURNS}), None, "t").content
    assert made[0] == {"role": "user", "content": [{"type": "text", "text": "Look at Oslo.!"}]}


@pytest.mark.parametrize(
    ("template", "turns", "more", "lacks"),
    [
        (ITEMS, TURNS[:1], {"tools": "have"}, "knows no tools"),
        (PARTS, TURNS[:2], {}, "leaves out what the assistant calls"),
        (
            "{% for m in messages if m.role != 'tool' %}{{ m.content }}{{ m.tool_calls | tojson if"
            " m.tool_calls }}{% endfor %}",
            TURNS,
            {},
            "leaves out what a tool answers",
        ),
    ],
)
def test_a_template_that_leaves_something_out_is_refused(
    template: str, turns: Sequence[Any], more: dict[str, Any], lacks: str
) -> None:
    content = asked([*turns, TURNS[0]] if turns[-1]["role"] == "assistant" else turns, **more)
    with pytest.raises(UserError, match=lacks):
        encode(tokenizer_of(template), content.content, "t")


def test_prompts_that_are_kept_together_keep_everything() -> None:
    template = Template.model_validate({"messages": [{"turns": "turns"}], "tools": "have"})
    inputs = [
        Example(
            str(n), {"turns": [{"role": "user", "content": f"n{n}"}, *TURNS[1:]], "have": [LOOK]}
        )
        for n in range(3)
    ]
    kept = render_all("c", template, "teacher", inputs, [None])
    assert list(kept) == [render(template, "c", each, None, "t") for each in inputs]
    other = render_all(
        "c", template, "teacher", [inputs[0], Example("x", {"turns": TURNS, "have": []})], [None]
    )
    assert isinstance(other[0].content, Chat)
    assert isinstance(other[1].content, tuple)


def test_what_is_asked_is_addressed_by_its_calls_and_tools() -> None:
    other = [TURNS[0], {**TURNS[1], "tool_calls": [{"name": "see", "arguments": {}}]}, TURNS[2]]
    keys = [key_of(each) for each in (asked(), asked(tools="have"), asked(other))]
    assert len(set(keys)) == 3


# -- what is learned -------------------------------------------------------------------------------


def test_kl_is_zero_with_tools_and_calls() -> None:
    tokenizer, model = tokenizer_of(JSON_CALLS), decoder()
    prompts = [asked(tools="have"), asked(TURNS[:1], tools="have")]
    answers = HFEngine(model, tokenizer).generate(
        prompts,
        Sampling(temperature=1.0, max_new_tokens=6),
        Labels(kind="sampled", draws=7),
        seed=3,
    )
    built, drops = lessons.build(prompts, answers, reads(tokenizer), Extract(), end_token=True)
    assert built
    assert set(drops.failed.values()) <= {"nothing there"}
    for lesson in built:  # what a tool answered stands in the prompt, and weighs nothing
        assert not lesson.weights[: lesson.prompt_length].any()
    with torch.no_grad():
        assert batch_kl(model, collate(built, 0)).abs().max() < 2e-5


# -- servers ---------------------------------------------------------------------------------------


def tool_recipe(model: Path, **changes: Any) -> dict[str, Any]:
    recipe = tiny_recipe(model)
    context = recipe["contexts"]["colours"]
    context["student"] = [{"role": "user", "content": "{{ text }}"}]
    context["teacher"] = {
        "messages": [{"role": "system", "content": "Call."}, *context["student"]],
        "tools": [LOOK],
    }
    recipe["labels"] = {"kind": "hard"}
    del recipe["evaluate"]
    return recipe | changes


@pytest.fixture
def calling_model(tmp_path: Path) -> Path:
    decoder().save_pretrained(tmp_path / "m")
    tokenizer_of(JSON_CALLS).save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def test_a_server_gets_tools_and_its_calls_are_learned_in_the_students_words(
    calling_model: Path, tmp_path: Path
) -> None:
    def answer(got: Asked, _: int) -> Any:
        call = {
            "name": "look",
            "arguments": json.dumps({"at": got.body["messages"][-1]["content"]}),
        }
        said: Message = {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": call}],
        }
        choice = {"index": 0, "message": said, "finish_reason": "tool_calls"}
        return {"model": "m", "choices": [choice], "usage": {}}

    with serving(answer) as (url, got):
        server = {"url": url, "model": "m", "budget": {"tokens": 99999}}
        recipe = parse(tool_recipe(calling_model, teacher_model={"server": server}))
        run = unprompt.run(recipe, tmp_path / "run")
    assert all(each.body["tools"] == [LOOK] for each in got)
    lines = transfer.hand_over(run.folder, None, tmp_path / "out.jsonl")
    assert lines[0] == "8 examples, 8 different prompts"
    row = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    asked_ = row["messages"][0]["content"]
    [call] = row["messages"][-1]["tool_calls"]  # the file has it apart from the text again
    assert call["function"] == {"name": "look", "arguments": json.dumps({"at": asked_})}
    assert row["messages"][-1]["content"] is None
    lesson = next(iter(read_lessons(run.folder / "lessons.parquet")))
    learned = tokenizer_of(JSON_CALLS).decode(lesson.input_ids[lesson.prompt_length :])
    assert learned == (
        f'<tool_call>{{"name": "look", "arguments": {{"at": "{asked_}"}}}}</tool_call><|end|>'
    )


# -- files of chats --------------------------------------------------------------------------------


def test_files_of_chats_keep_tools_and_calls() -> None:
    content = chat_of(tools="have")
    assert isinstance(content, Chat)
    [line] = transfer.to_lines([transfer.example(content, "3 degrees")]).splitlines()
    row = json.loads(line)
    assert row["tools"] == [LOOK]
    assert row["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"at": "Oslo"}'
    assert row["messages"][2] == TURNS[2] | {"role": "tool"}
    [back] = transfer.validate(line, "file")
    assert isinstance(back, Chat)
    assert back.tools == content.tools
    assert back[:-1] == content[:]
    assert "tokens" in transfer.summary([back], tokenizer_of(JSON_CALLS))[-1]


# -- what answers are worth ------------------------------------------------------------------------

OSLO = calls.Call("look", {"at": "Oslo"})


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "look", "arguments": {"at": "Oslo"}}\n</tool_call>',
        'I look there.\n<tool_call>{"name": "look", "arguments": "{\\"at\\": \\"Oslo\\"}"}',
        '{"name": "look", "parameters": {"at": "Oslo"}}',
        '<|python_tag|>{"type": "function", "name": "look", "parameters": {"at": "Oslo"}}',
        '[TOOL_CALLS][{"name": "look", "arguments": {"at": "Oslo"}, "id": "123456789"}]',
        '[TOOL_CALLS]look[ARGS]{"at": "Oslo"}',
        '```tool_call\n{"name": "look", "arguments": {"at": "Oslo"}}\n```',
        'So:\n```json\n{"name": "look", "arguments": {"at": "Oslo"}}\n```\n',
        '[look(at="Oslo")]',
        "```tool_code\nlook(at='Oslo')\n```",
        "<tool_call>look\n<arg_key>at</arg_key>\n<arg_value>Oslo</arg_value>\n</tool_call>",
        "<tool_call>\n<function=look>\n<parameter=at>\nOslo\n</parameter>\n</function>\n</tool_call>",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>look\n```json\n"
        '{"at": "Oslo"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        '<｜tool▁call▁begin｜>look<｜tool▁sep｜>{"at": "Oslo"}<｜tool▁call▁end｜>',
        '[{"type": "function", "function": {"name": "look", "arguments": {"at": "Oslo"}}}]',
    ],
)
def test_a_call_is_read_in_the_syntaxes_that_models_have(text: str) -> None:
    assert calls.calls_in(text) == [OSLO]


def test_several_calls_are_read() -> None:
    two = '<tool_call>{"name": "a", "arguments": {}}</tool_call>\n<tool_call>{"name": "b"}'
    assert [call.name for call in calls.calls_in(two)] == ["a", "b"]
    assert calls.calls_in('{"name": "a", "parameters": {}}; {"name": "b", "parameters": {}}') == [
        calls.Call("a", {}),
        calls.Call("b", {}),
    ]
    assert calls.calls_in("[a(x=1, y=[true, None]), m.b()]") == [
        calls.Call("a", {"x": 1, "y": [True, None]}),
        calls.Call("m.b", {}),
    ]


@pytest.mark.parametrize(
    "text",
    [
        *("", "No.", '{"answer": 3}', "[1, 2]", "f(", "Use look(at='Oslo').", '"look"', "[f(1)]"),
        *("[f(a={[1]: 2})]", "[f(a={[1]})]", "[f(a={1: {[]}})]"),
    ],
)
def test_what_calls_nothing_has_no_calls(text: str) -> None:
    assert calls.calls_in(text) == []


def worth(name: str, answer: str, target: Any) -> float:
    return METRICS[name].function(answer, Example("i", {}, target))


def test_tool_calls_are_compared_as_json() -> None:
    both = [{"name": "look", "arguments": {"at": "Oslo", "n": 1}}, {"name": "stop"}]
    right = '[stop(), look(n=1.0, at="Oslo")]'
    named = '[stop(), look(at="Rome", n=1)]'
    other = '[halt(), look(at="Oslo", n=1)]'
    metrics = ("tool_call", "tool_call_name", "tool_call_arguments")
    assert [worth(each, right, both) for each in metrics] == [1, 1, 1]
    assert [worth(each, named, both) for each in metrics] == [0, 1, 0]
    assert [worth(each, other, both) for each in metrics] == [0, 0, 1]
    assert [worth(each, "[stop()]", both) for each in metrics] == [0, 0, 0]
    assert worth("tool_call", '[look(at="Oslo", n=true), stop()]', both) == 0  # true is not 1
    assert worth("tool_call", right, json.dumps(both)) == 1
    opened = {"tool_calls": [{"function": {"name": "stop", "arguments": "{}"}}]}
    assert worth("tool_call", "[stop()]", opened) == 1


def test_where_no_call_is_wanted_none_is_right() -> None:
    assert worth("tool_call", "It is late.", []) == 1
    assert worth("tool_call", "[stop()]", []) == 0
    assert worth("tool_call", '<tool_call>{"name": ', []) == 0  # it begins one


@pytest.mark.parametrize(
    ("name", "target"),
    [("tool_call", 3), ("tool_call", "look"), ("json_fields", "[1]"), ("json_fields", {})],
)
def test_gold_that_is_none_is_refused(name: str, target: Any) -> None:
    with pytest.raises(ValueError, match=r"it is no|Expecting"):
        worth(name, "", target)


def test_json_is_valid_as_it_stands() -> None:
    for text in ('{"a": 1}', '{"a": 1} ', " [1, 2]\n"):
        assert worth("json_valid", text, None) == 1
    for text in ("", "42", '"a"', '```json\n{"a": 1}\n```', '{"a": NaN}', "{'a': 1}"):
        assert worth("json_valid", text, None) == 0
    assert worth("json_valid", "[" * 99999, None) == 0


def test_fields_are_compared_as_json() -> None:
    gold = {"a": 1, "b": "x", "c": [True], "d": None}
    assert worth("json_fields", '{"a": 1.0, "b": "x", "c": [true], "d": null, "e": 9}', gold) == 1
    assert worth("json_fields", '{"a": true, "b": "X", "c": [1]}', json.dumps(gold)) == 0
    assert worth("json_fields", '{"a": 1, "b": "x"}', gold) == 0.5
    assert worth("json_fields", "no JSON", gold) == 0


SCHEMA = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}


def test_json_keeps_to_a_schema() -> None:
    function = METRICS["json_schema"].function
    assert function('{"a": 1}', SCHEMA) == 1
    for text in ('{"a": "1"}', "{}", "no JSON"):
        assert function(text, SCHEMA) == 0


@pytest.mark.parametrize(
    ("schema", "wrong"),
    [
        ({"type": "text"}, "no JSON schema"),
        ({"$ref": "https://example.com/s.json"}, "names another one"),
    ],
)
def test_a_schema_is_looked_at_ahead(schema: Any, wrong: str) -> None:
    with pytest.raises(UserError, match=wrong):
        json_answers.refuse_schema(schema, "evaluate.schema")


def said(text: str, n: int = 0) -> Completion:
    return Completion(f"i{n}", "c", text, (3,), "end", 1)


def test_a_filter_keeps_valid_answers_and_counts_the_others_by_reason() -> None:
    answers = [said('{"a": 1}'), said('{"a": "x"}'), said("none"), said(" ")]
    inputs = [Example(str(n), {}) for n in range(4)]
    rule = Filter.model_validate({"keep": "valid", "schema": SCHEMA})
    verdicts = rationales.judge(rule, Extract(), inputs, answers, 1)
    assert verdicts == ["kept", "breaks the schema", "no JSON", "no answer found"]
    assert rationales.counts(rule, verdicts, None) == {
        "kept": 1,
        "no JSON": 1,
        "breaks the schema": 1,
        "no answer found": 1,
    }
    free = rationales.judge(Filter(keep="valid"), Extract(), inputs, answers, 1)
    assert free == ["kept", "kept", "no JSON", "no answer found"]


# -- files beside a recipe -------------------------------------------------------------------------


def test_tools_and_a_schema_may_lie_in_files(tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_text(json.dumps([LOOK]))
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    recipe = tool_recipe(tmp_path)
    recipe["contexts"]["colours"]["teacher"]["tools"] = {"file": "tools.json"}
    recipe["evaluate"] = {
        "data": {"rows": [{"text": "a"}]},
        "metrics": ["json_schema"],
        "schema": {"file": "schema.json"},
    }
    read = parse(recipe, tmp_path)
    (tmp_path / "again.yaml").write_text(read.to_yaml())
    for each in (read, load(tmp_path / "again.yaml")):
        teacher, evaluation = each.contexts["colours"].teacher, each.evaluation("colours")
        assert teacher
        assert teacher.tools == (LOOK,)
        assert evaluation
        assert evaluation.schema_ == SCHEMA


# -- gold answers ----------------------------------------------------------------------------------


def test_gold_calls_are_learned_in_the_models_own_words(
    calling_model: Path, tmp_path: Path
) -> None:
    recipe = tool_recipe(calling_model)
    context = recipe["contexts"]["colours"]
    context["teacher"], context["gold"] = None, "{{ calls }}"
    wanted = [{"name": "look", "arguments": {"at": "Oslo"}}]
    context["inputs"] = [
        {"id": "a", "text": "red", "calls": wanted},
        {"id": "b", "text": "blue", "calls": {"content": "Yes.", "tool_calls": wanted}},
        {"id": "c", "text": "grey", "calls": "No."},
    ]
    found = rendered(parse(recipe)).gold["colours"]
    call = '<tool_call>{"name": "look", "arguments": {"at": "Oslo"}}</tool_call>'
    assert found == [call, f"Yes.{call}", "No."]
    context["student"] = "{{ text }}"
    with pytest.raises(UserError, match="is a message, and the student's prompt is a text"):
        rendered(parse(recipe))


def test_the_report_says_which_fields_are_right(calling_model: Path, tmp_path: Path) -> None:
    recipe = tool_recipe(calling_model)
    recipe["evaluate"] = {
        "data": {
            "rows": [
                {"id": "a", "text": "red", "target": {"kind": "x", "n": 1}},
                {"id": "b", "text": "blue", "target": '{"kind": "y"}'},
            ]
        },
        "metrics": ["json_fields", "json_valid"],
    }
    run = unprompt.run(parse(recipe), tmp_path / "run")
    fields = run.report["fields"]["colours"]
    assert fields.keys() >= {"teacher", "before", "after"}
    for of in fields.values():
        assert {field: each["examples"] for field, each in of.items()} == {"kind": 2, "n": 1}
        assert all(each["mean"] == 0 for each in of.values())  # a random model writes no JSON
    assert "Fields of JSON answers" in (run.folder / "report.md").read_text("utf-8")
    assert wrong(run.report) == []
    right, off = '{"n": 1.0, "kind": "z"}', '{"kind": "y", "n": 3}'
    answered = [
        replace(grade, answer=answer)
        for grade, answer in zip(run.grades[:2], (right, off), strict=True)
    ]
    shares = {field: each["mean"] for field, each in _fields(answered).items()}
    assert shares == {"kind": 0.5, "n": 1}


# -- the example -----------------------------------------------------------------------------------


def test_the_agents_recipe_is_in_order(tmp_path: Path) -> None:
    """All but the weights: a tiny model stands for both, and few requests are asked."""
    decoder(max_position_embeddings=4096).save_pretrained(tmp_path / "m")
    tokenizer_of(JSON_CALLS).save_pretrained(tmp_path / "m")
    path = Path(__file__).parents[1] / "recipes" / "prompts" / "agent" / "recipe.yaml"
    changes = [
        f"model={tmp_path / 'm'}",
        "teacher_model=null",
        "contexts.agent.inputs.args.count=16",
        "evaluate.data.args.count=16",
    ]
    recipe = load(path, changes)
    found = check(recipe, estimate=False)
    prompts = found.prompts
    [teacher], [student] = (
        [side["agent"].prompts[0].content] for side in (prompts.teacher, prompts.student)
    )
    assert isinstance(teacher, Chat)
    assert len(teacher.tools) == 6
    assert isinstance(student, tuple)
    for row in (*prompts.inputs.taught["agent"], *prompts.inputs.held_out["agent"]):
        known = {tool["function"]["name"]: tool["function"]["parameters"] for tool in teacher.tools}
        for call in row.target:  # the gold calls are ones that the schemas allow
            assert json_answers.json_schema(json.dumps(call["arguments"]), known[call["name"]])
    assert any(not row.target for row in prompts.inputs.taught["agent"])
