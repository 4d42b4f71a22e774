"""Thoughts stay out of what is learned and graded, and an unfinished one says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import byte_tokenizer, tiny_recipe
from endpoint import NAME, serving
from unprompt.engines import models
from unprompt.engines.server.engine import ServerEngine
from unprompt.messages import UserError
from unprompt.recipe import Extract, Labels, Model, Recipe, Sampling, Server
from unprompt.records import Completion, Prompt
from unprompt.stages.lessons.extract import Span, extract
from unprompt.tools import export

# -- extract: answer -------------------------------------------------------------------------------

GPT = "<|channel|>analysis<|message|>Hm, 4?<|end|><|start|>assistant<|channel|>final<|message|>"
ANSWERS = {
    "no thought": ("red", "end", "", "red"),
    "no thought, a blank ahead": (" red", "end", "", " red"),
    "qwen3": ("<think>\nHm.\n</think>\n\nred", "end", "", "red"),
    "qwen3, thinking off": ("<think>\n\n</think>\n\nred\n", "end", "", "red\n"),
    "deepseek-r1, opened by the prompt": ("Hm.\n</think>\n\nred", "end", "<think>", "red"),
    "opened by the prompt and again by the model": (
        "<think>Hm.</think>red",
        "end",
        "<think>",
        "red",
    ),
    "opened by a prompt that nobody knows": ("Hm.</think> red", "end", "", "red"),
    "two thoughts": ("<think>a</think>\n<think>b</think> red", "end", "", "red"),
    "exaone": ("<thought>\nHm.\n</thought>\n\nred", "end", "", "red"),
    "magistral": ("[THINK]Hm.[/THINK]red", "end", "", "red"),
    "kimi-vl": ("◁think▷Hm.◁/think▷red", "end", "", "red"),
    "seed-oss": ("<seed:think>Hm.</seed:think>red", "end", "", "red"),
    "reasoning": ("<reasoning>Hm.</reasoning> red", "end", "", "red"),
    "letter case": ("<Think>Hm.</THINK> red", "end", "", "red"),
    "gpt-oss": (GPT + "red", "end", "", "red"),
    "gpt-oss without a thought": ("<|channel|>final<|message|>red", "end", "", "red"),
    "gpt-oss, JSON": (
        GPT.replace("final", "final <|constrain|>json") + "{}",
        "end",
        "",
        "{}",
    ),
    "gemma 4": ("<|channel>thought\nHm.<channel|>red", "end", "", "red"),
    "command": ("<|START_THINKING|>Hm.<|END_THINKING|>red", "end", "", "red"),
    "a cut answer": ("<think>Hm.</think>\nre", "length", "", "re"),
    "a word of the kind in the answer": ("write <think> around it", "end", "", None),
}
FAILURES = {
    "cut": ("<think>Hm", "length", "", "thought not finished within max_new_tokens"),
    "cut, opened by the prompt": (
        "Hm",
        "length",
        "<think>",
        "thought not finished within max_new_tokens",
    ),
    "gpt-oss, cut": (
        "<|channel|>analysis<|message|>Hm",
        "length",
        "",
        "thought not finished within max_new_tokens",
    ),
    "never closed": ("red", "end", "<think>", "thought never closed"),
    "never closed, stop": ("<think>red", "stop", "", "thought never closed"),
    "closed by another": ("<think>Hm.[/THINK]red", "end", "", "thought never closed"),
    "nothing behind": ("<think>Hm.</think>\n", "end", "", "nothing there"),
    "nothing behind, cut": (
        "<think>Hm.</think>\n",
        "length",
        "",
        "nothing within max_new_tokens",
    ),
    "a server's thought took it all": ("", "length", "", "nothing within max_new_tokens"),
    "inside": ("red <think>or?</think> blue", "end", "", "a thought inside the answer"),
    "inside, cut": ("red <think>or", "length", "", "a thought inside the answer"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_finished_thought_is_left_out(name: str) -> None:
    text, stop, opened, wanted = ANSWERS[name]
    span = extract(Extract(keep="answer"), text, stop, opened=opened)
    assert isinstance(span, Span), span
    assert text[span.start : span.end] == (text if wanted is None else wanted)


@pytest.mark.parametrize("name", FAILURES)
def test_an_unfinished_thought_has_its_own_reason(name: str) -> None:
    text, stop, opened, why = FAILURES[name]
    assert extract(Extract(keep="answer"), text, stop, opened=opened) == why


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ({"keep": "answer", "json": "label"}, "red"),
        ({"keep": "answer", "after": "label"}, '": "red"}'),
        ({"keep": "answer", "regex": r"\w+ed"}, "red"),
        ({"json": "label"}, "blue"),
    ],
)
def test_other_rules_look_behind_the_thought(rule: dict[str, Any], wanted: str) -> None:
    text = '<think>{"label": "blue"}?</think>{"label": "red"}'
    made = Extract.model_validate(rule)
    span = extract(made, text, "end")
    assert isinstance(span, Span), span
    assert text[span.start : span.end] == wanted
    assert Extract.model_validate(made.model_dump(by_alias=True)) == made


@pytest.mark.parametrize("keep", ["first_line", "module:function"])
def test_a_rule_beside_another_kind_of_keep_is_refused(keep: str) -> None:
    with pytest.raises(ValueError, match="leave one of them out"):
        Extract.model_validate({"keep": keep, "regex": "a"})


# -- a server's thoughts, and what it is told of its template --------------------------------------

ASKED = [Prompt("a", "c", ({"role": "user", "content": "Which?"},))]
TOP = {"kind": "top_k", "k": 2}


def message(content: str | None, finish: str = "stop", tokens: str = "", **more: Any) -> Any:
    """A chat server's reply; `tokens`: a token with log-probabilities for each of these letters."""
    tops = [
        {
            "token": letter,
            "logprob": -0.5,
            "top_logprobs": [{"token": letter, "logprob": -0.5}, {"token": "~", "logprob": -5}],
        }
        for letter in tokens
    ]
    choice = {"message": {"content": content} | more, "finish_reason": finish}
    return {
        "model": NAME,
        "choices": [choice | ({"logprobs": {"content": tops}} if tokens else {})],
        "usage": {"prompt_tokens": 0, "completion_tokens": len(tokens) or 9},
    }


