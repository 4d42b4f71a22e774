"""Hand-over: what is written is what was taught, and a broken file is told by its line."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from rich.console import Console

import unprompt
from conftest import byte_tokenizer, decoder, reads, tiny_recipe
from unprompt import cli, messages, pipeline
from unprompt.messages import UserError
from unprompt.recipe import Recipe, parse
from unprompt.records import Lesson, Prompt, SoftLabels
from unprompt.store.tables import read_completions
from unprompt.tools import transfer

USER, ANSWER = {"role": "user", "content": "red:"}, {"role": "assistant", "content": " a colour"}


def command(patch: pytest.MonkeyPatch, *arguments: str) -> str:
    said = io.StringIO()
    patch.setattr(messages, "console", Console(file=said))
    patch.setattr(sys, "argv", ["unprompt", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    return said.getvalue()


def rows(path: Path) -> list[list[dict[str, str]]]:
    return [json.loads(line)["messages"] for line in path.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def ending_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that ends its answer at every token with a probability of about 0.3 (the first hidden
    number is the same large one everywhere).
    """
    folder, model = tmp_path_factory.mktemp("ending"), decoder()
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 1000.0
        model.lm_head.weight[:, 0] = 0.0
        model.lm_head.weight[1, 0] = 0.83
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def recipe(
    folder: Path, rounds: dict[str, Any] | None = None, weight: float = 1, **parts: Any
) -> Recipe:
    words = tiny_recipe(folder)
    words["contexts"]["colours"] |= parts
    if weight != 1:  # beside another context, since alone it changes nothing
        words["contexts"]["heavy"] = {**words["contexts"]["colours"], "weight": 1 / weight}
    return parse(
        words
        | {
            "lessons": {"max_failed": 0.9},
            "train": {"epochs": 1, "batch_size": 4, "adapter": {"rank": 4}},
            "rounds": rounds or {},
        }
    )


def told(run: pipeline.Run) -> dict[str, tuple[int, ...]]:
    """What the teacher answered to each training input, the end token left out."""
    found = [
        c
        for store in sorted((run.folder / "completions").glob("*"))
        for c in read_completions(store).values()
    ]
    return {
        c.example_id: c.token_ids[:-1]
        for c in found
        if c.example_id.startswith("i") and c.stop == "end"
    }


