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
    assert variables(chats) == ["z", "input", "q"]
