"""The likely mistakes of a new user: each gives one line that says where, what and how to mend it,
and nothing is lost.

`MISTAKES` makes each of them through the command line. docs/FAQ.md explains them; the last tests
hold the two together.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import logging
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

from conftest import byte_tokenizer, decoder, seq2seq, tiny_recipe
from unprompt import cli, messages
from unprompt.engines.hf.engine import HFEngine
from unprompt.metrics import entities
from unprompt.stages.train.loop import LessonTrainer
from unprompt.store.folder import RunDir

FAQ = Path(__file__).parents[1] / "docs" / "FAQ.md"


class Bench:
    """A new user's desk: a folder, a tiny model, and the command line."""

    def __init__(self, folder: Path, model: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.model, self.patch = folder, model, patch
        self.asked: list[str] = []
        """Ids of the training inputs that a model was asked, over all commands."""
        answer = HFEngine.generate

        def counting(engine: HFEngine, prompts: Any, *rest: Any, **options: Any) -> Any:
            self.asked += [p.example_id for p in prompts if p.example_id.startswith("i")]
            return answer(engine, prompts, *rest, **options)

        patch.setattr(HFEngine, "generate", counting)
        patch.setattr(messages, "console", Console(file=io.StringIO()))
        patch.setattr(sys, "path", [*sys.path])
        patch.chdir(folder)

    def file(self, name: str, content: str | bytes) -> str:
        (self.folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return name

    def recipe(self, **sections: Any) -> str:
        """recipe.yaml: the tiny recipe with other sections; None takes one out."""
        words = {
            key: value
            for key, value in (tiny_recipe(self.model) | sections).items()
            if value is not None
        }
        return self.file("recipe.yaml", yaml.safe_dump(words))

    def context(self, **parts: Any) -> str:
        """recipe.yaml with other parts in its context."""
        words = tiny_recipe(self.model)["contexts"]["colours"] | parts
        return self.recipe(
            contexts={"colours": {key: value for key, value in words.items() if value is not None}}
        )

    def command(self, *arguments: str) -> tuple[int, list[str]]:
        """Exit code and lines on stderr, transformers' notes among them; our progress left out."""
        said = io.StringIO()
        notes = logging.StreamHandler(said)  # transformers' own handler holds on to another stderr
        self.patch.setattr(sys, "argv", ["unprompt", *arguments])
        logging.getLogger("transformers").addHandler(notes)
        try:
            with (
                contextlib.redirect_stderr(said),
                contextlib.redirect_stdout(io.StringIO()),
                pytest.raises(SystemExit) as end,
            ):
                cli.main()
        finally:
            logging.getLogger("transformers").removeHandler(notes)
        return int(end.value.code or 0), said.getvalue().splitlines()

    def fails(self, *arguments: str) -> str:
        """The one line that a mistake gives."""
        code, lines = self.command(*arguments)
        assert code == 2
        assert len(lines) == 1, lines
        return lines[0]

    def works(self, *arguments: str) -> None:
        assert self.command(*arguments) == (0, [])

    def inputs(self, name: str, content: str | bytes) -> str:
        """What `check` says to a recipe with these inputs."""
        return self.fails("check", self.context(inputs=self.file(name, content)))

    def parts(self) -> dict[str, int]:
        """Files of completions, and when they were written."""
        return {
            str(path): path.stat().st_mtime_ns
            for path in self.folder.glob("out/completions/*/part-*.parquet")
        }

    def goes_on(self, *arguments: str, asking: int = 0) -> None:
        """The same command works now, keeps all completions that are there, and asks only for those
        that are not.
        """
        kept, before = self.parts(), len(self.asked)
        assert kept
        self.works("run", *arguments, "--out", "out")
        assert len(self.asked) == before + asking
        assert self.parts().items() >= kept.items()
        assert (self.folder / "out" / "report.json").is_file()


def rows(count: int, at: int | None = None, instead: str = "") -> str:
    lines = [f'{{"id": "i{n}", "text": "colour {n}"}}' for n in range(1, count + 1)]
    if at:
        lines[at - 1] = instead
    return "\n".join(lines) + "\n"


# -- mistakes that take more than a line -----------------------------------------------------------


def another_model(b: Bench, folder: str) -> Path:
    shutil.copytree(b.model, b.folder / folder)
    return b.folder / folder


def no_chat_template(b: Bench) -> str:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    decoder().config.save_pretrained(b.folder / "base")
    tokenizer.save_pretrained(b.folder / "base")
    return b.fails(
        "check",
        b.context(teacher=[{"role": "user", "content": "{{ text }}"}]),
        "--set",
        "model=./base",
    )


def over_the_window(b: Bench) -> str:
    """The prompt is named, and the tokenizer's own warning does not get in between."""
    tokenizer = byte_tokenizer()
    tokenizer.model_max_length = 512
    tokenizer.save_pretrained(another_model(b, "short"))
    inputs = [{"id": "a", "text": "red"}, {"id": "b", "text": "red " * 200}]
    return b.fails("check", b.context(inputs=inputs), "--set", "model=./short")


def broken_weights(b: Bench) -> str:
    (another_model(b, "pointer") / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n"
    )
    return b.fails("run", b.recipe(model="./pointer"), "--out", "out")


def without_datasets(b: Bench) -> str:
    b.patch.setitem(sys.modules, "datasets", None)
    return b.fails("check", b.context(inputs={"hub": "someone/colours"}))


def rule_fails(b: Bench) -> str:
    b.file("failing_rule.py", "def make():\n    yield {'text': 1 / 0}\n")
    return b.fails("check", b.context(inputs={"rule": "failing_rule:make"}))


def never_matching(b: Bench) -> str:
    """Stops ahead of training. With the extractor mended, the teacher is not asked again."""
    line = b.fails("run", b.context(extract={"after": "Final answer:"}), "--out", "out")
    assert sorted(b.asked) == [f"i{n}" for n in range(8)]
    assert not (b.folder / "out" / "lessons.parquet").exists()
    b.goes_on(b.context(extract="whole"))
    return line


def disk_full(b: Bench) -> str:
    """The disk fills up in the second part: the first is kept."""
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name.startswith(".part-") and b.parts():
            write(path, b"PAR1")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        line = b.fails("run", b.recipe(), "--out", "out")
    assert len(b.asked) == 8
    assert len(b.parts()) == 1
    b.goes_on("recipe.yaml", asking=4)
    return line


def disk_full_in_training(b: Bench) -> str:
    """A checkpoint that can't be written whole (a real limit on files, since torch and safetensors
    word this in their own ways).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (24_000, hard))
    try:
        line = b.fails("run", b.recipe(), "--out", "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    b.goes_on("recipe.yaml")
    return line


def memory_full(b: Bench) -> str:
    return _out_of_memory(b, HFEngine, "_sequences")


def gpu_full_in_training(b: Bench) -> str:
    line = _out_of_memory(b, LessonTrainer, "compute_loss")
    b.goes_on("recipe.yaml", "--set", "train.micro_batch_size=2")
    return line


def _out_of_memory(b: Bench, owner: type, method: str) -> str:
    def refuse(*rest: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, method, refuse)
        return b.fails("run", b.recipe(), "--out", "out")


def not_writable(b: Bench) -> str:
    def refuse(path: Path, *rest: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    recipe = b.recipe()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        return b.fails("run", recipe, "--out", "out")


def locked(b: Bench) -> str:
    (b.folder / "out").mkdir()
    with (b.folder / "out" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return b.fails("run", b.recipe(), "--out", "out")


def unknown_id(b: Bench) -> str:
    (b.folder / "out").mkdir()
    (b.folder / b.recipe()).rename(b.folder / "out" / "recipe.yaml")
    return b.fails("show", "out", "i99")


def another_tokenizer(b: Bench) -> str:
    """A teacher to whom every byte has another id."""
    words = json.loads(byte_tokenizer().backend_tokenizer.to_str())
    letters = words["model"]["vocab"]
    words["model"]["vocab"] = {
        letter: id_ if id_ < 3 else 261 - id_ for letter, id_ in letters.items()
    }
    byte_tokenizer().save_pretrained(another_model(b, "other"))
    (b.folder / "other" / "tokenizer.json").write_text(json.dumps(words))
    return b.fails("check", b.recipe(teacher_model="./other"))


def token_beyond(b: Bench) -> str:
    """A teacher that says padding. Its answers are kept."""
    decoder(seed=1, vocab_size=400).save_pretrained(b.folder / "padded")
    byte_tokenizer().save_pretrained(b.folder / "padded")
    line = b.fails("run", b.recipe(teacher_model="./padded"), "--out", "out")
    assert b.parts()
    assert not (b.folder / "out" / "student").exists()
    return line


def recipe_alone(b: Bench, *arguments: str) -> str:
    (b.folder / "out").mkdir()
    (b.folder / b.recipe()).rename(b.folder / "out" / "recipe.yaml")
    return b.fails("transfer", "out", *arguments)


def all_cut(b: Bench) -> str:
    b.works(
        "run", b.recipe(sampling={"max_new_tokens": 1}, lessons={"max_failed": 1.0}), "--out", "out"
    )
    return b.fails("transfer", "out")


def another_prompt_since(b: Bench) -> str:
    b.works("run", b.recipe(lessons={"end_token": False}), "--out", "out")
    files = RunDir(b.folder / "out")
    written = files.recipe.read_text()
    other = written.replace("student: '{{ text }}:'", "student: 'Colour {{ text }}:'")
    files.keep("recipe.yaml", other)
    line = b.fails("transfer", "out")
    assert not (b.folder / "out" / "transfer.jsonl").exists()
    return line


LOOK = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
ASKED = {"messages": [{"role": "user", "content": "{{ text }}"}]}


def held_to(b: Bench, **schema: Any) -> str:
    """A recipe whose answers are held to a schema."""
    data = [{"id": "h0", "text": "grey"}]
    return b.recipe(evaluate={"data": data, "metrics": ["json_schema"], **schema})


def turned(b: Bench, turn: dict[str, Any]) -> str:
    """A recipe whose teacher sees this turn of its input."""
    rows = [{"id": "i0", "turns": [turn]}]
    return b.fails("check", b.context(inputs=rows, teacher=[{"turns": "turns"}], student="Say it."))


def chats(b: Bench, *turns: Any, **keys: Any) -> str:
    """What `transfer --check` says to a file whose second line is this."""
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    lines = [
        json.dumps(good),
        json.dumps(
            {
                "messages": [
                    dict(zip(("role", "content"), message, strict=False)) for message in turns
                ],
                **keys,
            }
        ),
    ]
    return b.fails("transfer", "--check", b.file("chats.jsonl", "\n".join(lines) + "\n"))


def changed_prompt(b: Bench) -> str:
    b.file("prompt.md", "Name the colour of {text}.")
    b.works("init", "prompt.md", "--out", "made/recipe.yaml")
    b.file("prompt.md", "Name the shape of {text}.")
    return b.fails("distill", "prompt.md", "--out", "made")


def other_model(b: Bench) -> str:
    b.works("init", b.file("prompt.md", "Name the colour of {text}."), "--out", "made/recipe.yaml")
    return b.fails("distill", "prompt.md", "--model", "other", "--out", "made")


def recipe_there(b: Bench) -> str:
    b.file("prompt.txt", "Name the colour of {{ text }}.")
    b.works("init", "prompt.txt")
    before = (b.folder / "recipe.yaml").read_text()
    line = b.fails("init", "prompt.txt")
    assert (b.folder / "recipe.yaml").read_text() == before
    return line


def missing_package(b: Bench, package: str, *arguments: str) -> str:
    entities._pipeline.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, package, None)
        return b.fails(*arguments)


def tuning(b: Bench, **parts: Any) -> str:
    """What `tune` says to a recipe with these parts in its tune section."""
    split = [{"id": "t1", "text": "teal", "target": "x"}]
    section = {
        "context": "colours",
        "data": split,
        "settings": {"sampling.temperature": [0, 1]},
    } | parts
    line = b.fails(
        "tune",
        b.recipe(tune={key: value for key, value in section.items() if value is not None}),
        "--out",
        "out",
    )
    assert b.asked == []
    return line


def filter_keeps_nothing(b: Bench) -> str:
    """Stops ahead of training; with a filter that lets something through, the teacher is not asked
    again.
    """
    inputs = [
        {"id": f"i{n}", "text": text, "target": "no such answer"}
        for n, text in enumerate(["red", "green", "blue", "pink"] * 2)
    ]
    line = b.fails("run", b.context(inputs=inputs, filter={}), "--out", "out")
    assert not (b.folder / "out" / "lessons.parquet").exists()
    b.goes_on(b.context(inputs=inputs))
    return line


def behind_shots(b: Bench, student: Any = "{{ text }}:", **settings: Any) -> str:
    pool = [
        {"text": "grey", "target": "x"},
        {"text": "rust", "target": "x"},
        {"text": "sand", "target": "x"},
    ]
    shots = {"pool": pool, "counts": [0, 2], "answer": "{{ target }}", **settings}
    return b.fails(
        "check",
        b.context(student=student),
        "--set",
        f"evaluate.shots={yaml.safe_dump(shots, default_flow_style=True)}",
    )


def shots_for_seq2seq(b: Bench) -> str:
    seq2seq().config.save_pretrained(b.folder / "t5")
    byte_tokenizer().save_pretrained(b.folder / "t5")
    return b.fails("check", b.recipe(), "--set", "model=./t5", "--set", "lessons.kind=shots")


Mistake = tuple[Callable[[Bench], str], str, str, str]
"""What makes it, and what its line says: where, what, how to mend it."""


def priced(b: Bench, table: Any = None, **settings: Any) -> str:
    """What `check` says to this price table."""
    if table is not None:
        settings["prices"] = b.file("prices.yaml", yaml.safe_dump(table))
    return b.fails(
        "check",
        b.recipe(
            cost={"teacher": "example-big", "student": "example-small", "dollars_per_hour": 1}
            | settings
        ),
    )


def ratings(
    b: Bench,
    *values: Any,
    lines: str = "",
    header: str = "id,response,rating,rater",
    files: int = 1,
) -> str:
    """What `rate --read` says to a sheet of three rows, filled in so; more lines may follow."""
    rows = {
        f"r{n}": {
            "context": "c",
            "example_id": "h",
            "system": "after",
            "group": None,
            "input": "?",
            "response": f"text {n}",
        }
        for n in range(3)
    }
    (b.folder / "out").mkdir(exist_ok=True)
    b.file("out/rating_key.json", json.dumps({"low": 0, "high": 6, "rows": rows}))
    sheet = [header, *(f"r{n},text {n},{value},ann" for n, value in enumerate(values)), lines]
    named = [b.file(f"sheet{n}.csv", "\n".join(sheet)) for n in range(files)]
    return b.fails("rate", "out", *(part for name in named for part in ("--read", name)))


def ratings_lost(b: Bench) -> str:
    (b.folder / "out").mkdir()
    b.file("out/ratings.json", json.dumps({"raters": {"bob": 3}}))
    return ratings(b, 1, 2, 3)


def sheet_again(b: Bench, *options: str) -> str:
    b.works("run", b.recipe(), "--out", "out")
    b.works("rate", "out")
    return b.fails("rate", "out", *options)


SAMPLE = {"seeds": [{"text": "red"}], "template": "{{ examples }}", "count": 8}
ONE = {"teacher": "Say {{ text }}", "student": "{{ text }}"}
ONE_INPUT = {"one": ONE | {"inputs": [{"text": "red"}]}}
WITHOUT_INPUTS = {
    "one": ONE | {"inputs": [{"text": "red"}], "evaluate": False},
    "proven": {"student": "{{ text }}"},
}
ANSWERED = [
    {"role": "user", "content": "{{ text }}"},
    {"role": "assistant", "content": "it is {{ text }}"},
]
GOLD = [{"text": f"t {n}", "target": "red"} for n in range(5)]
MISTAKES: dict[str, Mistake] = {
    # the recipe
    "misspelt key": (
        lambda b: b.fails("check", b.recipe(contxts={})),
        "recipe.yaml",
        "unknown key 'contxts'",
        "did you mean 'contexts'?",
    ),
    "misspelt key in train": (
        lambda b: b.fails("check", b.recipe(train={"learning_rte": 1e-3})),
        "recipe.yaml",
        "unknown key 'train.learning_rte'",
        "did you mean 'learning_rate'?",
    ),
    "misspelt key in a context": (
        lambda b: b.fails("check", b.context(techer="{{ text }}")),
        "recipe.yaml",
        "unknown key 'contexts.colours.techer'",
        "did you mean 'teacher'?",
    ),
    "misspelt key in a context that is called like a key": (
        lambda b: b.fails(
            "check",
            b.recipe(
                contexts={
                    "teacher": {
                        "inputs": [{"text": "a"}],
                        "teacher": "a",
                        "student": "b",
                        "extrct": "whole",
                    }
                }
            ),
        ),
        "recipe.yaml",
        "unknown key 'contexts.teacher.extrct'",
        "did you mean 'extract'?",
    ),
    "key of another tool": (
        lambda b: b.fails("check", b.recipe(optimizer="adam")),
        "recipe.yaml",
        "unknown key 'optimizer'",
        "valid keys: name, model, teacher_model",
    ),
    "key twice": (
        lambda b: b.fails("check", b.file("recipe.yaml", "name: a\nseed: 1\nmodel: b\nseed: 2\n")),
        "recipe.yaml:4",
        "the key 'seed' stands twice",
        "mend that line",
    ),
    "missing section": (
        lambda b: b.fails("check", b.recipe(contexts=None)),
        "recipe.yaml",
        "'contexts' is missing",
        "add it",
    ),
    "wrong type": (
        lambda b: b.fails("check", b.recipe(train={"epochs": "many"})),
        "recipe.yaml",
        "'train.epochs': Input should be a valid number",
        "mend the value",
    ),
    "broken micro-batch": (
        lambda b: b.fails("check", b.recipe(train={"batch_size": 16, "micro_batch_size": 3})),
        "recipe.yaml",
        "'train': batch_size 16 is not a multiple of micro_batch_size 3",
        "mend the value",
    ),
    "no recipe": (
        lambda b: b.fails("run", "recpie.yaml"),
        "recpie.yaml",
        "there is no such recipe",
        "give the path of a YAML recipe",
    ),
    "broken YAML": (
        lambda b: b.fails("check", b.file("recipe.yaml", "name: a\nmodel: b\ncontexts: {c: [\n")),
        "recipe.yaml:4",
        "not YAML",
        "mend that line",
    ),
    "not a mapping": (
        lambda b: b.fails("check", b.file("recipe.yaml", "- a\n- b\n")),
        "recipe.yaml",
        "a recipe is a mapping",
        "unprompt init",
    ),
    "recipe not UTF-8": (
        lambda b: b.fails("check", b.file("recipe.yaml", "name: gr\xfcn".encode("latin-1"))),
        "recipe.yaml",
        "not UTF-8 text",
        "save it as UTF-8",
    ),
    "--set without a value": (
        lambda b: b.fails("check", b.recipe(), "--set", "train.epochs"),
        "--set",
        "key=value, not 'train.epochs'",
        "--set train.epochs=3",
    ),
    "--set into a value": (
        lambda b: b.fails("check", b.recipe(), "--set", "model.dtype=float32"),
        "--set model.dtype=float32",
        "'model' is not a section",
        "as a whole",
    ),
    "trainer argument": (
        lambda b: b.fails("check", b.recipe(train={"trainer": {"warmup_ratoi": 0.1}})),
        "train.trainer",
        "'warmup_ratoi'",
        "use arguments of transformers.TrainingArguments",
    ),
    "trainer argument with a field": (
        lambda b: b.fails("check", b.recipe(train={"trainer": {"weight_decay": "1e-2"}})),
        "recipe.yaml",
        "'train.trainer': weight_decay has a field of its own",
        "write train.weight_decay",
    ),
    "trainer argument without effect": (
        lambda b: b.fails("check", b.recipe(train={"trainer": {"label_smoothing_factor": 0.1}})),
        "recipe.yaml",
        "'train.trainer': label_smoothing_factor has no effect: the loss is Unprompt's own",
        "leave it out",
    ),
    "rule not there": (
        lambda b: b.fails("check", b.context(inputs={"rule": "colours_rule:make"})),
        "contexts.colours.inputs",
        "'colours_rule:make' can't be imported: ModuleNotFoundError",
        "beside the recipe",
    ),
    "rule fails": (
        rule_fails,
        "contexts.colours.inputs (failing_rule:make)",
        "the rule failed: ZeroDivisionError: division by zero",
        "mend the function",
    ),
    "unknown metric": (
        lambda b: b.fails("check", b.recipe(), "--set", "evaluate.metrics=[acuracy]"),
        "evaluate.metrics",
        "there is no metric 'acuracy'",
        "did you mean 'accuracy'?",
    ),
    # the prompt library, conversations, entities, tuning
    "unknown task": (
        lambda b: b.fails("check", b.context(library="nil")),
        "recipe.yaml",
        "contexts.colours.library: the library has no task 'nil'",
        "did you mean 'nli'?",
    ),
    "unknown task to print": (
        lambda b: b.fails("library", "sumarise"),
        "unprompt library",
        "the library has no task 'sumarise'",
        "did you mean 'summarise'?",
    ),
    "unknown field of a task": (
        lambda b: b.fails("check", b.context(library={"task": "nli", "fields": {"premis": "a"}})),
        "recipe.yaml",
        "contexts.colours.library: the library's task 'nli' has no field 'premis'",
        "it has: premise, hypothesis",
    ),
    "message without content": (
        lambda b: b.fails("check", b.context(teacher=[{"role": "user"}])),
        "recipe.yaml",
        "a message has a role and a content, or stands for turns",
        "{turns: field}",
    ),
    "turns that are a text": (
        lambda b: b.fails("check", b.context(teacher=[{"turns": "text"}])),
        "contexts.colours.teacher.turns",
        "'text' of input 'i0' is no list of turns: it is str",
        'write [{"role": "user"',
    ),
    "turns with thoughts": (
        lambda b: turned(b, {"role": "assistant", "content": "21", "reasoning_content": "warm"}),
        "contexts.colours.teacher.turns",
        "turn 1 of input 'i0' has reasoning_content",
        "take that out of the data",
    ),
    "turns with a picture": (
        lambda b: turned(b, {"role": "user", "content": [{"type": "image_url"}]}),
        "contexts.colours.teacher.turns",
        "the content of turn 1 of input 'i0' has a part that is no text (image_url)",
        "leave that input out",
    ),
    "a tool's id that is no text": (
        lambda b: turned(b, {"role": "tool", "content": "21", "tool_call_id": 7}),
        "contexts.colours.teacher.turns",
        "the tool_call_id of turn 1 of input 'i0' is '7', no text",
        "write it as text",
    ),
    "a user that calls": (
        lambda b: turned(b, {"role": "user", "content": "21", "tool_calls": [{"name": "look"}]}),
        "contexts.colours.teacher.turns",
        "turn 1 of input 'i0' has tool_calls, and is the user's",
        "only the assistant calls",
    ),
    "a call without a name": (
        lambda b: turned(b, {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}),
        "contexts.colours.teacher.turns",
        "a call of turn 1 of input 'i0' names no function",
        'write {"name": ..., "arguments": {...}}',
    ),
    "a call whose arguments are no JSON": (
        lambda b: turned(
            b,
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"name": "look", "arguments": "{at"}],
            },
        ),
        "contexts.colours.teacher.turns",
        "the arguments of look in turn 1 of input 'i0' are no JSON: '{at'",
        "mend or leave out that input",
    ),
    "a call whose arguments are a list": (
        lambda b: turned(
            b,
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"name": "look", "arguments": [1]}],
            },
        ),
        "contexts.colours.teacher.turns",
        "the arguments of look in turn 1 of input 'i0' are no object: '[1]'",
        'write {"name": ..., "arguments": {...}}',
    ),
    "tools that are a text": (
        lambda b: b.fails("check", b.context(teacher={**ASKED, "tools": "text"})),
        "contexts.colours.teacher.tools",
        "the tools of input 'i0' are no list",
        "write a list of JSON schemas",
    ),
    "tools that are no schema": (
        lambda b: b.fails("check", b.context(teacher={**ASKED, "tools": [{"type": "function"}]})),
        "contexts.colours.teacher.tools",
        "tool 1 of input 'i0' is no schema",
        'write {"type": "function"',
    ),
    "tools in a text": (
        lambda b: b.fails("check", b.context(teacher={"text": "{{ text }}", "tools": LOOK})),
        "recipe.yaml",
        "tools are for a chat template, and this is a text",
        "write messages",
    ),
    "a part of a message that is no text": (
        lambda b: b.fails(
            "check", b.context(teacher=[{"role": "user", "content": [{"type": "image"}]}])
        ),
        "recipe.yaml",
        "a part of a content is {type: text, text: ...}",
        "write a text",
    ),
    "tools in a file that is not there": (
        lambda b: b.fails("check", b.context(teacher={**ASKED, "tools": {"file": "tools.json"}})),
        "recipe.yaml",
        "tools.json can't be read (No such file or directory)",
        "mend the path",
    ),
    "tools in a file that is no JSON": (
        lambda b: (
            b.file("tools.json", "[{"),
            b.fails("check", b.context(teacher={**ASKED, "tools": {"file": "tools.json"}})),
        )[1],
        "recipe.yaml",
        "tools.json is no JSON",
        "mend that file",
    ),
    "json_schema without a schema": (
        lambda b: b.fails("check", held_to(b)),
        "evaluate.schema",
        "json_schema holds answers to a schema, and there is none",
        "write it",
    ),
    "a schema that is none": (
        lambda b: b.fails("check", held_to(b, schema={"type": "objekt"})),
        "evaluate.schema",
        "this is no JSON schema: 'objekt'",
        "mend it",
    ),
    "a schema that names another": (
        lambda b: b.fails("check", held_to(b, schema={"$ref": "other.json"})),
        "evaluate.schema",
        "the schema names another one, 'other.json'",
        "write all of it here, under $defs",
    ),
    "a schema for a filter that reads none": (
        lambda b: b.fails("check", b.context(filter={"schema": {"type": "object"}})),
        "recipe.yaml",
        "schema is for keep: valid",
        "leave schema out",
    ),
    "gold calls behind a text": (
        lambda b: b.fails(
            "check",
            b.context(
                inputs=[{"id": "i0", "text": "a", "calls": [{"name": "look"}]}],
                teacher=None,
                gold="{{ calls }}",
            ),
        ),
        "contexts.colours.gold",
        "the gold answer of input 'i0' is a message, and the student's prompt is a text",
        "write the student's prompt as messages",
    ),
    "tools for a template that knows none": (
        lambda b: b.fails("check", b.context(teacher={**ASKED, "tools": LOOK})),
        "contexts.colours.teacher",
        "the model's chat template knows no tools",
        "use a model whose template shows it",
    ),
    "a null": (
        lambda b: b.fails(
            "check",
            b.context(
                inputs=[{"id": "i0", "text": "a", "note": None}], teacher="{{ text }} {{ note }}"
            ),
        ),
        "contexts.colours.teacher",
        "a null would stand in the prompt of input 'i0' (null there: note)",
        'write {{ note or "" }}',
    ),
    "a column whose name is no word": (
        lambda b: b.fails(
            "check",
            b.context(
                inputs=[{"id": "i0", "text": "a", "Ticket No": 7}], teacher="{{ Ticket No }}"
            ),
        ),
        "contexts.colours.teacher, line 1",
        "not a Jinja2 template",
        'input["Ticket No"]',
    ),
    "a field called examples": (
        lambda b: b.fails(
            "check",
            b.context(
                inputs=[{"id": "i0", "text": "a", "examples": "b"}], examples=[{"text": "c"}]
            ),
        ),
        "contexts.colours.teacher",
        "input 'i0' has a field 'examples'",
        "rename that field",
    ),
    "turns that are not there": (
        lambda b: b.fails("check", b.context(teacher=[{"turns": "history"}])),
        "contexts.colours.teacher.turns",
        "'history' is undefined in input 'i0'",
        "the data has: id, text",
    ),
    "no conversation": (
        lambda b: b.fails(
            "check",
            b.context(inputs=[{"text": "a", "history": []}], teacher=[{"turns": "history"}]),
        ),
        "contexts.colours.teacher",
        "the prompt of input 'row-000001' is empty",
        "give the template some text",
    ),
    "spaCy not installed": (
        lambda b: missing_package(
            b,
            "spacy",
            "check",
            b.recipe(),
            "--set",
            "evaluate.metrics=[entity_density]",
            "--set",
            "evaluate.source=text",
        ),
        "evaluate.metrics",
        "entity_density needs the package spacy",
        "pip install 'unprompt[entities]'",
    ),
    "spaCy's model not installed": (
        lambda b: missing_package(
            b,
            entities.MODEL,
            "check",
            b.recipe(),
            "--set",
            "evaluate.metrics=[entity_density]",
            "--set",
            "evaluate.source=text",
        ),
        "evaluate.metrics",
        "entity_density needs spaCy's model en_core_web_sm",
        "python -m spacy download en_core_web_sm",
    ),
    "no source": (
        lambda b: b.fails("check", b.recipe(), "--set", "evaluate.metrics=[entity_density]"),
        "evaluate.source",
        "entity_density compares an answer with the text that it is about",
        "name it (the data has: id, target, text)",
    ),
    "source that is no text": (
        lambda b: b.fails(
            "check",
            b.recipe(
                evaluate={
                    "data": [{"text": "a", "page": 3}],
                    "metrics": ["entity_density"],
                    "source": "page",
                }
            ),
        ),
        "evaluate.source",
        "'page' of example 'row-000001' is no text",
        "name the field that holds the text",
    ),
    "optuna not installed": (
        lambda b: missing_package(
            b,
            "optuna",
            "tune",
            b.recipe(
                tune={
                    "context": "colours",
                    "data": [{"text": "teal", "target": "x"}],
                    "variants": {"a": "{{ text }}"},
                }
            ),
        ),
        "unprompt tune",
        "tuning needs the package optuna",
        "pip install 'unprompt[tune]'",
    ),
    "no tune section": (
        lambda b: b.fails("tune", b.recipe()),
        "tune",
        "the recipe does not say what to tune",
        "add tune: {context",
    ),
    "nothing to tune": (
        lambda b: tuning(b, settings=None),
        "recipe.yaml",
        "'tune': there is nothing to choose among",
        "give settings, variants, or both",
    ),
    "unknown setting to tune": (
        lambda b: tuning(b, settings={"sampling.temprature": [0]}),
        "recipe.yaml",
        (
            "'tune': tune.settings names 'sampling.temprature', which is no setting of the teacher"
            " to tune"
        ),
        "did you mean 'sampling.temperature'?",
    ),
    "setting with a wrong value": (
        lambda b: tuning(b, settings={"sampling.top_p": [2]}),
        "recipe.yaml",
        "'tune': tune.settings.sampling.top_p can't be 2: Input",
        "mend the value",
    ),
    "setting with a value twice": (
        lambda b: tuning(b, settings={"sampling.top_p": [1, 1.0]}),
        "recipe.yaml",
        "'tune': tune.settings.sampling.top_p names a value twice",
        "leave one out",
    ),
    "tuning an unknown context": (
        lambda b: tuning(b, context="colors"),
        "recipe.yaml",
        "tune.context names 'colors', which is no context",
        "did you mean 'colours'?",
    ),
    "tuning a teacher that is not there": (
        lambda b: b.fails(
            "check",
            b.context(teacher=None, gold="{{ text }}"),
            "--set",
            "tune={context: colours, data: [{text: a}], variants: {a: b}}",
        ),
        "recipe.yaml",
        "tune names context 'colours', which has no teacher",
        "give it one, or write who: student",
    ),
    "tuning a student that is not evaluated": (
        lambda b: b.fails(
            "check",
            b.recipe(evaluate=None),
            "--set",
            "tune={context: colours, who: student, data: [{text: a}], variants: {a: b}}",
        ),
        "recipe.yaml",
        "tune names context 'colours', which is not evaluated",
        "give it an evaluate section",
    ),
    "tuning without gold answers": (
        lambda b: tuning(b, data=[{"id": "t1", "text": "a"}]),
        "tune.data.target",
        "example 't1' has no gold answer in field 'target'",
        "name the field that holds it (the data has: id, text)",
    ),
    "held-out examples from a model": (
        lambda b: b.fails("check", b.recipe(evaluate={"data": {"sample": SAMPLE}})),
        "recipe.yaml",
        "evaluate.data can't be sample: a model writes only contexts' inputs",
        "give it rows that are there, or evaluate: {hold_out: 0.2} for a share of the inputs",
    ),
    "nothing says what proves": (
        lambda b: b.fails("check", b.recipe(evaluate={"metrics": []})),
        "recipe.yaml",
        "'evaluate': give data, or hold_out (a share of the inputs, as 0.2), and not both",
        "mend the value",
    ),
    "a share of no inputs": (
        lambda b: b.fails("check", b.recipe(contexts=WITHOUT_INPUTS, evaluate={"hold_out": 0.2})),
        "recipe.yaml",
        "evaluate.hold_out is a share of the inputs, which context 'proven' has not",
        "give it inputs, its own evaluate.data, or evaluate: false",
    ),
    "one input is no share": (
        lambda b: b.fails("check", b.recipe(contexts=ONE_INPUT, evaluate={"hold_out": 0.2})),
        "contexts.one.inputs",
        "of 1 inputs none can be held out",
        "give more inputs, or evaluate.data in place of evaluate.hold_out",
    ),
    "no prompt file": (
        lambda b: b.fails("check", b.context(teacher={"file": "promt.md"})),
        "recipe.yaml",
        "'contexts.colours.teacher': there is no such prompt file",
        "paths are seen from the recipe's folder",
    ),
    "a prompt file that is no list": (
        lambda b: b.fails("check", b.context(teacher={"file": b.file("chat.json", "{}")})),
        "recipe.yaml",
        "'contexts.colours.teacher': no list of messages",
        'write [{"role": "system", "content": "..."}, ...]',
    ),
    "equal prompts": (
        lambda b: b.fails("check", b.context(teacher="{{ text }}:")),
        "contexts.colours",
        "the teacher's prompt and the student's are the same, and so are their weights",
        "take out of student what is to stand in the weights",
    ),
    "a teacher's prompt without the input": (
        lambda b: b.fails("check", b.context(teacher="Name the colour.")),
        "contexts.colours.teacher",
        "the teacher's prompt shows nothing of the input: it is the same for all 8",
        "name a field of the data in it, as {{ text }}",
    ),
    "placeholder rows": (
        lambda b: b.fails("check", b.context(inputs=[{"text": "an input as your users send it"}])),
        "contexts.colours.inputs",
        "input 'row-000001' is the placeholder that `unprompt init` wrote",
        "put your own inputs there",
    ),
    "messages that end with the answer": (
        lambda b: b.fails("check", b.context(teacher=ANSWERED)),
        "contexts.colours.teacher",
        "the prompt ends with the assistant's answer, behind which the model would go on",
        "leave the last message out",
    ),
    "a text that ends with the answer": (
        lambda b: b.fails("check", b.context(inputs=GOLD, teacher="Say {{ text }}: {{ target }}")),
        "contexts.colours.teacher",
        "the prompts of all 5 examples that have a gold answer end with it",
        "take the answer out of the template",
    ),
    "answers that are cut": (
        lambda b: b.fails("run", b.context(inputs=[{"text": f"t {n}"} for n in range(70)])),
        "contexts.colours",
        "of the first 16 answers of teacher are cut at 4 tokens, more than lessons.max_cut allows",
        "raise sampling.max_new_tokens (to 16), or lessons.max_cut; the answers are kept",
    ),
    "a row of no group": (
        lambda b: b.fails(
            "check", b.context(inputs={"rows": [{"text": "a"}, {"text": "b"}], "group": "talk"})
        ),
        "contexts.colours.inputs (rows), row 1",
        "there is no 'talk' that says what the row belongs to",
        "the row has: text; set group to one that every row has",
    ),
    "tuning by entropy": (
        lambda b: tuning(b, metric="entropy"),
        "tune.metric",
        "'entropy' does not say how good an answer is",
        "choose another metric",
    ),
    "tuning on the test split": (
        lambda b: tuning(b, data=[{"id": "t1", "text": "Violet", "target": "x"}]),
        "tune.data",
        (
            "1 of its examples (as 't1') are what context 'colours' is proven on: settings chosen"
            " on the test split flatter the result"
        ),
        "tune on another split",
    ),
    # data
    "no inputs file": (
        lambda b: b.fails("check", b.context(inputs="inptus.jsonl")),
        "inputs (/",
        "inptus.jsonl): there is no such file",
        "paths are seen from the recipe's folder",
    ),
    "empty inputs": (
        lambda b: b.inputs("in.jsonl", ""),
        "in.jsonl",
        "there is nothing in it",
        "give at least one row",
    ),
    "broken JSON": (
        lambda b: b.inputs("in.jsonl", rows(20, 17, '{"text": "a"')),
        "in.jsonl:17",
        "not JSON: Expecting",
        "mend or remove that line",
    ),
    "CSV columns": (
        lambda b: b.inputs("in.csv", "id,text\n1,red\n2,green, or not\n"),
        "in.csv:3",
        "has not the 2 columns",
        "quote fields",
    ),
    "CSV column twice": (
        lambda b: b.inputs("in.csv", "text,text\n1,2\n"),
        "in.csv:1",
        "column 'text' occurs twice",
        "rename one of them",
    ),
    "file ending": (
        lambda b: b.inputs("in.xlsx", "a"),
        "in.xlsx",
        "'.xlsx' is not a known data format",
        "use .jsonl, .ndjson, .json, .csv",
    ),
    "not UTF-8": (
        lambda b: b.inputs("in.jsonl", '{"text": "gr\xfcn"}'.encode("latin-1")),
        "in.jsonl",
        "not UTF-8",
        "save the file as UTF-8",
    ),
    "half a character": (
        lambda b: b.inputs("in.jsonl", rows(5, 3, '{"text": "cut \\ud83d"}')),
        "in.jsonl), row 3",
        "half a character (\\ud83d)",
        "mend the text",
    ),
    "id twice": (
        lambda b: b.inputs("in.jsonl", rows(5, 4, '{"id": "i2", "text": "red"}')),
        "in.jsonl",
        "id 'i2' occurs twice (rows 2 and 4)",
        "make 'id' unique",
    ),
    "hub data": (
        lambda b: b.fails("check", b.context(inputs={"hub": "nobody/nothing-here"})),
        "inputs (nobody/nothing-here)",
        "HF_HUB_OFFLINE is set, and the hub's cache lacks this data set",
        "or give a file",
    ),
    "datasets not installed": (
        without_datasets,
        "inputs (someone/colours)",
        "reading from the hub needs the package datasets",
        "pip install 'unprompt[hub]'",
    ),
    "no gold answer": (
        lambda b: b.fails(
            "check", b.recipe(evaluate={"data": [{"id": "h1", "text": "grey", "colour": "g"}]})
        ),
        "evaluate.data.target",
        "example 'h1' has no gold answer in field 'target'",
        "the data has: colour, id, text",
    ),
    "gold answer of another kind": (
        lambda b: b.fails("check", b.recipe(), "--set", "evaluate.metrics=[numeric_match]"),
        "evaluate.data.target",
        (
            "metric 'numeric_match' can't use the gold answer of example 'h0': the target 'x' holds"
            " no number"
        ),
        "choose another metric",
    ),
    # templates
    "no examples": (
        lambda b: b.fails(
            "check", b.context(teacher="{% for e in examples %}{{ e }}{% endfor %}{{ text }}:")
        ),
        "contexts.colours.teacher",
        "'examples' is undefined in input 'i0'",
        "the data has: id, text",
    ),
    "adapter targets": (
        lambda b: b.fails("check", b.recipe(train={"adapter": {"targets": ["qproj"]}})),
        "train.adapter.targets",
        "qproj",
        "name layers that the model has",
    ),
    "unknown field": (
        lambda b: b.fails("check", b.context(teacher="Colour of {{ txt }}:")),
        "contexts.colours.teacher",
        "'txt' is undefined in input 'i0'",
        "the data has: id, text",
    ),
    "broken template": (
        lambda b: b.fails(
            "check", b.context(teacher="{% for e in examples %}{{ e.text }}\n{{ text }}")
        ),
        "contexts.colours.teacher, line 2",
        "not a Jinja2 template",
        "mend the braces",
    ),
    "template out of its sandbox": (
        lambda b: b.fails("check", b.context(teacher="{{ ''.__class__.__mro__ }}")),
        "contexts.colours.teacher",
        "SecurityError: access to attribute '__class__'",
        "mend the template",
    ),
    "template that changes the examples": (
        lambda b: b.fails(
            "check", b.context(teacher="{{ examples.append(1) }}", examples=[{"text": "red"}])
        ),
        "contexts.colours.teacher",
        "SecurityError: access to attribute 'append'",
        "mend the template",
    ),
    "template that fills the memory": (
        lambda b: b.fails("check", b.context(teacher="{{ text * 10**15 }}")),
        "contexts.colours.teacher",
        "failed on input 'i0': SecurityError: a product of over 16,777,216 letters",
        "mend the template",
    ),
    "empty prompt": (
        lambda b: b.fails(
            "check",
            b.context(
                inputs=[{"id": "a", "text": "red"}, {"id": "b", "text": ""}], student="{{ text }}"
            ),
        ),
        "contexts.colours.student",
        "the prompt of input 'b' is empty",
        "give the template some text",
    ),
    "over the window": (
        over_the_window,
        "contexts.colours.teacher",
        "the prompt of input 'b' has 849 tokens",
        "(nothing is ever cut)",
    ),
    "no chat template": (
        no_chat_template,
        "contexts.colours.teacher",
        "this model has no chat template",
        "write the prompt as plain text",
    ),
    # the model
    "no model folder": (
        lambda b: b.fails("check", b.recipe(model="./modle")),
        "modle",
        "there is no model in this folder",
        "check the path",
    ),
    "no hub model": (
        lambda b: b.fails("check", b.recipe(model="nobody/nothing-here")),
        "model (nobody/nothing-here)",
        "HF_HUB_OFFLINE is set, and the hub's cache lacks this model",
        "or give a folder",
    ),
    "broken weights": (broken_weights, "pointer", "the weights are broken", "Git LFS pointer"),
    "another GGUF file": (
        lambda b: b.fails(
            "check", b.recipe(model={"gguf": b.file("m.gguf", b"GGUF"), "sha256": "0" * 64})
        ),
        "model.sha256",
        "this GGUF file is not the one whose SHA-256 the recipe names",
        "get the file anew, or see whether sha256 is right",
    ),
    "a digest of no file": (
        lambda b: b.fails("check", b.recipe(model={"name": "org/model", "sha256": "0" * 64})),
        "model",
        "sha256 is that of a GGUF file",
        "name the file (gguf), or leave sha256 out",
    ),
    "package not installed": (
        lambda b: b.fails("check", b.recipe(model={"gguf": "pkg:llm_nothing/a.gguf"})),
        "pkg:llm_nothing/a.gguf",
        "the package llm_nothing is not installed",
        "pip install",
    ),
    "package in a package not installed": (
        lambda b: b.fails("check", b.context(inputs="pkg:nothing_here.data/a.jsonl")),
        "pkg:nothing_here.data/a.jsonl",
        "the package nothing_here.data is not installed",
        "pip install",
    ),
    "path out of its package": (
        lambda b: b.fails("check", b.recipe(model={"gguf": "pkg:yaml/../../secret.gguf"})),
        "pkg:yaml/../../secret.gguf",
        "the path leaves the package",
        "name a file inside the package",
    ),
    "no such device": (
        lambda b: b.fails("check", b.recipe(model={"name": str(b.model), "device": "gpu"})),
        "device",
        "the device 'gpu' can't be used",
        "write auto, cpu",
    ),
    "no such GPU": (
        lambda b: b.fails("check", b.recipe(model={"name": str(b.model), "device": "cuda:99"})),
        "device",
        "the device 'cuda:99' can't be used",
        "a GPU that is there",
    ),
    "end token that is none": (
        lambda b: b.fails("check", b.recipe(model={"name": str(b.model), "eos_token": "<stop>"})),
        "model.eos_token",
        "the tokenizer has no token '<stop>'",
        "its own end token is '<|end|>'",
    ),
    "soft labels of another tokenizer": (
        another_tokenizer,
        "labels.kind",
        (
            "teacher and student have different tokenizers (id 3 is 'Ń' to the teacher and '!' to"
            " the student)"
        ),
        "write labels.kind: hard",
    ),
    "token that the student has not": (
        token_beyond,
        "teacher_model",
        "('padding') in it or in its labels, which the student's vocabulary does not have",
        "the answers are kept",
    ),
    # extraction
    "extractor misspelt": (
        lambda b: b.fails("check", b.context(extract="frist_line")),
        "recipe.yaml",
        "'contexts.colours.extract': not whole, first_line",
        "did you mean 'first_line'?",
    ),
    "extractor never matches": (
        never_matching,
        "contexts.colours.extract",
        "8 of 8 answers could not be extracted",
        "the completions are kept",
    ),
    # rounds and what goes with them
    "over a window that was set": (
        lambda b: b.fails("check", b.recipe(model={"name": str(b.model), "window": 20})),
        "contexts.colours.teacher",
        "over the model's window of 20",
        "(nothing is ever cut)",
    ),
    "ensemble larger than the pool": (
        lambda b: b.fails(
            "check",
            b.context(
                examples={"pool": [{"text": "a"}, {"text": "b"}], "per_prompt": 3, "prompts": 2}
            ),
        ),
        "contexts.colours.examples",
        "per_prompt is 3, but the pool has 2 examples",
        "lower per_prompt",
    ),
    "more prompts than the pool has subsets": (
        lambda b: b.fails(
            "check",
            b.context(
                examples={
                    "pool": [{"text": "a"}, {"text": "b"}, {"text": "c"}],
                    "per_prompt": 2,
                    "prompts": 4,
                }
            ),
        ),
        "contexts.colours.examples",
        "4 prompts of 2 examples, but a pool of 3 has only 3 such subsets",
        "lower prompts",
    ),
    "ensemble of whole pools": (
        lambda b: b.fails("check", b.context(examples={"pool": [{"text": "a"}], "prompts": 2})),
        "recipe.yaml",
        "an ensemble needs per_prompt",
        "say how many examples",
    ),
    "round of an unknown context": (
        lambda b: b.fails("check", b.recipe(rounds={"first": {"contexts": ["colour"]}})),
        "recipe.yaml",
        "rounds.first names 'colour', which is no context",
        "did you mean 'colours'?",
    ),
    "taught by the round before the first": (
        lambda b: b.fails(
            "check", b.recipe(rounds={"first": {"contexts": ["colours"], "teacher": "previous"}})
        ),
        "recipe.yaml",
        "rounds.first.teacher is 'previous', but there is no round before the first",
        "write base",
    ),
    "replay without data": (
        lambda b: b.fails(
            "check", b.recipe(rounds={"first": {"contexts": ["colours"], "replay": {"share": 0.2}}})
        ),
        "recipe.yaml",
        "'rounds.first.replay.contexts' is missing",
        "add it",
    ),
    "replay with too little data": (
        lambda b: b.fails(
            "check",
            b.recipe(
                rounds={
                    "first": {
                        "contexts": ["colours"],
                        "replay": {"contexts": ["colours"], "share": 0.6},
                    }
                }
            ),
        ),
        "rounds.first.replay",
        "a share of 0.6 beside 8 inputs takes 12 replayed ones, but its contexts have 8",
        "lower share",
    ),
    "round named like a system": (
        lambda b: b.fails("check", b.recipe(rounds={"teacher": {"contexts": ["colours"]}})),
        "recipe.yaml",
        "'teacher' can't name a round",
        "use letters, digits",
    ),
    "round with another adapter": (
        lambda b: b.fails(
            "check",
            b.recipe(
                rounds={
                    "first": {"contexts": ["colours"]},
                    "second": {"contexts": ["colours"], "train": {"adapter": {"rank": 2}}},
                }
            ),
        ),
        "recipe.yaml",
        "rounds.second starts from round 'first', which has another train.adapter",
        "start: base",
    ),
    "nothing to teach": (
        lambda b: b.fails("check", b.context(teacher=None)),
        "recipe.yaml",
        "no context has anything to teach",
        "give one inputs and a teacher",
    ),
    "round of a context that is only evaluated": (
        lambda b: b.fails(
            "check", b.context(teacher=None), "--set", "rounds.first.contexts=[colours]"
        ),
        "recipe.yaml",
        "rounds.first names context 'colours', which has nothing to teach",
        "give it inputs",
    ),
    "system named like a round": (
        lambda b: b.fails("check", b.recipe(systems={"after": {"prompt": "teacher"}})),
        "recipe.yaml",
        "'after' can't name a system",
        "not teacher, before, base, previous or a round",
    ),
    "system of unknown weights": (
        lambda b: b.fails("check", b.recipe(systems={"x": {"model": "aftr"}})),
        "recipe.yaml",
        "systems.x.model names 'aftr', which is no round",
        "did you mean 'after'?",
    ),
    "system with a misspelt prompt": (
        lambda b: b.fails("check", b.recipe(systems={"x": {"prompt": "techer"}})),
        "recipe.yaml",
        "'systems.x.prompt': a template that shows nothing of the input",
        "write teacher, student or a template",
    ),
    "system without a teacher's prompt": (
        lambda b: b.fails(
            "check", b.context(teacher=None, gold="{{ text }}"), "--set", "systems.x.prompt=teacher"
        ),
        "recipe.yaml",
        "systems.x needs a teacher's prompt, which context 'colours' has not",
        "name its contexts",
    ),
    "system of what is not evaluated": (
        lambda b: b.fails(
            "check", b.recipe(evaluate=None, systems={"x": {"contexts": ["colours"]}})
        ),
        "recipe.yaml",
        "systems.x names context 'colours', which is not evaluated",
        "give it an evaluate section",
    ),
    "system that is measured nowhere": (
        lambda b: b.fails("check", b.recipe(evaluate=None, systems={"x": {"prompt": "teacher"}})),
        "recipe.yaml",
        "systems.x is measured nowhere",
        "evaluate a context",
    ),
    "association of what is not evaluated": (
        lambda b: b.fails("check", b.recipe(evaluate=None, association=["colours", "colours"])),
        "recipe.yaml",
        "association names context 'colours', which is not evaluated",
        "give it an evaluate section",
    ),
    "mixture of too little": (
        lambda b: b.fails(
            "check",
            b.context(
                inputs={
                    "limit": 9,
                    "mix": [
                        {"data": [{"text": "a"}, {"text": "b"}], "share": 1},
                        {"data": [{"text": str(n)} for n in range(9)], "share": 2},
                    ],
                }
            ),
        ),
        "contexts.colours.inputs.mix.0",
        "9 rows of the mixture need 3 of this part, which has 2",
        "lower limit",
    ),
    "seeds without the field": (
        lambda b: b.fails(
            "check",
            b.context(
                inputs={
                    "sample": {"seeds": [{"words": "a"}], "template": "{{ examples }}", "count": 3}
                }
            ),
        ),
        "contexts.colours.inputs.sample",
        "seed 'row-000001' has no text in field 'text'",
        "set field",
    ),
    "a kind of inputs that there is not": (
        lambda b: b.fails(
            "check", b.context(inputs={"from_prompt": {"count": 3, "kinds": {"ordinry": 1}}})
        ),
        "contexts.colours.inputs.from_prompt",
        "kinds has 'ordinry', which is no kind",
        "did you mean 'ordinary'?",
    ),
    "inputs from no prompt": (
        lambda b: b.fails(
            "check",
            b.context(inputs={"from_prompt": {"count": 3}}, teacher=None, gold="{{ text }}"),
        ),
        "",
        "contexts.colours.inputs.from_prompt has no prompt to write from",
        "give context 'colours' a teacher",
    ),
    "two writers": (
        lambda b: b.fails(
            "check",
            b.context(
                inputs={
                    "mix": [
                        {"data": {"from_prompt": {"count": 3, "writer": name}}, "share": 1}
                        for name in ("a", "b")
                    ]
                }
            ),
        ),
        "",
        "two from_prompt have different writers",
        "name one writer in all of them, or in none",
    ),
    "sampling gives too little": (
        lambda b: b.fails(
            "run",
            b.context(
                inputs={
                    "sample": {
                        "seeds": [{"text": "a"}],
                        "template": "x",
                        "count": 3,
                        "max_new_tokens": 1,
                        "stop": ["z"],
                        "tries": 2,
                    }
                }
            ),
            "--out",
            "out",
        ),
        "contexts.colours.inputs.sample",
        "6 draws gave only 0 of 3 inputs",
        "give more seeds",
    ),
    "entropy of greedy answers": (
        lambda b: b.fails("check", b.recipe(), "--set", "evaluate.metrics=[entropy]"),
        "evaluate.temperature",
        "the entropy of a model's answers is measured on answers at temperature 1",
        "set it to 1",
    ),
    "entropy of answers without their tail": (
        lambda b: b.fails(
            "check",
            *(b.recipe(), "--set", "evaluate.metrics=[entropy]"),
            *("--set", "evaluate.temperature=1", "--set", "evaluate.top_p=0.9"),
        ),
        "evaluate.top_p",
        "the entropy of a model's answers is measured on answers at top_p 1",
        "set it to 1",
    ),
    "group that no row has": (
        lambda b: b.fails("check", b.recipe(), "--set", "evaluate.group=case"),
        "evaluate.group",
        "example 'h0' has no field 'case'",
        "the data has",
    ),
    "empty gold answer": (
        lambda b: b.fails("check", b.context(teacher=None, gold="{{ '' }}")),
        "contexts.colours.gold",
        "the gold answer of input 'i0' is empty",
        "mend",
    ),
    "too much drift": (
        lambda b: b.fails(
            "run", b.recipe(drift={"inputs": [{"text": "two"}], "limit": 1e-9}), "--out", "out"
        ),
        "drift.limit",
        "the student of round 'after' drifted by",
        "mix in replay",
    ),
    "model rule that fails": (
        lambda b: b.fails("check", b.recipe(model={"rule": "os:listdir", "args": {"nothing": 1}})),
        "model (os:listdir)",
        "the rule failed",
        "mend the function",
    ),
    # rationales and shots
    "several completions at temperature 0": (
        lambda b: b.fails("check", b.recipe(), "--set", "sampling={temperature: 0, per_input: 3}"),
        "recipe.yaml",
        "'sampling': per_input is 3, but at temperature 0 all of them are the same",
        "raise temperature",
    ),
    "filter without a teacher": (
        lambda b: b.fails("check", b.context(teacher=None, gold="{{ text }}", filter={})),
        "recipe.yaml",
        "'contexts.colours': filter is for a teacher's completions, but no teacher is asked here",
        "give teacher and no gold",
    ),
    "hint without a filter": (
        lambda b: b.fails("check", b.context(hint="{{ target }}")),
        "recipe.yaml",
        "'contexts.colours': hint is for inputs of which a filter keeps nothing",
        "add filter",
    ),
    "filter without gold answers": (
        lambda b: b.fails("check", b.context(filter={})),
        "contexts.colours.filter",
        "input 'i0' has no gold answer to be correct by",
        "contexts.colours.inputs.target (the data has: id, text)",
    ),
    "filter by a metric of another kind": (
        lambda b: b.fails("check", b.context(filter={"keep": "majority", "metric": "entropy"})),
        "contexts.colours.filter.metric",
        "'entropy' does not say whether an answer is correct",
        "use accuracy",
    ),
    "majority of one": (
        lambda b: b.fails("check", b.context(filter={"keep": "majority"})),
        "contexts.colours.filter.keep",
        "of one completion there is no majority",
        "raise sampling.per_input",
    ),
    "filter by a gold answer that its metric can't use": (
        lambda b: b.fails(
            "check",
            b.context(inputs=[{"text": "a", "target": "many"}], filter={"metric": "numeric_match"}),
        ),
        "contexts.colours.inputs.target",
        "metric 'numeric_match' can't use the gold answer of example 'row-000001'",
        "mend that gold answer",
    ),
    "filter that keeps nothing": (
        filter_keeps_nothing,
        "contexts.colours.filter",
        "keeps none of the teacher's completions (0 kept, 8 wrong, ",
        "mend its extract",
    ),
    "ids like those of completions": (
        lambda b: b.fails(
            "check",
            b.context(inputs=[{"id": "a", "text": "a"}, {"id": "a/2", "text": "b"}]),
            "--set",
            "sampling.per_input=2",
        ),
        "contexts.colours.inputs",
        "'a/2' is the id of a completion of input 'a', but another input has it, too",
        "rename one of the two",
    ),
    "weights and pairs": (
        lambda b: b.fails(
            "check", b.recipe(lessons={"kind": "shots", "n": 4, "weights": [0.1, 1]})
        ),
        "recipe.yaml",
        "'lessons': n is 4, but there are 2 weights",
        "give one for each answer",
    ),
    "no weight for the last answer": (
        lambda b: b.fails("check", b.recipe(lessons={"kind": "shots", "n": 2, "weights": [1, 0]})),
        "recipe.yaml",
        "'lessons.weights': the last answer has no weight",
        "give it one over 0",
    ),
    "exponential weights from 0": (
        lambda b: b.fails(
            "check",
            b.recipe(lessons={"kind": "shots", "weights": {"shots": 0, "schedule": "exponential"}}),
        ),
        "recipe.yaml",
        "'lessons.weights': no factor leads from 0 to another weight",
        "give shots a weight over 0",
    ),
    "shots of a chat": (
        lambda b: b.fails(
            "check",
            b.context(student=[{"role": "user", "content": "{{ text }}"}]),
            "--set",
            "lessons.kind=shots",
        ),
        "lessons.kind",
        "the student's prompt in context 'colours' is a chat",
        "write contexts.colours.student as plain text",
    ),
    "questions of a chat behind shots": (
        lambda b: behind_shots(b, student=[{"role": "user", "content": "{{ text }}"}]),
        "evaluate.shots",
        "the student's prompt in context 'colours' is a chat",
        "write contexts.colours.student as plain text",
    ),
    "shots for an encoder-decoder model": (
        shots_for_seq2seq,
        "lessons.kind",
        "an encoder-decoder model can't learn answers between questions",
        "name a decoder-only model",
    ),
    "more pairs than inputs": (
        lambda b: b.fails("check", b.recipe(lessons={"kind": "shots", "n": 9})),
        "contexts.colours",
        "8 inputs have a lesson, but lessons.n is 9: each stands behind 8 others",
        "lower lessons.n",
    ),
    "nearest by no words": (
        lambda b: b.fails(
            "check",
            b.context(student="{{ text | length * '?' }}"),
            "--set",
            "lessons={kind: shots, select: nearest}",
        ),
        "lessons.select",
        "the student's prompts have no words to be compared by",
        "write random or fixed",
    ),
    "pool smaller than the shots": (
        lambda b: behind_shots(b, counts=[0, 3]),
        "evaluate.shots.pool",
        "3 shots are wanted, but the pool has only 2 beside example 'h0'",
        "lower counts",
    ),
    "shot without an answer": (
        lambda b: behind_shots(b, answer=" "),
        "evaluate.shots.answer",
        "the answer of shot 'row-000001' is empty",
        "mend the template",
    ),
    "shots over the window": (
        lambda b: behind_shots(b, answer="{{ text * 100 }}"),
        "evaluate.shots",
        "that is over the model's window of 512",
        "(nothing is ever cut)",
    ),
    "shots of choices": (
        lambda b: b.fails(
            "check",
            b.recipe(),
            "--set",
            "evaluate.choices={right: a, wrong: b}",
            "--set",
            "evaluate.lenient=last_line",
        ),
        "recipe.yaml",
        "'evaluate': lenient is for answers that are written, but choices are only scored",
        "give one of the two",
    ),
    # cost, judge, ratings
    "no such price table": (
        lambda b: priced(b, prices="none.yaml"),
        "none.yaml",
        "there is no such price table",
        "give the path of a YAML price table",
    ),
    "no price table": (
        lambda b: priced(b, {"big": {"input": 1}}),
        "prices.yaml",
        "a price table is a mapping with a key `prices`",
        "lay it out as",
    ),
    "model misspelt in cost": (
        lambda b: priced(b, teacher="exampel-big"),
        "cost.teacher",
        "no price of 'exampel-big' in the table",
        "did you mean 'example-big'?",
    ),
    "model without a price": (
        lambda b: priced(b, student="own"),
        "cost.student",
        "no price of 'own' in the table",
        "add it to a table of your own",
    ),
    "no price of output": (
        lambda b: priced(b, {"prices": {"a": {"input": 1}}}),
        "prices.yaml, prices.a",
        "'output' is missing",
        "add it, in dollars per million tokens",
    ),
    "negative price": (
        lambda b: priced(b, {"prices": {"a": {"input": -1, "output": 1}}}),
        "prices.yaml, prices.a",
        "input is -1",
        "write dollars per million tokens",
    ),
    "price with an unknown name": (
        lambda b: priced(b, {"prices": {"a": {"inputs": 1, "output": 1}}}),
        "prices.yaml, prices.a",
        "unknown key 'inputs'",
        "did you mean 'input'?",
    ),
    "price that is one number": (
        lambda b: priced(b, {"prices": {"a": 3}}),
        "prices.yaml, prices.a",
        "not a mapping of prices",
        "write {input: ...",
    ),
    "half a token": (
        lambda b: priced(b, {"prices": {"a": {"input": 1, "output": 1, "cache_minimum": 0.5}}}),
        "prices.yaml, prices.a",
        "cache_minimum is 0.5",
        "write a whole number of tokens",
    ),
    "cost of nothing": (
        lambda b: b.fails(
            "check",
            b.recipe(evaluate=None, cost={"teacher": "a", "student": "b", "dollars_per_hour": 1}),
        ),
        "recipe.yaml",
        "cost needs systems that are measured",
        "give evaluate data",
    ),
    "more cached than there is": (
        lambda b: b.fails(
            "cost", "--model", "example-big", "--input", "4", "--output", "1", "--cached", "5"
        ),
        "--cached",
        "5 of 4 prompt tokens can't be cached",
        "give at most --input",
    ),
    "cached without a price": (
        lambda b: b.fails(
            "cost", "--model", "example-small", "--input", "4", "--output", "1", "--cached", "2"
        ),
        "--cached",
        "the model has no price of cached input",
        "give at most --input, and a model with a price cached_input",
    ),
    "judge with a short window": (
        lambda b: b.fails("check", b.recipe(judge={})),
        "judge.template",
        "the judge's prompt on example 'h0' of context colours has",
        "take a judge with a longer window",
    ),
    "judge of nothing": (
        lambda b: b.fails("check", b.recipe(evaluate=None, judge={})),
        "recipe.yaml",
        "judge has no answers to judge",
        "give evaluate data",
    ),
    "judge of a context without answers": (
        lambda b: b.fails("check", b.context(evaluate=False), "--set", "judge.contexts=[colours]"),
        "recipe.yaml",
        "judge.contexts names context 'colours', which writes no answers that are graded",
        "leave it out",
    ),
    "more repeats than orders": (
        lambda b: b.fails("check", b.recipe(judge={"criteria": {"kind": "0 rude, 6 kind"}})),
        "recipe.yaml",
        "'judge': 1 criteria have only 1 orders, fewer than repeats",
        "lower repeats",
    ),
    "criterion with a colon": (
        lambda b: b.fails("check", b.recipe(judge={"criteria": {"a: b": "x", "c": "y"}})),
        "recipe.yaml",
        "'judge.criteria': 'a: b' can't name a criterion",
        "begin with a letter",
    ),
    "rating no run": (
        lambda b: b.fails("rate", "."),
        ".",
        "there is no finished run here",
        "unprompt run RECIPE",
    ),
    "sheet that is there": (
        lambda b: sheet_again(b),
        "out/rating_sheet.csv",
        "there is a file already",
        "choose another name with --out",
    ),
    "sheet of another scale": (
        lambda b: sheet_again(b, "--high", "5", "--out", "new.csv"),
        "out/rating_key.json",
        "a sheet of other answers, systems or another scale was exported before",
        "read those ratings first",
    ),
    "rating an unknown system": (
        lambda b: sheet_again(b, "--system", "later"),
        "out",
        "there is no system 'later'",
        "there are: teacher, before, after",
    ),
    "scale without room": (
        lambda b: sheet_again(b, "--low", "6"),
        "--low",
        "a scale from 6 to 6 has no room",
        "give a --high above --low",
    ),
    "rating without answers": (
        lambda b: (b.works("run", b.recipe(evaluate=None), "--out", "out"), b.fails("rate", "out"))[
            1
        ],
        "out",
        "there are no written answers to rate",
        "run a recipe with an evaluate section",
    ),
    "no sheet was exported": (
        lambda b: b.fails("rate", ".", "--read", "ann.csv"),
        ".",
        "no sheet of this run was exported",
        "export one with `unprompt rate RUN`",
    ),
    "no such sheet": (
        lambda b: (ratings(b), b.fails("rate", "out", "--read", "an.csv"))[1],
        "an.csv",
        "there is no such file",
        "give the paths of the rated sheets",
    ),
    "sheet that is a folder": (
        lambda b: (ratings(b), b.fails("rate", "out", "--read", "out"))[1],
        "out",
        "can't be read",
        "give a CSV file with the columns",
    ),
    "not a rating sheet": (
        lambda b: ratings(b, header="id,response,score,rater"),
        "sheet0.csv",
        "not a rating sheet: it has no column 'rating'",
        "give a CSV file with",
    ),
    "sheet that is not CSV": (
        lambda b: ratings(b, 1, 2, 3, lines='"r9"x,,,'),
        "sheet0.csv:5",
        "not CSV",
        "give a CSV file with the columns",
    ),
    "row of too few cells": (
        lambda b: ratings(b, 1, 2, 3, lines="r1,2"),
        "sheet0.csv:5",
        "the row has 2 cells, the header 4",
        "mend that row",
    ),
    "rating of a missing row": (
        lambda b: ratings(b, 1, 2),
        "sheet0.csv",
        "row 'r2' of ann is missing",
        "put it back",
    ),
    "rating of an unknown row": (
        lambda b: ratings(b, 1, 2, 3, lines="r9,x,1,ann"),
        "sheet0.csv:5",
        "there is no row 'r9'",
        "give the file that",
    ),
    "rating out of the scale": (
        lambda b: ratings(b, 1, 7, 3),
        "sheet0.csv:3",
        "the rating of row 'r1' is '7'",
        "write a whole number from 0 to 6",
    ),
    "row rated twice": (
        lambda b: ratings(b, 1, 2, 3, lines="r1,text 1,4,ann"),
        "sheet0.csv:5",
        "ann rated row 'r1' twice",
        "leave one of the two",
    ),
    "the same person's file twice": (
        lambda b: ratings(b, 1, 2, 3, files=2),
        "sheet1.csv",
        "ann rated row 'r0' twice, here and in another file",
        "give each person's file once",
    ),
    "one column sorted alone": (
        lambda b: ratings(b, 1, 2, lines="r2,text 1,4,ann"),
        "sheet0.csv:4",
        "the response is not the one that row 'r2' was sent with",
        "undo what moved it",
    ),
    "row without a rater": (
        lambda b: ratings(b, 1, 2, lines="r2,text 2,4,"),
        "sheet0.csv:4",
        "row 'r2' does not say who rated it",
        "fill in rater in every row",
    ),
    "sheet without a rating": (
        lambda b: ratings(b, "", "", ""),
        "",
        "there is no rating in these files",
        "fill in the column rating",
    ),
    "another person's ratings would be lost": (
        ratings_lost,
        "out/ratings.json",
        "the ratings of bob were read before, and are in none of these files",
        "give their files, too",
    ),
    # running
    "disk full": (
        disk_full,
        "part-",
        "can't be written: No space left on device",
        "what is finished is kept",
    ),
    "disk full in training": (
        disk_full_in_training,
        "out/checkpoints",
        "can't be written",
        "what is finished is kept",
    ),
    "memory full": (
        memory_full,
        "device cpu",
        "the memory is full with one prompt at a time",
        "what is answered is kept",
    ),
    "GPU full in training": (
        gpu_full_in_training,
        "train.micro_batch_size",
        "the GPU's memory is full",
        "lower it",
    ),
    "tracker not installed": (
        lambda b: b.fails(
            "run", b.recipe(), "--set", "train.trainer.report_to=comet_ml", "--out", "out"
        ),
        "train.trainer",
        "CometCallback requires comet-ml",
        "install what they need",
    ),
    "folder not writable": (
        not_writable,
        "out",
        "can't be written: Permission denied",
        "choose another folder with --out",
    ),
    "a file where the folder should be": (
        lambda b: b.fails("run", b.recipe(), "--out", b.file("out", "")),
        "out",
        "can't be written",
        "--out",
    ),
    "two runs at once": (
        locked,
        "out",
        "another run is at work in this folder",
        "wait for it, or choose --out",
    ),
    "show without a run": (
        lambda b: b.fails("show", "."),
        ".",
        "there is no run here",
        "unprompt run RECIPE",
    ),
    "show an unknown id": (unknown_id, "out", "there is no example 'i99'", "give the id"),
    "hand-over of nothing": (
        lambda b: b.fails("transfer"),
        "transfer",
        "give a run's folder, or --check FILE",
        "unprompt transfer runs/NAME",
    ),
    "hand-over without a run": (
        lambda b: b.fails("transfer", "."),
        ".",
        "there is no run here",
        "unprompt run RECIPE",
    ),
    "hand-over of an unknown round": (
        lambda b: recipe_alone(b, "--round", "first"),
        "--round",
        "there is no round 'first'",
        "there are: after",
    ),
    "hand-over ahead of the lessons": (
        lambda b: recipe_alone(b),
        "out",
        "round 'after' has no lessons yet",
        "run the recipe to its end first",
    ),
    "hand-over onto a file": (
        lambda b: b.fails("transfer", "out", "--out", b.file("chats.jsonl", "")),
        "chats.jsonl",
        "there is a file of this name already",
        "choose another name with --out",
    ),
    "hand-over of answers that were all cut": (
        all_cut,
        "out",
        "all 8 answers were cut at max_new_tokens",
        "raise sampling.max_new_tokens",
    ),
    "hand-over with another prompt since": (
        another_prompt_since,
        "contexts.colours",
        "the lesson of input 'i0' is not the student's prompt as it is now",
        "run the recipe again",
    ),
    "no chat file": (
        lambda b: b.fails("transfer", "--check", "chat.jsonl"),
        "chat.jsonl",
        "there is no such file",
        "give the path of a JSONL file",
    ),
    "empty chat file": (
        lambda b: b.fails("transfer", "--check", b.file("chats.jsonl", "\n")),
        "chats.jsonl",
        "there is no example in it",
        "give at least one",
    ),
    "chat file not UTF-8": (
        lambda b: b.fails("transfer", "--check", b.file("chats.jsonl", b"\xff\xfe")),
        "chats.jsonl",
        "not UTF-8",
        "save chats.jsonl as UTF-8",
    ),
    "chat file not JSON": (
        lambda b: b.fails("transfer", "--check", b.file("chats.jsonl", "a\n")),
        "chats.jsonl:1",
        "not JSON: Expecting value",
        "write one",
    ),
    "chats of another shape": (
        lambda b: b.fails("transfer", "--check", b.file("chats.jsonl", '{"prompt": "a"}\n')),
        "chats.jsonl:1",
        "there is no list 'messages'",
        "write one",
    ),
    "chat with an id": (
        lambda b: chats(b, ("user", "a"), ("assistant", "b"), id="7"),
        "chats.jsonl:2",
        "unknown key 'id'",
        "leave only messages",
    ),
    "chat message without content": (
        lambda b: chats(b, ("user",), ("assistant", "b")),
        "chats.jsonl:2",
        "message 1 has not just role and content",
        "write",
    ),
    "chat with an unknown role": (
        lambda b: chats(b, ("human", "a"), ("assistant", "b")),
        "chats.jsonl:2",
        "message 1 has the unknown role 'human'",
        "use one of system, developer, user",
    ),
    "chat with an image": (
        lambda b: chats(b, ("user", [{"type": "image_url"}]), ("assistant", "b")),
        "chats.jsonl:2",
        "the content of message 1 is not text",
        "one string",
    ),
    "chat with an empty answer": (
        lambda b: chats(b, ("user", "a"), ("assistant", " ")),
        "chats.jsonl:2",
        "the content of message 2 (assistant) is empty",
        "give it some text",
    ),
    "chat with half a character": (
        lambda b: chats(b, ("user", "a"), ("assistant", "\ud83d")),
        "chats.jsonl:2",
        "the content of message 2 holds half a character",
        "mend the text",
    ),
    "chat out of turn": (
        lambda b: chats(b, ("user", "a"), ("user", "b"), ("assistant", "c")),
        "chats.jsonl:2",
        "message 2 is the user's and stands behind user",
        "let user and assistant take turns",
    ),
    "chat without an answer": (
        lambda b: chats(b, ("user", "a")),
        "chats.jsonl:2",
        "the last message is the user's",
        "end with the assistant's answer",
    ),
    "init without a prompt": (
        lambda b: b.fails("init", "promt.txt"),
        "promt.txt",
        "there is no such prompt file",
        "give the path of a text file",
    ),
    "distill with a server alone": (
        lambda b: b.fails(
            "distill", b.file("prompt.md", "Be kind."), "--teacher", "http://localhost:1/v1"
        ),
        "--teacher http://localhost:1/v1",
        "which of the server's models is to be asked?",
        "write URL#MODEL, as in http://localhost:8000/v1#my-model",
    ),
    "several places and no inputs": (
        lambda b: b.fails("init", b.file("prompt.md", "{a} or {b}")),
        "prompt.md",
        "the prompt has several places (a, b), and a model writes only one text for each input",
        "give your own rows: unprompt distill PROMPT --inputs FILE",
    ),
    "inputs without the prompt's field": (
        lambda b: b.fails(
            *("init", b.file("prompt.md", "{a} or {b}"), "--inputs"),
            b.file("in.jsonl", '{"a": "x", "c": "y"}'),
        ),
        "--inputs in.jsonl",
        "the rows have no field 'b' for the prompt",
        "the rows have: a, c; write {{ FIELD }} into the prompt",
    ),
    "a distilled prompt that changed": (
        changed_prompt,
        "recipe.yaml",
        "it was made of another prompt than prompt.md is now",
        "give another folder with --out, or go on from that recipe with unprompt run",
    ),
    "a distilled recipe and another model": (
        other_model,
        "recipe.yaml",
        "the recipe is there already, and --model says something else",
        "give another folder with --out, or go on from that recipe with unprompt run",
    ),
    "inputs over a file": (
        lambda b: b.fails(
            *("inputs", b.file("prompt.md", "Be kind."), "--out"), b.file("in.jsonl", "{}")
        ),
        "in.jsonl",
        "the file is there already",
        "choose another name with --out, or move it away",
    ),
    "inputs into a file of another kind": (
        lambda b: b.fails("inputs", b.file("prompt.md", "Be kind."), "--out", "in.csv"),
        "in.csv",
        "inputs are written as JSONL, and files are read by what their names end with",
        "choose a name that ends with .jsonl",
    ),
    "init over a recipe": (
        recipe_there,
        "recipe.yaml",
        "the recipe is there already",
        "choose another name with --out",
    ),
}


@pytest.fixture(scope="module")
def line_of(
    tmp_path_factory: pytest.TempPathFactory, decoder_folder: Path
) -> Iterator[Callable[[str], str]]:
    """A mistake's line on stderr; each mistake is made once."""
    lines: dict[str, str] = {}

    def make(name: str) -> str:
        if name not in lines:
            with pytest.MonkeyPatch.context() as patch:
                lines[name] = MISTAKES[name][0](
                    Bench(tmp_path_factory.mktemp("bench"), decoder_folder, patch)
                )
        return lines[name]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny models only wait for one another
    yield make
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gives_one_line(name: str, line_of: Callable[[str], str]) -> None:
    line, (_, where, what, fix) = line_of(name), MISTAKES[name]
    assert re.fullmatch(
        ".*".join(map(re.escape, ("error: ", where, what, " -> ", fix))) + ".*", line
    ), line


def test_the_faq_explains_each_line_once(line_of: Callable[[str], str]) -> None:
    """In docs/FAQ.md a line `> error: ...` quotes a message; three dots stand for what differs from
    case to case.
    """
    quoted = [
        line.removeprefix("> ")
        for line in FAQ.read_text("utf-8").splitlines()
        if line.startswith("> error:")
    ]
    explained = {
        name: [quote for quote in quoted if _fits(quote, line_of(name))] for name in MISTAKES
    }
    assert {name: found for name, found in explained.items() if len(found) != 1} == {}
    assert [quote for quote in quoted if [quote] not in explained.values()] == []


def _fits(quote: str, line: str) -> bool:
    return re.fullmatch(".+".join(map(re.escape, quote.split("..."))), line) is not None


def test_a_line_is_all_there_is(tmp_path: Path) -> None:
    """The same in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "unprompt", "run", "recpie.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "error: recpie.yaml: there is no such recipe -> give the path of a YAML recipe\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_what_was_removed_is_made_again(
    tmp_path: Path, decoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = Bench(tmp_path, decoder_folder, monkeypatch)
    b.works("run", b.recipe(), "--out", "out")
    (b.folder / "out" / "report.json").unlink()
    b.goes_on("recipe.yaml")
    shutil.rmtree(b.folder / "out" / "student")
    b.goes_on("recipe.yaml")
    assert (b.folder / "out" / "student" / "adapter_config.json").is_file()
