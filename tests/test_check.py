"""What `check` knows before weights are loaded."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import unprompt
from conftest import byte_tokenizer, decoder
from unprompt import pipeline
from unprompt.engines import contents, models
from unprompt.messages import UserError
from unprompt.recipe import Model, Recipe
from unprompt.stages import check


def saved(folder: Path, tokenizer: Any = None, **changes: Any) -> str:
    decoder(**changes).save_pretrained(folder)
    (tokenizer or byte_tokenizer()).save_pretrained(folder)
    return str(folder)


def test_no_weights_are_loaded(
    tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(models, "load_weights", refuse)
    said = "\n".join(check.check(tiny()).lines)
    assert "8 inputs, 3 held out" in said
    assert (
        "window 512, vocabulary 259, no start token, end token '<|end|>' (1), chat template" in said
    )
    assert "overlap: none" in said
    assert "estimate: " in said


def test_overlap_is_counted(tiny: Callable[..., Recipe]) -> None:
    recipe = tiny(
        evaluate={"data": [{"text": "RED", "target": "x"}, {"text": "mauve", "target": "x"}]}
    )
    assert check.check(recipe).overlap["colours"]["held-out inputs among the training inputs"] == 1


def test_padded_vocabulary(tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    assert (
        "vocabulary 259, padded to 320"
        in check.check(tiny(model=saved(tmp_path / "padded", vocab_size=320))).lines[0]
    )
    with pytest.raises(UserError, match="in it, and the model has only 50 embeddings"):
        check.check(tiny(model=saved(tmp_path / "short", vocab_size=50)))


def test_a_chat_template_that_ends_an_answer_with_text_is_noted(
    tiny: Callable[..., Recipe], tmp_path: Path
) -> None:
    tokenizer = byte_tokenizer()
    assert isinstance(tokenizer.chat_template, str)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|end|>", "#")
    chat = {
        "inputs": [{"text": "red"}],
        "teacher": [{"role": "user", "content": "{{ text }}"}],
        "student": "{{ text }}",
    }
    good = check.check(tiny(contexts={"c": chat}))
    assert not any("ends an answer" in line for line in good.lines)
    bad = check.check(tiny(contexts={"c": chat}, model=saved(tmp_path / "bad", tokenizer)))
    assert any(
        "model's chat template ends an answer with '#', but the model stops at ['<|end|>']" in line
        for line in bad.lines
    )


def test_a_teacher_with_a_longer_window_than_the_student(
    tiny: Callable[..., Recipe], tmp_path: Path
) -> None:
    """The student can't read the teacher's prompt: that system is left out, and said so; nothing
    else changes.
    """
    teacher = saved(tmp_path / "teacher", seed=3, max_position_embeddings=512)
    student = saved(tmp_path / "student", max_position_embeddings=40)
    recipe = tiny(model=student, teacher_model=teacher)
    assert any(
        "the student is not asked with the teacher's prompt" in line and "window of 40" in line
        for line in check.check(recipe).lines
    )
    run = pipeline.run(recipe, tmp_path / "run")
    assert set(run.report["contexts"]["colours"]["systems"]) == {"teacher", "before", "after"}


def test_another_chat_template_of_the_teacher(tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    """Each engine renders with its own template; the shared prefix is each one's own too."""
    tokenizer = byte_tokenizer()
    assert isinstance(tokenizer.chat_template, str)
    tokenizer.chat_template = "A quite different beginning. " + tokenizer.chat_template
    turns = [
        {"role": "system", "content": "Say a colour."},
        {"role": "user", "content": "{{ text }}"},
    ]
    chat = {
        "inputs": [{"text": "red"}, {"text": "green"}],
        "teacher": turns,
        "student": "{{ text }}",
    }
    recipe = tiny(
        contexts={"colours": chat}, teacher_model=saved(tmp_path / "teacher", tokenizer, seed=3)
    )
    run = pipeline.run(recipe, tmp_path / "run")
    systems = run.report["contexts"]["colours"]["systems"]
    assert systems["teacher"]["prompt_tokens"] - systems["after_teacher_prompt"][
        "prompt_tokens"
    ] == pytest.approx(29)


def test_a_teacher_with_more_tokens_is_of_the_students_family(
    tiny: Callable[..., Recipe], tmp_path: Path
) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<|more|>"])
    found = check.check(tiny(teacher_model=saved(tmp_path / "teacher", tokenizer, vocab_size=260)))
    assert (
        "  labels are carried from teacher to student by id: 259 tokens shared, 1 only the"
        " teacher's; embeddings 260 and 259" in found.lines
    )


