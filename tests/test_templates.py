"""Chats through the chat templates of real model families, on either side: the published rendering,
or one clear line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conftest import byte_tokenizer
from unprompt.engines import chats, thoughts, variables
from unprompt.engines.tokens import Reader, default_system, encode
from unprompt.messages import UserError
from unprompt.recipe import Template
from unprompt.records import Chat, Example
from unprompt.stages.prompts import measure
from unprompt.stages.questions import key_of
from unprompt.stages.templates.render import render_all

FOLDER = Path(__file__).parent / "templates"
SYSTEM = {"role": "system", "content": "Be brief."}
ASKED = {"role": "user", "content": "{{ text }}"}
QWEN = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
OFF, ON = {"enable_thinking": False}, {"enable_thinking": True}
B, E = "<|begin|>", "<|end|>"
LLAMA = "<|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n"
LLAMA_ASKED = "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
LLAMA_ASKED += "<|start_header_id|>assistant<|end_header_id|>\n\n"
CHATML = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
BRIEF = "<|im_start|>system\nBe brief.<|im_end|>\n"
GRANITE = "<|start_of_role|>user<|end_of_role|>hi<|end_of_text|>\n"
GRANITE += "<|start_of_role|>assistant<|end_of_role|>"
SMOL = "<|im_start|>system\n## Metadata\n\nKnowledge Cutoff Date: June 2025\nReasoning Mode: "
RENDERED: list[tuple[str, list[Any], dict[str, Any], str]] = [
    ("qwen3", [ASKED], {}, CHATML),
    ("qwen3", [SYSTEM, ASKED], {}, BRIEF + CHATML),
    ("qwen3", [SYSTEM, ASKED], ON, BRIEF + CHATML),
    ("qwen3", [SYSTEM, ASKED], OFF, BRIEF + CHATML + "<think>\n\n</think>\n\n"),
    ("qwen2.5", [SYSTEM, ASKED], {}, BRIEF + CHATML),
    ("qwen2.5", [ASKED], {}, f"<|im_start|>system\n{QWEN}<|im_end|>\n{CHATML}"),
    ("qwq", [ASKED], ON, CHATML + "<think>\n"),
    ("deepseek-r1-distill", [ASKED], ON, f"{B}<｜User｜>hi<｜Assistant｜><think>\n"),
    (
        "deepseek-r1-distill",
        [SYSTEM, ASKED],
        OFF,
        f"{B}Be brief.<｜User｜>hi<｜Assistant｜><think>\n</think>",
    ),
    ("mistral-nemo", [ASKED], {}, f"{B}[INST]hi[/INST]"),
    ("mistral-nemo", [SYSTEM, ASKED], {}, f"{B}[INST]Be brief.\n\nhi[/INST]"),
    ("phi-3.5", [ASKED], {}, "<|user|>\nhi<|end|>\n<|assistant|>\n"),
    (
        "phi-3.5",
        [SYSTEM, ASKED],
        {},
        "<|system|>\nBe brief.<|end|>\n<|user|>\nhi<|end|>\n<|assistant|>\n",
    ),
    (
        "smollm3",
        [SYSTEM, ASKED],
        OFF,
        f"{SMOL}/no_think\n\n## Custom Instructions\n\nBe brief.\n\n<|im_end|>\n{CHATML}"
        "<think>\n\n</think>\n",
    ),
    (
        "smollm3",
        [SYSTEM, ASKED],
        {},
        f"{SMOL}/think\n\n## Custom Instructions\n\nBe brief.\n\n<|im_end|>\n{CHATML}",
    ),
    (
        "granite-3.3",
        [SYSTEM, ASKED],
        {},
        f"<|start_of_role|>system<|end_of_role|>Be brief.<|end_of_text|>\n{GRANITE}",
    ),
    (
        "rules-of-gemma-2",
        [ASKED],
        {},
        f"{B}<start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n",
    ),
    (
        "rules-of-llama-3.2",
        [SYSTEM, ASKED],
        {"date_string": "26 Jul 2024"},
        f"{B}{LLAMA}Be brief.{LLAMA_ASKED}",
    ),
    ("rules-of-llama-3.2", [ASKED], {"date_string": "26 Jul 2024"}, f"{B}{LLAMA}{LLAMA_ASKED}"),
]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
TOOLS = {
    "qwen3": "<tool_call>",
    "qwen2.5": "<tool_call>",
    "qwq": "<tool_call>",
    "mistral-nemo": '[AVAILABLE_TOOLS][{"type": "function", "function": {"name": "f"',
    "granite-3.3": "<|start_of_role|>available_tools<|end_of_role|>",
}
"""What stands in a prompt with tools; the other templates know none."""


def reader(name: str) -> Reader:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (FOLDER / f"{name}.jinja").read_text("utf-8")
    return Reader(tokenizer, False, None, frozenset({1}))


def template(messages: list[Any], given: dict[str, Any], **more: Any) -> Template:
    return Template.model_validate({"messages": messages, "chat_template": given} | more)


@pytest.mark.parametrize("side", ["teacher", "student"])
@pytest.mark.parametrize(("name", "messages", "given", "wanted"), RENDERED)
def test_both_sides_are_rendered_as_published(
    name: str, messages: list[Any], given: dict[str, Any], wanted: str, side: str
) -> None:
    read = reader(name)
    rows = [Example("a", {"text": "hi"}), Example("b", {"text": "ho"})]
    prompts = render_all("c", template(messages, given), side, rows, [None])
    made = measure(prompts, read, f"contexts.c.{side}", 8)
    one, other = (prompt.content for prompt in made.prompts)
    assert not isinstance(one, str)
    assert not isinstance(other, str)
    assert chats.written(read.tokenizer, one, side) == wanted
    swapped = wanted.replace("hi<", "ho<").replace("hi[", "ho[")
    assert chats.written(read.tokenizer, other, side) == swapped
    assert made.lengths[0] == len(encode(read.tokenizer, made.prompts[0].content))
    assert made.opened == thoughts.left_open(wanted)


def test_eight_families_are_there() -> None:
    names = {name for name, *_ in RENDERED}
    assert names == {path.stem for path in FOLDER.glob("*.jinja")}
    assert len(names) >= 8


@pytest.mark.parametrize("name", sorted({name for name, *_ in RENDERED}))
def test_tools_are_in_the_prompt_or_refused(name: str) -> None:
    read = reader(name)
    chat = Chat(({"role": "user", "content": "hi"},), (TOOL,), {})
    if name in TOOLS:
        assert TOOLS[name] in chats.written(read.tokenizer, chat, "teacher")
        return
    with pytest.raises(UserError, match="knows no tools") as caught:
        chats.written(read.tokenizer, chat, "teacher")
    assert "\n" not in str(caught.value)


USER, SAID = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("name", "messages", "what", "fix"),
    [
        ("rules-of-gemma-2", [SYSTEM, USER], r"message 1 \('system'\)", "first user message"),
        ("rules-of-gemma-2", [USER, USER], r"message 2 \('user'\)", "messages 1 and 2 as one"),
        ("rules-of-gemma-2", [SAID, USER], r"message 1 \('assistant'\)", "begin with a user"),
        ("mistral-nemo", [USER, SAID, USER, USER], r"message 4 \('user'\)", "3 and 4 as one"),
        ("mistral-nemo", [SYSTEM, SAID, USER], r"message 2 \('assistant'\)", "begin with a user"),
        (
            "mistral-nemo",
            [USER, {"role": "critic", "content": "c"}, USER],
            r"message 2 \('critic'\)",
            "roles it knows",
        ),
    ],
)
def test_a_role_that_is_refused_is_one_line_that_names_the_message(
    name: str, messages: list[Any], what: str, fix: str
) -> None:
    with pytest.raises(UserError, match=f"refuses {what}") as caught:
        encode(reader(name).tokenizer, tuple(messages), "contexts.c.teacher")
    assert fix in str(caught.value)
    assert "contexts.c.teacher" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "reads"),
    [
        ("qwen3", ["enable_thinking"]),
        ("smollm3", ["enable_thinking"]),
        ("rules-of-llama-3.2", ["date_string"]),
        ("granite-3.3", ["available_tools", "controls", "thinking"]),
        ("phi-3.5", []),
    ],
)
def test_a_variable_that_the_template_does_not_read_is_refused(name: str, reads: list[str]) -> None:
    read = reader(name)
    assert variables.of(read.tokenizer) == reads
    prompts = render_all("c", template([USER], {"mood": 1}), "teacher", [Example("a", {})], [None])
    with pytest.raises(UserError, match="no variable 'mood'") as caught:
        measure(prompts, read, "contexts.c.teacher", 8)
    assert f"it reads {', '.join(reads) or 'none'}" in str(caught.value)
    assert "contexts.c.teacher.chat_template" in str(caught.value)


def test_a_side_s_variables_are_over_the_model_s() -> None:
    tokenizer = reader("qwen3").tokenizer
    tokenizer.chat_template = variables.with_defaults(tokenizer, OFF)
    plain: tuple[dict[str, Any], ...] = (USER,)
    off = chats.written(tokenizer, plain, "teacher")
    assert off.endswith("<think>\n\n</think>\n\n")
    assert chats.written(tokenizer, Chat(plain, (), ON), "teacher").endswith("assistant\n")
    assert chats.written(tokenizer, Chat(plain, (), OFF), "teacher") == off
    assert variables.of(tokenizer) == ["enable_thinking"]


def test_variables_decide_an_answer_s_address_and_only_where_there_are_some() -> None:
    def key(written: Any) -> str:
        made = Template.model_validate(written)
        [prompt] = render_all("c", made, "teacher", [Example("a", {"text": "hi"})], [None])
        return key_of(prompt)

    bare, empty = [ASKED], {"messages": [ASKED], "chat_template": {}}
    off, on = ({"messages": [ASKED], "chat_template": given} for given in (OFF, ON))
    assert key(bare) == key(empty)
    assert len({key(bare), key(off), key(on)}) == 3
    assert Template.model_validate(empty).model_dump() == bare
    assert Template.model_validate(off).model_dump() == off


@pytest.mark.parametrize(
    ("name", "says"),
    [("qwen2.5", QWEN), ("qwen3", ""), ("phi-3.5", ""), ("rules-of-gemma-2", ""), ("qwq", "")],
)
def test_a_default_system_message_is_found(name: str, says: str) -> None:
    assert default_system(reader(name).tokenizer).partition("<|im_end|>")[0] == says
