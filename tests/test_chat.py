"""The terminal: the systems that can be asked, what they answer, and what is shown of it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import unprompt
from conftest import tiny_recipe
from unprompt.messages import UserError
from unprompt.recipe import Template, parse
from unprompt.store.tables import read_grades
from unprompt.tools import chat
from unprompt.tools.live import Live, Reply
from unprompt.visible import visible


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, decoder_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("chat") / "run"
    words = tiny_recipe(decoder_folder)
    words["contexts"]["colours"] |= {
        "inputs": [{"text": text, "tags": [text]} for text in ("red", "green")],
        "teacher": "{{ tags[0] }} is long. {{ text }}:",
    }
    words["evaluate"]["data"] = [{"id": "h0", "text": "grey", "tags": ["grey"], "target": "x"}]
    words["rounds"] = {
        "one": {"contexts": ["colours"]},
        "two": {"contexts": ["colours"], "train": {"learning_rate": 3e-2}},
    }
    unprompt.run(parse(words), folder)
    return folder


def typing(*lines: str) -> Callable[[str], str]:
    left = list(lines)

    def read(prompt: str) -> str:
        if not left:
            raise EOFError
        return left.pop(0)

    return read


def test_every_system_answers_as_it_was_graded(run: Path) -> None:
    out = io.StringIO()
    chat.chat(
        run,
        None,
        None,
        out,
        typing("/all", "grey", '["grey"]', "/teacher", "grey", "no json", "/quit", "never read"),
    )
    said = out.getvalue()
    graded = {g.system: g for g in read_grades(run / "grades.parquet")}
    assert len({graded[name].text for name in ("teacher", "before", "one", "two")}) > 2, (
        "the test proves nothing"
    )
    for name in ("teacher", "before", "one", "two"):
        shown = (
            f"{name}: {visible(graded[name].text)}\n  [{graded[name].prompt_tokens} prompt tokens ·"
            " 4 written, cut at max_new_tokens"
        )
        assert said.count(shown) == 1, name
    assert "'tags' is no JSON" in said
    assert "never read" not in said


def test_the_terminal_is_not_written_to_by_an_answer(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = "\x1b]0;taken\x07 caf\u00e9 \u202e STO"

    def stream(self: Live, *asked: Any) -> Any:
        yield "\x1b]0;"
        yield "\x1b]0;taken\x07 caf\ufffd"  # half a character
        yield whole[:-1]
        yield Reply(whole, 1, 2, 0.25, "end", None)

    monkeypatch.setattr(Live, "stream", stream)
    out = io.StringIO()
    chat.chat(run, "before", "colours", out, typing("x", '"x"'))
    assert f"before: {visible(whole)}\n  [1 prompt tokens · 2 written · 0.25 s]" in out.getvalue()
    assert not set(out.getvalue()) & {"\x1b", "\x07", "\u202e", "\ufffd"}


def test_an_answer_comes_in_pieces_and_its_writing_can_be_stopped(run: Path) -> None:
    live = Live(run)
    typed = {"text": "grey", "tags": '["grey"]'}
    *pieces, last = live.stream("colours", "teacher", typed)
    assert isinstance(last, Reply)
    assert all(
        isinstance(piece, str) and last.text.startswith(piece.rstrip("\ufffd")) for piece in pieces
    )
    heard: list[str] = []
    assert live.reply("colours", "teacher", typed, heard.append).text == last.text
    assert last.tokens - 1 <= len(heard) <= last.tokens, "one for each token"
    left = live.stream("colours", "teacher", typed)
    next(left)
    left.close()
    assert live.reply("colours", "teacher", typed).text == last.text, "nothing holds the model"


def test_names_that_are_not_there(run: Path, tmp_path: Path) -> None:
    for arguments, said in (
        (
            (run, "after", None),
            "there is no system 'after' -> there are: teacher, before, one, two",
        ),
        ((run, None, "animals"), "there is no context 'animals' -> there are: colours"),
        ((tmp_path, None, None), "there is no finished run here"),
    ):
        with pytest.raises(UserError, match=said):
            chat.chat(*arguments, io.StringIO(), typing())


def test_variables_of_templates() -> None:
    from unprompt.stages.templates.render import variables

    assert variables(
        Template.model_validate(
            "{% for e in examples %}{{ e.x }}{% endfor %}{{ b.c }} {{ a }} {{ range(2) }}"
        )
    ) == [
        "examples",
        "b",
        "a",
    ]
    chats = Template.model_validate(
        [
            {"role": "system", "content": "{{ z }}"},
            {"turns": "input.history"},
            {"role": "user", "content": "{{ z }}{{ q }}"},
        ]
    )
    assert variables(chats) == ["z", "history", "q"]


def talking(folder: Path, student: list[Any]) -> Path:
    """A run of a recipe whose inputs hold turns."""
    from conftest import byte_tokenizer, decoder

    decoder().save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    turns: list[Any] = [
        {"role": "user", "content": "red?"},
        {"role": "assistant", "content": "no"},
        {"role": "user", "content": "blue?"},
    ]
    words = tiny_recipe(folder / "model")
    words["contexts"]["colours"] |= {
        "inputs": [{"turns": turns, "text": "red", "who": "Ann", "answered": [*turns, turns[1]]}],
        "teacher": [{"role": "system", "content": "Be brief, and kind."}, *student],
        "student": student,
    }
    del words["evaluate"]
    unprompt.run(parse(words), folder / "run")
    return folder / "run"


@pytest.mark.parametrize(
    ("student", "first"),
    [
        ([{"turns": "turns"}], []),
        ([{"turns": "input.turns"}], []),
        ([{"turns": "answered[:-1]"}], []),
        ([{"turns": "turns"}, {"role": "user", "content": "{{ text }}"}], []),
        ([{"role": "system", "content": "{{ who }} asks."}, {"turns": "turns"}], ["Ann"]),
    ],
)
def test_it_holds_a_conversation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, student: list[Any], first: list[str]
) -> None:
    """Each line is the next turn, behind what was said; each system has its own conversation."""
    asked: list[tuple[str, Any]] = []
    render = Live.prompt

    def heard(self: Live, context: str, system: str, typed: Any) -> Any:
        made = render(self, context, system, typed)
        messages: Any = made.content
        asked.append((system, [tuple(m.values()) for m in messages]))
        return made

    folder = talking(tmp_path, student)
    monkeypatch.setattr(Live, "prompt", heard)
    out = io.StringIO()
    lines = ["hello", "/all", "and blue?", "/new", *first, "again", "/quit"]
    chat.chat(folder, "after", None, out, typing(*first, *lines))
    answers = [line.split(": ", 1)[1] for line in out.getvalue().splitlines() if "after: " in line]
    after = [turns for system, turns in asked if system == "after"]
    ahead = [("system", "Ann asks.")] if first else []
    assert after[0] == [*ahead, ("user", "hello")]
    assert after[1][: len(ahead) + 1] == after[0]
    assert after[1][len(ahead) + 1][0] == "assistant"
    assert visible(after[1][len(ahead) + 1][1]).startswith(visible(answers[0])[:3])
    assert after[1][-1] == ("user", "and blue?")
    assert after[2] == [*ahead, ("user", "again")], "another conversation"
    teacher = [turns for system, turns in asked if system == "teacher"]
    assert teacher[0] == [("system", "Be brief, and kind."), *ahead, ("user", "and blue?")]
    assert "JSON" not in out.getvalue()
    assert "/new begins another conversation" in out.getvalue()


def test_turns_that_are_not_plainly_a_conversation_are_typed_as_json(run: Path) -> None:
    live = Live(run)
    assert live.conversation("colours") is None, "it has no turns"
    context = live.recipe.contexts["colours"]
    for messages in (
        [{"turns": "turns"}, {"role": "user", "content": "{{ a }} {{ b }}"}],
        [{"turns": "turns"}, {"role": "assistant", "content": "{{ a }}"}],
        [{"turns": "turns"}, {"turns": "more"}],
        [{"turns": "turns[2:]"}],
    ):
        changed = context.model_copy(update={"student": Template.model_validate(messages)})
        live.recipe = live.recipe.model_copy(update={"contexts": {"colours": changed}})
        assert live.conversation("colours") is None, messages