def test_an_end_token_that_is_set(tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    """What the note on the chat template tells to do: the model then stops there, and the note is
    gone.
    """
    tokenizer = byte_tokenizer()
    assert isinstance(tokenizer.chat_template, str)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|end|>", "<|begin|>")
    chat = {
        "inputs": [{"text": "red"}],
        "teacher": [{"role": "user", "content": "{{ text }}"}],
        "student": "{{ text }}",
    }
    model = {"name": saved(tmp_path / "model", tokenizer), "eos_token": "<|begin|>"}
    found = check.check(tiny(contexts={"c": chat}, model=model))
    assert found.prompts.readers.student.tokenizer.eos_token_id == 2
    assert not any("ends an answer" in line for line in found.lines)
    loaded = models.load_weights(Model.model_validate(model), "model")
    assert loaded.generation_config is not None
    assert loaded.generation_config.eos_token_id == [1, 2]
    with pytest.raises(
        UserError,
        match=(
            r"model\.eos_token: the tokenizer has no token '<stop>' -> its own end token is"
            r" '<\|end\|>'"
        ),
    ):
        check.check(tiny(contexts={"c": chat}, model={**model, "eos_token": "<stop>"}))


def test_the_estimate_counts_what_only_the_report_asks(tiny: Callable[..., Recipe]) -> None:
    """Each instruction of the prompt is left out in turn, over two of the held-out examples."""
    items = "".join(f"- rule {n}\n" for n in range(3))
    prompt = items + "{{ text }}:"
    colours = tiny().model_dump(mode="json")["contexts"]["colours"] | {"teacher": prompt}

    def read(**report: int) -> int:
        [line] = [
            line
            for line in check.check(tiny(contexts={"colours": colours}, report=report)).lines
            if line.startswith("estimate: ")
        ]
        found = re.search(r"([\d,]+) prompt tokens read", line)
        assert found
        return int(found[1].replace(",", ""))

    without = read(instructions=0)
    lengths = [len(items + f"{text}:") for text in ("grey", "violet")]  # a token a byte
    shared = len(items)  # which is read once, for each instruction
    assert read(instructions=2) == without + 3 * (shared + sum(lengths) - 2 * shared)
    assert read(instructions=0, self_agreement=1) > without


def test_a_gguf_file_is_told_by_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.gguf"
    model = Model(gguf=str(path))

    def holding(data: bytes, changed: int) -> str:
        path.write_bytes(data)
        os.utime(path, ns=(changed, changed))
        return models.identity(model, "model")

    one = bytes(range(256)) * 40
    for whole in (2**28, 0):  # read as a whole, and in pieces
        monkeypatch.setattr(contents, "_WHOLE", whole)
        monkeypatch.setattr(contents, "_PIECE", 64)
        first = holding(one, 1)
        assert holding(one, 2) == first, "a copy of it"
        for at in (0, len(one) // 2, len(one) - 1):
            other = bytearray(one)
            other[at] ^= 1
            assert holding(bytes(other), 3 + at) != first


@pytest.mark.parametrize("whole", [2**28, 0], ids=["small", "big"])
@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-1], lambda data: data + b"x", lambda data: b"g" + data[1:]],
    ids=["cut", "longer", "a letter"],
)
def test_another_gguf_file_than_the_recipes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes], whole: int
) -> None:
    monkeypatch.setattr(contents, "_WHOLE", whole)
    monkeypatch.setattr(contents, "_PIECE", 2)
    path, data = tmp_path / "model.gguf", b"GGUF" * 100
    model = Model(gguf=str(path), sha256=hashlib.sha256(data).hexdigest())
    path.write_bytes(data)
    assert models.identity(model, "model") == models.identity(Model(gguf=str(path)), "model")
    path.write_bytes(damage(data))
    with pytest.raises(UserError, match=r"model\.sha256 .*is not the one whose SHA-256"):
        models.identity(model, "model")
    with pytest.raises(UserError, match=r"model\.sha256"):
        models.load_tokenizer(model, "model")


def test_the_quickstarts_model_is_the_file_that_is_installed() -> None:
    recipe = unprompt.load(Path(__file__).parents[1] / "recipes" / "quickstart.yaml")
    assert recipe.model.sha256
    assert models.identity(recipe.model, "model").endswith(f":{recipe.model.sha256[:16]}")


@pytest.mark.parametrize(
    ("file", "decides"),
    [
        ("chat_template.jinja", True),
        ("tokenizer_config.json", True),
        ("vocab.txt", True),
        ("tokenizer.model", True),
        ("README.md", False),
    ],
)
def test_a_folder_is_told_by_what_decides_its_answers(
    tmp_path: Path, file: str, decides: bool
) -> None:
    (tmp_path / file).write_text("one")
    before = models.identity(Model(name=str(tmp_path)), "model")
    (tmp_path / file).write_text("another")
    assert (models.identity(Model(name=str(tmp_path)), "model") != before) == decides


def test_a_tokenizer_is_read_once_while_its_files_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who changes theirs changes nobody else's; a file that is another is read."""
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    decoder().config.save_pretrained(tmp_path)
    read, reads = models._from_pretrained, list[str]()

    def counted(kind: Any, *rest: Any, **more: Any) -> Any:
        reads.append(kind.__name__)
        return read(kind, *rest, **more)

    monkeypatch.setattr(models, "_from_pretrained", counted)
    model = Model(name=str(tmp_path))
    first = models.load_tokenizer(model, "model")
    first.add_tokens(["<mine>"])
    first.chat_template = "mine"
    second = models.load_tokenizer(model, "model")
    assert reads == ["AutoTokenizer"]
    assert "<mine>" not in second.get_vocab()
    assert second.chat_template == tokenizer.chat_template
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(tmp_path)
    assert "<new>" in models.load_tokenizer(model, "model").get_vocab()
    assert reads == ["AutoTokenizer"] * 2