def test_the_transfer_set_is_what_was_taught(
    ending_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that were cut are left out and counted; `datasets` reads the file as it is, in the
    shape of TRL's conversational examples.
    """
    run, tokenizer = unprompt.run(recipe(ending_folder), tmp_path / "run"), byte_tokenizer()
    said, file = command(monkeypatch, "transfer", str(run.folder)), run.folder / "transfer.jsonl"
    texts = {
        row["id"]: row["text"]
        for row in tiny_recipe(ending_folder)["contexts"]["colours"]["inputs"]
    }
    finished = [
        lesson.example_id
        for lesson in run.lessons()
        if lesson.input_ids[-1] == tokenizer.eos_token_id
    ]
    assert 0 < len(finished) < len(run.lessons()), "the test proves nothing"
    assert rows(file) == [
        [
            {"role": "user", "content": f"{texts[id_]}:"},
            {"role": "assistant", "content": tokenizer.decode(list(told(run)[id_]))},
        ]
        for id_ in finished
    ]
    assert f"{len(finished)} examples, {len(finished)} different prompts" in said
    assert (
        f"note: {len(run.lessons()) - len(finished)} lessons are left out: max_new_tokens cut their"
        " answers" in said
    )
    loaded: Any = datasets.load_dataset(
        "json", data_files=str(file), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded.column_names == ["messages"]
    assert [row["messages"] for row in loaded] == rows(file)
    checked = command(monkeypatch, "transfer", "--check", str(file), "--model", str(ending_folder))
    assert "transfer.jsonl is in order" in checked
    asked = [
        tokenizer.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
        for chat in rows(file)
    ]
    tokens = [
        sum(len(tokenizer(str(text)).input_ids) for text in texts)
        for texts in (asked, [chat[1]["content"] for chat in rows(file)])
    ]
    assert (
        f"tokens: {sum(tokens):,} ({tokens[0]:,} in prompts, {tokens[1]:,} in answers); longest"
        " example: " in checked
    )
    assert str(tmp_path) not in file.read_text()


def test_a_round_and_a_file_of_ones_choice(
    ending_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chat templates keep their roles; an answer that the prompt begins goes on in that message;
    weights are said to be left out.
    """
    student = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "{{ text }}"},
        {"role": "assistant", "content": "It is"},
    ]
    made = recipe(
        ending_folder,
        {"one": {"contexts": ["colours", "heavy"]}, "two": {"contexts": ["colours", "heavy"]}},
        weight=0.5,
        student=student,
    )
    run = unprompt.run(made, tmp_path / "run")
    said = command(
        monkeypatch,
        "transfer",
        str(run.folder),
        "--round",
        "one",
        "--out",
        str(tmp_path / "chats.jsonl"),
    )
    for chat in rows(tmp_path / "chats.jsonl"):
        assert [message["role"] for message in chat] == ["system", "user", "assistant"]
        assert chat[0]["content"] == "Be brief."
        assert chat[2]["content"].startswith("It is")
        assert len(chat[2]["content"]) > len("It is")
    assert (
        f"note: the weights of {len(rows(tmp_path / 'chats.jsonl'))} lessons are not in the file"
        in said
    )
    with pytest.raises(UserError, match="there is a file of this name already"):
        transfer.hand_over(run.folder, "one", tmp_path / "chats.jsonl")
    with pytest.raises(UserError, match="there is no round 'three' -> there are: one, two"):
        transfer.hand_over(run.folder, "three", None)
    transfer.hand_over(run.folder, None, None)
    assert rows(run.folder / "rounds" / "two" / "transfer.jsonl") == rows(tmp_path / "chats.jsonl")


