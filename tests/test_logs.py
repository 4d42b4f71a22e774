"""Production logs: from a file of logged calls to inputs, and to a recipe that runs."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from conftest import byte_tokenizer, decoder, tiny_recipe
from unprompt import pipeline
from unprompt.engines.tokens import decoded, encode
from unprompt.messages import UserError
from unprompt.recipe import Data, parse
from unprompt.stages.check import check
from unprompt.stages.inputs import files, load

SYSTEM = {"role": "system", "content": "You sell {{ lamps }}. Be brief."}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


TALK = [user("Hi"), assistant("Hello!"), user("A red lamp?"), assistant("Yes, 20 euros.")]
CALL = {"id": "c1", "type": "function", "function": {"name": "stock", "arguments": '{"id": 3}'}}


def written(folder: Path, rows: Sequence[Any], name: str = "log.jsonl") -> Path:
    path = folder / name
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, "utf-8")
    return path


def inputs(path: Path, **settings: Any) -> list[dict[str, Any]]:
    data = Data.model_validate({"file": str(path), "format": "openai", **settings})
    return [row.fields for row in load(data, "inputs")]


# -- OpenAI's form ---------------------------------------------------------------------------------


def test_the_last_answer_is_learned_behind_what_stood_ahead_of_it(tmp_path: Path) -> None:
    [row] = inputs(written(tmp_path, [{"messages": [SYSTEM, *TALK]}]))
    assert row["system"] == SYSTEM["content"]
    assert row["history"] == TALK[:3]
    assert row["target"] == "Yes, 20 euros."
    assert row["tools"] == []


def test_all_turns_are_inputs_of_one_conversation(tmp_path: Path) -> None:
    path = written(tmp_path, [{"id": "t", "messages": [SYSTEM, *TALK]}])
    one, two = inputs(path, turns="all")
    assert [row["id"] for row in (one, two)] == ["t.1", "t.2"]
    assert (one["history"], one["target"]) == (TALK[:1], "Hello!")
    assert one["conversation"] == two["conversation"]


@pytest.mark.parametrize("end", [user("And a blue one?"), {"role": "tool", "content": "7"}])
def test_what_is_not_answered_yet_is_an_input(tmp_path: Path, end: dict[str, Any]) -> None:
    path = written(tmp_path, [{"id": "t", "messages": [SYSTEM, *TALK, end]}])
    [row] = inputs(path)
    assert row["history"] == [*TALK, end]
    assert "target" not in row
    assert [each.get("target") for each in inputs(path, turns="all")] == [
        *("Hello!", "Yes, 20 euros.", None)
    ]


def test_a_request_with_its_response(tmp_path: Path) -> None:
    """As a proxy keeps both, as a batch's two files put together, as a stored completion."""
    reply = {"object": "chat.completion", "choices": [{"message": TALK[1]}]}
    asked = {"model": "m", "messages": [SYSTEM, TALK[0]]}
    rows = [
        {"request": asked, "response": reply},
        {"custom_id": "b", "body": asked, "response": {"status_code": 200, "body": reply}},
        {**reply, "messages": asked["messages"]},
        {"request": json.dumps(asked), "response": json.dumps(reply)},
    ]
    for row in rows:
        [found] = inputs(written(tmp_path, [row]))
        assert (found["system"], found["history"]) == (SYSTEM["content"], TALK[:1])
        assert found["target"] == "Hello!"


def test_calls_and_tools_are_kept(tmp_path: Path) -> None:
    turns = [
        user("Lamp 3?"),
        assistant(None, tool_calls=[CALL]),
        {"role": "tool", "tool_call_id": "c1", "content": "4 left"},
        assistant("4 left."),
    ]
    tools = [{"type": "function", "function": {"name": "stock"}}]
    path = written(tmp_path, [{"messages": [SYSTEM, *turns], "tools": tools}])
    one, two = inputs(path, turns="all")
    assert one["tools"] == tools
    assert one["target"] == [CALL]
    assert two["history"] == turns[:3]


