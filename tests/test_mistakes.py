"""The likely mistakes of a new user: each gives one line that says where, what and how to mend it, and nothing is lost.

`MISTAKES` makes each of them through the command line. docs/FAQ.md explains them; the last tests hold the two together.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import yaml
from conftest import byte_tokenizer, decoder, tiny_recipe
from rich.console import Console

from unprompt import cli, progress, rundir
from unprompt.engines.hf import HFEngine

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
        patch.setattr(progress, "console", Console(file=io.StringIO()))
        patch.setattr(sys, "path", [*sys.path])
        patch.chdir(folder)

    def file(self, name: str, content: str | bytes) -> str:
        (self.folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return name

    def recipe(self, **sections: Any) -> str:
        """recipe.yaml: the tiny recipe with other sections; None takes one out."""
        words = {key: value for key, value in (tiny_recipe(self.model) | sections).items() if value is not None}
        return self.file("recipe.yaml", yaml.safe_dump(words))

    def context(self, **parts: Any) -> str:
        """recipe.yaml with other parts in its context."""
        words = tiny_recipe(self.model)["contexts"]["colours"] | parts
        return self.recipe(contexts={"colours": {key: value for key, value in words.items() if value is not None}})

    def command(self, *arguments: str) -> tuple[int, list[str]]:
        """Exit code and lines on stderr."""
        said = io.StringIO()
        self.patch.setattr(sys, "argv", ["unprompt", *arguments])
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()), pytest.raises(SystemExit) as end:
            cli.main()
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

    def left(self, pattern: str) -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in self.folder.glob(pattern)}


def rows(count: int, at: int | None = None, instead: str = "") -> str:
    lines = [f'{{"id": "i{n}", "text": "colour {n}"}}' for n in range(1, count + 1)]
    if at:
        lines[at - 1] = instead
    return "\n".join(lines) + "\n"


# -- mistakes that take more than a line ------------------------------------------------------------------------------


def no_chat_template(b: Bench) -> str:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    decoder().save_pretrained(b.folder / "base")
    tokenizer.save_pretrained(b.folder / "base")
    b.recipe()
    return b.fails("check", b.context(teacher=[{"role": "user", "content": "{{ text }}"}]), "--set", "model=./base")


def never_matching(b: Bench) -> str:
    """Stops ahead of training; with the extractor mended, the teacher is not asked again."""
    line = b.fails("run", b.context(extract={"after": "Final answer:"}), "--out", "out")
    assert sorted(b.asked) == [f"i{n}" for n in range(8)]
    assert not b.left("out/lessons.parquet")
    assert not b.left("out/checkpoints")
    kept = b.left("out/completions/*/*.parquet")
    assert kept
    b.works("run", b.context(extract="whole"), "--out", "out")
    assert len(b.asked) == 8 + 2 * 0
    assert (b.folder / "out/report.json").is_file()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    return line


def disk_full(b: Bench) -> str:
    """The disk fills up at the second part: the first is kept, and a second run asks only what is missing."""
    write = pyarrow.parquet.write_table

    def full(table: Any, path: Any, **options: Any) -> None:
        write(table, path, **options)
        if "part-00001" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyarrow.parquet, "write_table", full)
        line = b.fails("run", b.recipe(), "--out", "out")
    kept = b.left("out/completions/*/part-*.parquet")
    assert [path.name for path in kept] == ["part-00000.parquet"]
    assert len(b.asked) == 8
    b.works("run", "recipe.yaml", "--out", "out")
    assert len(b.asked) == 8 + 4
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    return line


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


def recipe_there(b: Bench) -> str:
    b.file("prompt.txt", "Name the colour of {{ text }}.")
    b.works("init", "prompt.txt")
    before = (b.folder / "recipe.yaml").read_text()
    line = b.fails("init", "prompt.txt")
    assert (b.folder / "recipe.yaml").read_text() == before
    return line


Mistake = tuple[Callable[[Bench], str], str, str, str]
"""What triggers it, and what its line says: where, what, how to mend it."""
MISTAKES: dict[str, Mistake] = {
    # the recipe
    "misspelt key": (lambda b: b.fails("check", b.recipe(contxts={})), "recipe.yaml", "unknown key 'contxts'", "did you mean 'contexts'?"),
    "misspelt key in train": (
        lambda b: b.fails("check", b.recipe(train={"learning_rte": 1e-3})),
        "recipe.yaml", "unknown key 'train.learning_rte'", "did you mean 'learning_rate'?",
    ),
    "misspelt key in a context": (
        lambda b: b.fails("check", b.context(techer="{{ text }}")), "recipe.yaml", "unknown key 'contexts.colours.techer'", "did you mean 'teacher'?",
    ),
    "key of another tool": (
        lambda b: b.fails("check", b.recipe(optimizer="adam")), "recipe.yaml", "unknown key 'optimizer'", "valid keys: name, model",
    ),
    "missing section": (lambda b: b.fails("check", b.recipe(contexts=None)), "recipe.yaml", "'contexts' is missing", "add it"),
    "wrong type": (
        lambda b: b.fails("check", b.recipe(train={"epochs": "many"})), "recipe.yaml", "'train.epochs': Input should be a valid number", "mend the value",
    ),
    "no recipe": (lambda b: b.fails("run", "recpie.yaml"), "recpie.yaml", "there is no such recipe", "give the path"),
    "broken YAML": (
        lambda b: b.fails("check", b.file("recipe.yaml", "name: a\nmodel: b\ncontexts: {c: [\n")), "recipe.yaml:4", "not YAML", "mend the indentation",
    ),
    "not a mapping": (lambda b: b.fails("check", b.file("recipe.yaml", "- a\n- b\n")), "recipe.yaml", "a recipe is a mapping", "unprompt init"),
    "extractor misspelt": (
        lambda b: b.fails("check", b.context(extract="frist_line")), "recipe.yaml", "'frist_line' is not whole, first_line", "first_line",
    ),
    "broken micro-batch": (
        lambda b: b.fails("check", b.recipe(train={"batch_size": 16, "micro_batch_size": 3})),
        "recipe.yaml", "batch_size 16 is not a multiple of micro_batch_size 3", "mend the value",
    ),
    "trainer argument": (
        lambda b: b.fails("check", b.recipe(train={"trainer": {"warmup_ratoi": 0.1}})), "train.trainer", "'warmup_ratoi'", "TrainingArguments",
    ),
    "--set without a value": (lambda b: b.fails("check", b.recipe(), "--set", "train.epochs"), "--set", "not 'train.epochs'", "--set train.epochs=3"),
    "--set into a value": (
        lambda b: b.fails("check", b.recipe(), "--set", "model.dtype=float32"), "--set model.dtype=float32", "'model' is not a section", "as a whole",
    ),
    # data
    "no inputs file": (
        lambda b: b.fails("check", b.context(inputs="inptus.jsonl")), "contexts.colours.inputs", "there is no such file", "from the recipe's folder",
    ),
    "empty inputs": (lambda b: b.inputs("in.jsonl", ""), "in.jsonl", "there is nothing in it", "at least one row"),
    "broken JSON": (lambda b: b.inputs("in.jsonl", rows(20, 17, '{"text": "a"')), "in.jsonl:17", "not JSON", "mend or remove that line"),
    "CSV columns": (lambda b: b.inputs("in.csv", "id,text\n1,red\n2,green, or not\n"), "in.csv:3", "has not the 2 columns", "quote fields"),
    "file ending": (lambda b: b.inputs("in.xlsx", "a"), "in.xlsx", "'.xlsx' is not a known data format", "use .jsonl"),
    "not UTF-8": (lambda b: b.inputs("in.jsonl", '{"text": "gr\xfcn"}'.encode("latin-1")), "in.jsonl", "not UTF-8", "save the file as UTF-8"),
    "id twice": (
        lambda b: b.inputs("in.jsonl", rows(5, 4, '{"id": "i2", "text": "red"}')), "in.jsonl", "id 'i2' occurs twice (rows 2 and 4)", "make 'id' unique",
    ),
    "rule not there": (
        lambda b: b.fails("check", b.context(inputs={"rule": "colours_rule:make"})), "contexts.colours.inputs", "'colours_rule:make' can't be imported", "beside the recipe",
    ),
    "rule fails": (
        lambda b: (b.file("failing_rule.py", "def make():\n    yield {'text': 1 / 0}\n"), b.fails("check", b.context(inputs={"rule": "failing_rule:make"})))[1],
        "contexts.colours.inputs (failing_rule:make)", "the rule failed: ZeroDivisionError: division by zero", "mend the function",
    ),
    "no gold answer": (
        lambda b: b.fails("check", b.recipe(evaluate={"data": [{"id": "h1", "text": "grey", "colour": "g"}]})),
        "evaluate.data.target", "example 'h1' has no gold answer in field 'target'", "the data has: id, text, colour",
    ),
    "unknown metric": (
        lambda b: b.fails("check", b.recipe(), "--set", "evaluate.metrics=[acuracy]"), "evaluate.metrics", "no metric 'acuracy'", "did you mean 'accuracy'?",
    ),
    "hub data": (
        lambda b: b.fails("check", b.context(inputs={"hub": "nobody/nothing-here"})), "contexts.colours.inputs", "the hub data set can't be loaded", "name, split and network",
    ),
    # templates
    "unknown field": (
        lambda b: b.fails("check", b.context(teacher="Colour of {{ txt }}:")), "contexts.colours.teacher", "'txt' is undefined in input 'i0'", "the data has: examples, id, text",
    ),
    "broken template": (
        lambda b: b.fails("check", b.context(teacher="{% for e in examples %}{{ e.text }}\n{{ text }}")), "contexts.colours.teacher, line 2", "not a Jinja2 template", "mend",
    ),
    "template out of its sandbox": (
        lambda b: b.fails("check", b.context(teacher="{{ ''.__class__.__mro__ }}")), "contexts.colours.teacher", "SecurityError: access to attribute '__class__'", "mend the template",
    ),
    "template that changes the examples": (
        lambda b: b.fails("check", b.context(teacher="{{ examples.append(1) }}")), "contexts.colours.teacher", "SecurityError: access to attribute 'append'", "mend the template",
    ),
    "empty prompt": (
        lambda b: b.fails("check", b.context(inputs=[{"id": "a", "text": "red"}, {"id": "b", "text": ""}], student="{{ text }}")),
        "contexts.colours.student", "the prompt of input 'b' is empty", "give the template some text",
    ),
    "over the window": (
        lambda b: b.fails("check", b.context(inputs=[{"id": "a", "text": "red"}, {"id": "b", "text": "red " * 200}])),
        "contexts.colours.teacher", "the prompt of input 'b' has", "fewer examples",
    ),
    # the model
    "no model folder": (lambda b: b.fails("check", b.recipe(model="./modle")), "modle", "there is no model in this folder", "check the path"),
    "no hub model": (lambda b: b.fails("check", b.recipe(model="nobody/nothing-here")), "model (nobody/nothing-here)", "the model can't be loaded", "give a hub id"),
    "package not installed": (
        lambda b: b.fails("check", b.recipe(model={"gguf": "pkg:llm_nothing/a.gguf"})), "pkg:llm_nothing/a.gguf", "the package llm_nothing is not installed", "pip install",
    ),
    "path out of its package": (
        lambda b: b.fails("check", b.recipe(model={"gguf": "pkg:yaml/../../secret.gguf"})), "pkg:yaml/../../secret.gguf", "the path leaves the package", "inside the package",
    ),
    "no chat template": (no_chat_template, "contexts.colours.teacher", "this model has no chat template", "plain text"),
    # extraction
    "extractor never matches": (never_matching, "contexts.colours.extract", "8 of 8 answers could not be extracted", "the completions are kept"),
    # running
    "disk full": (disk_full, "part-00001.parquet", "No space left on device", "what is finished is kept"),
    "folder not writable": (not_writable, "out", "can't be written: Permission denied", "--out"),
    "a file where the folder should be": (lambda b: b.fails("run", b.recipe(), "--out", b.file("out", "")), "out", "can't be written", "--out"),
    "two runs at once": (locked, "out", "another run is at work in this folder", "wait for it, or choose --out"),
    "show without a run": (lambda b: b.fails("show", "."), ".", "there is no run here", "unprompt run RECIPE"),
    "show an unknown id": (unknown_id, "out", "there is no example 'i99'", "give the id"),
    "init without a prompt": (lambda b: b.fails("init", "promt.txt"), "promt.txt", "there is no such prompt file", "give the path"),
    "init over a recipe": (recipe_there, "recipe.yaml", "the recipe is there already", "--out"),
}  # fmt: skip


@pytest.fixture(scope="module")
def line_of(tmp_path_factory: pytest.TempPathFactory, decoder_folder: Path) -> Callable[[str], str]:
    """A mistake's line on stderr; each mistake is made once."""
    lines: dict[str, str] = {}

    def make(name: str) -> str:
        if name not in lines:
            with pytest.MonkeyPatch.context() as patch:
                lines[name] = MISTAKES[name][0](Bench(tmp_path_factory.mktemp("bench"), decoder_folder, patch))
        return lines[name]

    return make


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gives_one_line(name: str, line_of: Callable[[str], str]) -> None:
    line, (_, where, what, fix) = line_of(name), MISTAKES[name]
    assert re.fullmatch(".*?".join(map(re.escape, ("error: ", where, what, " -> ", fix))) + ".*", line), line