def test_several_answers_to_an_input_and_a_round_that_ends_none(
    ending_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Completions have ids of their own (`a/2`); whether lessons end with the end token is the
    round's word, not the recipe's.
    """
    rounds = {
        "ends": {"contexts": ["colours"]},
        "goes_on": {
            "contexts": ["colours"],
            "start": "base",
            "lessons": {"max_failed": 0.9, "end_token": False},
        },
    }
    words = recipe(ending_folder, rounds).model_dump(mode="json", by_alias=True)
    words["sampling"] |= {"per_input": 2, "temperature": 1.0}
    run = unprompt.run(parse(words), tmp_path / "run")
    counts = {name: len(run.lessons(name)) for name in rounds}
    assert counts["ends"] > len(words["contexts"]["colours"]["inputs"]["rows"]), (
        "several answers to one input, or the test proves nothing"
    )
    for name in rounds:
        said = command(monkeypatch, "transfer", str(run.folder), "--round", name)
        written = rows(run.folder / "rounds" / name / "transfer.jsonl")
        assert f"{len(written)} examples" in said
        assert (
            len(written) == counts[name] if name == "goes_on" else 0 < len(written) <= counts[name]
        )


def test_a_lesson_that_no_chat_can_hold_is_refused() -> None:
    """One with a weight of 0 behind the prompt (a shot), or of another prompt than the student's is
    now.
    """
    tokenizer = byte_tokenizer()
    ids = tuple(tokenizer("ab").input_ids)

    def lesson(weights: Sequence[float]) -> Lesson:
        return Lesson(
            "x", "c", (*ids, 70, 1), 2, np.array(weights, np.float32), SoftLabels.hard([70, 1])
        )

    asked = {("c", "x"): Prompt("x", "c", "ab")}
    assert transfer.export(
        [lesson([0, 0, 1, 1])], asked, reads(tokenizer), end_token=True
    ).chats == [
        (
            {"role": "user", "content": "ab"},
            {"role": "assistant", "content": tokenizer.decode([70])},
        )
    ]
    for broken, prompts in (
        ([0, 0, 0, 1], asked),
        ([0, 0, 1, 1], {("c", "x"): Prompt("x", "c", "abc")}),
        ([0, 0, 1, 1], {}),
    ):
        with pytest.raises(
            UserError,
            match=(
                "the lesson of input 'x' is not the student's prompt as it is now, and one answer"
            ),
        ):
            transfer.export([lesson(broken)], prompts, reads(tokenizer), end_token=True)


def test_counts() -> None:
    other = {"role": "assistant", "content": " no colour"}
    chats = [
        (USER, ANSWER),
        (USER, other),
        (USER, ANSWER),
        ({"role": "user", "content": "blue:"}, ANSWER),
        (USER, ANSWER, USER, ANSWER),
    ]
    assert transfer.validate(transfer.to_lines(chats), "f") == chats
    assert transfer.summary(chats, None) == [
        "5 examples, 3 different prompts",
        "note: 1 prompts have several different answers (3 examples)",
        "note: 1 examples are there already, prompt and answer",
        (
            "note: 1 examples have earlier answers in them; tell the trainer to learn only the"
            " last one"
        ),
    ]
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    assert (
        transfer.summary(chats[:1], tokenizer)[-1]
        == "tokens: 13 (4 in prompts, 9 in answers); longest example: 13 in line 1"
    )


def chat(*messages: Any, **keys: Any) -> str:
    return json.dumps({"messages": list(messages), **keys}) + "\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{\n", "f:2: not JSON: Expecting property name"),
        ("\n", "f:2: not JSON: Expecting value"),
        ("[1]\n", "f:2: there is no list 'messages'"),
        (json.dumps({"prompt": "a", "completion": "b"}) + "\n", "f:2: there is no list 'messages'"),
        (chat(), "f:2: there is no list 'messages'"),
        (chat(USER, ANSWER, id="7"), "f:2: unknown key 'id'"),
        (chat(USER, "a"), "f:2: message 2 has not just role and content"),
        (chat(USER, {**ANSWER, "weight": 0}), "f:2: message 2 has not just role and content"),
        (
            chat(USER, {"role": "bot", "content": "a"}),
            "f:2: message 2 has the unknown role 'bot' -> use one of system",
        ),
        (
            chat(USER, {"role": "assistant", "content": [{"type": "text", "text": "a"}]}),
            "f:2: the content of message 2 is not text",
        ),
        (
            chat(USER, {"role": "assistant", "content": None}),
            "f:2: the content of message 2 is not text",
        ),
        (
            chat(USER, {"role": "assistant", "content": " \n"}),
            "f:2: the content of message 2 (assistant) is empty",
        ),
        (
            chat(USER, {"role": "assistant", "content": "\ud83d"}),
            "f:2: the content of message 2 holds half a character",
        ),
        (chat(USER), "f:2: the last message is the user's"),
        (chat(ANSWER), "f:2: message 1 is the assistant's and stands first"),
        (chat(USER, USER, ANSWER), "f:2: message 2 is the user's and stands behind user"),
        (
            chat(USER, {"role": "system", "content": "a"}, ANSWER),
            "f:2: message 2 is the system's and stands behind user",
        ),
    ],
)
def test_a_broken_line_is_named(line: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        transfer.validate(chat(USER, ANSWER) + line + chat(USER, ANSWER), "f")
    assert str(error.value).startswith(said)


def test_signs_that_only_look_like_line_ends_stay_in_their_line() -> None:
    chats = [(USER, {"role": "assistant", "content": "one\u2028two\x85three\nfour\r"})]
    assert transfer.validate(transfer.to_lines(chats).replace("\n", "\r\n"), "f") == chats