def test_parts_of_text_are_text_and_a_developer_is_a_system(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind."}]
    messages = [{"role": "developer", "content": parts}, user("Hi"), assistant("Hello")]
    assert inputs(written(tmp_path, [{"messages": messages}]))[0]["system"] == "Be kind."


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    asked = {"messages": [user("x")]}
    rows = [
        {"messages": [SYSTEM, *TALK[:2]]},
        {"messages": [SYSTEM, *TALK]},
        {"messages": [SYSTEM, user("no answer yet")]},
        {"messages": [SYSTEM]},
        {"request": asked, "response": {"status_code": 500, "body": {}}},
        {"messages": [{"role": "system", "content": "Another."}, *TALK]},
    ]
    path, system = written(tmp_path, rows), tmp_path / "system.md"
    system.write_text(f"{SYSTEM['content']}\n")
    settings = {"file": str(path), "format": "openai", "turns": "all", "system": str(system)}
    data = Data.model_validate(settings)
    assert [row.target for row in load(data, "inputs")] == ["Hello!", "Yes, 20 euros.", None]
    told = files.left_out(data, "inputs")
    assert "1 a turn that an earlier row has, too" in told
    assert "1 without a turn" in told
    assert "1 of a call that failed" in told
    assert "1 with another system prompt" in told


@pytest.mark.parametrize("reply", [{"odd": 1}, {"choices": [{"odd": 1}]}, ""])
def test_no_earlier_answer_stands_in_for_one_that_cannot_be_read(
    tmp_path: Path, reply: Any
) -> None:
    rows = [
        {"request": {"messages": [SYSTEM, *TALK[:3]]}, "response": reply},
        {"messages": [SYSTEM, *TALK]},
    ]
    path = written(tmp_path, rows)
    assert [row["target"] for row in inputs(path)] == ["Yes, 20 euros."]
    data = Data.model_validate({"file": str(path), "format": "openai"})
    assert files.left_out(data, "inputs") == "1 with an answer that can't be read"


def test_calls_of_one_conversation_belong_together(tmp_path: Path) -> None:
    """Each request holds the ones ahead of it; no id says so."""
    rows = [{"messages": [SYSTEM, *TALK[:2]]}, {"messages": [SYSTEM, *TALK]}]
    rows.append({"messages": [SYSTEM, user("Bye"), assistant("Bye!")]})
    first, second, third = (row["conversation"] for row in inputs(written(tmp_path, rows)))
    assert first == second != third
    named = [{**row, "metadata": {"thread_id": n}} for n, row in enumerate(rows)]
    assert [row["conversation"] for row in inputs(written(tmp_path, named))] == ["0", "1", "2"]


def test_gzip_is_read(tmp_path: Path) -> None:
    rows = [{"messages": [SYSTEM, *TALK]}]
    assert inputs(written(tmp_path, rows, "log.jsonl.gz")) == inputs(written(tmp_path, rows))
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes((tmp_path / "log.jsonl.gz").read_bytes()[:40])
    with pytest.raises(UserError, match="cannot be read"):
        inputs(cut)
    (tmp_path / "no.jsonl.gz").write_text("{}")
    with pytest.raises(UserError, match="cannot be read"):
        inputs(tmp_path / "no.jsonl.gz")


# -- Langfuse and LangSmith ------------------------------------------------------------------------


def test_langfuse_observations(tmp_path: Path) -> None:
    rows = [
        {
            "id": "o1",
            "traceId": "t1",
            "sessionId": "s1",
            "type": "GENERATION",
            "input": [SYSTEM, TALK[0]],
            "output": TALK[1],
        },
        {
            "id": "o2",
            "type": "GENERATION",
            "input": json.dumps({"messages": [SYSTEM, *TALK[:3]]}),
            "output": "Yes.",
        },
        {"id": "o3", "type": "SPAN", "input": {"step": 1}, "output": None},
        {"id": "o4", "type": "GENERATION", "level": "ERROR", "input": [TALK[0]], "output": None},
    ]
    one, two = inputs(written(tmp_path, rows), format="langfuse")
    assert (one["id"], one["conversation"], one["target"]) == ("o1", "s1", "Hello!")
    assert (two["history"], two["target"]) == (TALK[:3], "Yes.")


def test_a_langfuse_trace_with_its_observations(tmp_path: Path) -> None:
    inner = [{"id": "o", "type": "GENERATION", "input": [TALK[0]], "output": TALK[1]}]
    trace = {"trace": {"id": "t", "sessionId": "s"}, "observations": inner}
    [row] = inputs(written(tmp_path, [trace]), format="langfuse")
    assert (row["conversation"], row["system"]) == ("s", "")


def message(kind: str, text: str, **more: Any) -> dict[str, Any]:
    """As LangChain writes one."""
    path = ["langchain", "schema", "messages", f"{kind}Message"]
    return {"lc": 1, "type": "constructor", "id": path, "kwargs": {"content": text, **more}}


def test_langsmith_runs(tmp_path: Path) -> None:
    call = {"name": "stock", "args": {"id": 3}, "id": "c1", "type": "tool_call"}
    answer = message("AI", "", tool_calls=[call])
    rows = [
        {
            "id": "r1",
            "run_type": "llm",
            "session_id": "the project",
            "inputs": {"messages": [[message("System", "Sell."), message("Human", "Lamp 3?")]]},
            "outputs": {"generations": [[{"text": "", "message": answer}]]},
            "extra": {"metadata": {"thread_id": "t9"}, "invocation_params": {"tools": [{"a": 1}]}},
        },
        {
            "id": "r2",
            "run_type": "llm",
            "inputs": {"messages": [TALK[0]]},
            "outputs": {"choices": [{"message": TALK[1]}]},
        },
        {"id": "r3", "run_type": "chain", "inputs": {"x": 1}, "outputs": {}},
        {"id": "r4", "run_type": "llm", "error": "429", "inputs": {"messages": [TALK[0]]}},
    ]
    one, two = inputs(written(tmp_path, rows), format="langsmith")
    assert (one["system"], one["conversation"], one["tools"]) == ("Sell.", "t9", [{"a": 1}])
    function = {"name": "stock", "arguments": {"id": 3}}
    assert one["target"] == [{"id": "c1", "type": "function", "function": function}]
    assert two["target"] == "Hello!"


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"text": "x"}, "not openai: no messages are found in it; it has: text"),
        (["x"], "not openai: is list, not an object"),
        ({"custom_id": "b", "response": {"body": {}}}, "no messages are found"),
    ],
)
def test_a_row_of_another_form_is_refused(tmp_path: Path, row: Any, says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        inputs(written(tmp_path, [{"messages": TALK}, row]))
    assert "row 2" in str(error.value)


@pytest.mark.parametrize(
    "data",
    [{"rows": [{"a": 1}], "format": "openai"}, {"file": "x.jsonl", "turns": "all"}],
)
def test_settings_of_logs_without_logs_are_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="of a file of logged conversations"):
        Data.model_validate(data)