def ask(
    reply: Any, labels: dict[str, Any] | None = None, **settings: Any
) -> tuple[Completion, dict[str, Any]]:
    """A server's answer, and what it was asked."""
    tokenizer = {"tokenizer": settings.pop("tokenizer")} if "tokenizer" in settings else {}
    with serving(lambda *_: reply) as (url, seen):
        server = Server.model_validate({"url": url, "model": NAME} | tokenizer)
        engine = ServerEngine(server, "teacher_model", byte_tokenizer(), **settings)
        sampling = Sampling(temperature=0, max_new_tokens=60)
        [found] = engine.generate(
            ASKED, sampling, Labels.model_validate(labels) if labels else None
        )
    return found, seen[0].body


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content"])
def test_a_server_s_thought_is_kept_apart_and_counted(
    key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found, _ = ask(message("red", **{key: "Hm, <think>"}))
    assert (found.text, found.stop) == ("red", "end")
    assert "teacher_model.server sent a thought beside 1 of the answers" in capsys.readouterr().err
    empty: dict[str, Any] = {key: None}
    ask(message("red", **empty))
    assert "a thought beside" not in capsys.readouterr().err


def test_a_thought_that_takes_all_tokens_is_a_cut_answer() -> None:
    found, _ = ask(message(None, "length", reasoning="Hm, "))
    assert (found.text, found.stop, found.token_ids) == ("", "length", ())
    why = extract(Extract(keep="answer"), found.text, found.stop, opened=found.opened)
    assert why == "nothing within max_new_tokens"


@pytest.mark.parametrize(
    ("content", "finish", "tokens", "kept"),
    [
        ("red", "stop", "<think>Hm, red?</think>\n\nred", "red"),
        ("\n\nred", "stop", "Hm, red</think>\n\nred", "red"),
        (None, "length", "<think>Hm, re", ""),
        ("re", "length", "<think>Hm.</think>re", "re"),
    ],
)
def test_labels_are_those_of_the_answer_s_tokens(
    content: str | None, finish: str, tokens: str, kept: str, decoder_folder: Path
) -> None:
    reply = message(content, finish, tokens, reasoning="Hm")
    reply["usage"]["prompt_tokens"] = 0
    found, _ = ask(reply, TOP, tokenizer=str(decoder_folder))
    words = found.token_ids[: len(kept)]
    assert byte_tokenizer().decode(list(words)) == found.text == kept
    assert found.labels is not None
    assert len(found.labels) == len(found.token_ids) == len(kept) + (finish == "stop")


def test_without_a_thought_beside_it_the_tokens_have_to_be_the_text_s(decoder_folder: Path) -> None:
    with pytest.raises(UserError, match="is not that of its tokens"):
        ask(message("red", "stop", "Hm</think>red"), TOP, tokenizer=str(decoder_folder))


def test_a_server_is_told_the_variables_and_only_where_there_are_some() -> None:
    assert "chat_template_kwargs" not in ask(message("red"))[1]
    _, body = ask(message("red"), variables={"enable_thinking": False})
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


def test_variables_decide_a_server_s_answers() -> None:
    section = {"server": {"url": "http://127.0.0.1:9/v1", "model": NAME}}
    plain, same = (Model.model_validate(section | more) for more in ({}, {"chat_template": {}}))
    off = Model.model_validate(section | {"chat_template": {"enable_thinking": False}})
    one, two, three = (models.identity(each, "teacher_model") for each in (plain, same, off))
    assert one == two != three
    assert "enable_thinking" not in one


@pytest.mark.parametrize(
    ("more", "server", "match"),
    [
        ({}, {"extra": {"chat_template_kwargs": {}}}, "write chat_template beside server"),
        (
            {},
            {"tokenizer": {"name": "x/y", "chat_template": {"a": 1}}},
            "write chat_template beside server",
        ),
        ({"chat_template": {"a": 1}}, {"api": "completions"}, "plain text passes no chat template"),
        ({"dtype": "float16"}, {}, "leave out dtype"),
        ({"chat_template": {"messages": 1}}, {}, "no variable that can be set"),
    ],
)
def test_variables_that_would_be_ignored_are_refused(
    more: dict[str, Any], server: dict[str, Any], match: str
) -> None:
    section = {"url": "http://127.0.0.1:9/v1", "model": NAME} | server
    with pytest.raises(ValueError, match=match):
        Model.model_validate({"server": section} | more)


# -- serving the student ---------------------------------------------------------------------------


def served(tiny: Callable[..., Recipe], model: dict[str, Any], student: dict[str, Any]) -> Recipe:
    contexts = tiny_recipe(Path())["contexts"]
    asked = [{"role": "user", "content": "{{ text }}"}]
    contexts["colours"]["student"] = {"messages": asked, "chat_template": student}
    return tiny(contexts=contexts, model={"name": tiny().model.name, "chat_template": model})


@pytest.mark.parametrize("merged", [True, False])
def test_commands_that_serve_a_student_have_its_variables(
    merged: bool, tiny: Callable[..., Recipe]
) -> None:
    def said(model: dict[str, Any], student: dict[str, Any]) -> str:
        recipe, to = served(tiny, model, student), Path("out")
        return "\n".join(export.commands(recipe, "after", to, merged=merged, encoder_decoder=False))

    assert "kwargs" not in said({}, {})
    for given in (said({"a": 1}, {}), said({"a": 2}, {"a": 1}), said({}, {"a": 1})):
        assert """--default-chat-template-kwargs '{"a": 1}'""" in given
        assert """--jinja --chat-template-kwargs '{"a": 1}'""" in given
        assert "apply_chat_template(messages, a=1, ...)" in given


def test_contexts_that_differ_are_named(tiny: Callable[..., Recipe]) -> None:
    contexts = tiny_recipe(Path())["contexts"]
    asked = [{"role": "user", "content": "{{ text }}"}]
    contexts["colours"]["student"] = asked
    contexts["more"] = contexts["colours"] | {
        "student": {"messages": asked, "chat_template": {"a": 1}}
    }
    lines = export.commands(
        tiny(contexts=contexts), "after", Path("out"), merged=True, encoder_decoder=False
    )
    assert any('colours: {}; more: {"a": 1}' in line for line in lines)
    assert not any("--default-chat-template-kwargs" in line for line in lines)