def test_a_run_from_logs_says_what_is_left_out(tmp_path: Path, decoder_folder: Path) -> None:
    """The teacher is asked as logged, the student without the system prompt."""
    rows = [{"messages": [SYSTEM, user(f"Lamp {n}?"), assistant("Yes.")]} for n in range(5)]
    path = written(tmp_path, [*rows, rows[0]], "log.jsonl.gz")
    made = tiny_recipe(decoder_folder)
    made["contexts"] = {
        "main": {
            "inputs": {"file": str(path), "format": "openai", "limit": 3},
            "teacher": [{"role": "system", "content": "{{ system }}"}, {"turns": "history"}],
            "student": [{"turns": "history"}],
            "extract": "whole",
        }
    }
    made["evaluate"] = {"data": {"file": str(path), "format": "openai"}, "metrics": []}
    made["evaluate"]["group"] = "conversation"
    checked = check(parse(made))
    told = f"{path}: left out: 1 a turn that an earlier row has, too"
    assert checked.lines.count(told) == 2, "of the inputs, and of what is held out"
    long, short = checked.prompts.teacher["main"].prompts[0], checked.prompts.student["main"]
    assert long.content == (SYSTEM, user("Lamp 0?"))
    assert short.prompts[0].content == (user("Lamp 0?"),)
    report = pipeline.run(parse(made), tmp_path / "run").report
    assert report["contexts"]["main"]["likeness"]["groups"] == 5
    assert report["verdict"]["verdict"] == "look closer"


# -- the same weights, the same prompt -------------------------------------------------------------

THINKS = (
    "{% for t in tools or [] %}<tool>{{ t.function.name }}{% endfor %}{% for m in messages %}"
    "<{{ m.role }}>{{ m.content or '' }}{% for c in m.tool_calls or [] %}<call>"
    "{{ c.function | tojson }}{% endfor %}<|end|>{% endfor %}{% if add_generation_prompt %}"
    "<assistant>{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
STOCK = {"type": "function", "function": {"name": "stock", "parameters": {"properties": {}}}}
CALLED = [
    user("Is lamp 3 there?"),
    assistant(None, tool_calls=[CALL]),
    {"role": "tool", "tool_call_id": "c1", "content": "7"},
    assistant("Yes, seven."),
]


@pytest.mark.parametrize("name", ["every turn", "every turn and call", "thinking off"])
def test_kl_is_zero_where_the_sides_are_one(name: str, tmp_path: Path) -> None:
    """Teacher and student of one model and one prompt: nothing is between them, at any turn."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = THINKS
    decoder().save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    talks, tools = ([CALLED], [STOCK]) if "call" in name else ([TALK], [])
    rows = [{"messages": [SYSTEM, *talk], "tools": tools} for talk in [*talks, TALK[2:], TALK[:2]]]
    data = {"file": str(written(tmp_path, rows)), "format": "openai", "turns": "all"}
    side: dict[str, Any] = {"messages": [{"turns": "history"}], "tools": "tools"}
    model: dict[str, Any] = {"name": str(tmp_path / "m")}
    if name == "thinking off":
        model["chat_template"] = {"enable_thinking": False}
    made = tiny_recipe(tmp_path / "m") | {"model": model, "teacher_model": model}
    made["contexts"] = {
        "main": {"inputs": data, "teacher": side, "student": side, "extract": "answer"}
    }
    made["evaluate"] = {"data": data, "metrics": []}
    checked = check(parse(made))
    reader, asked = checked.prompts.readers.student, checked.prompts.student["main"].prompts
    texts = [decoded(reader.tokenizer, encode(reader.tokenizer, each.content)) for each in asked]
    assert len(texts) == (4 if "call" in name else 3)
    assert all(text.endswith("</think>\n\n") == ("off" in name) for text in texts)
    gain = pipeline.run(parse(made), tmp_path / "run").report["contexts"]["main"]["context_gain"]
    assert gain["examples"] == gain["nothing"] > 1
    assert gain["mean"] < 1e-6
