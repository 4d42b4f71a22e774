"""`unprompt init --logs`: a recipe that runs, around the prompt that logs hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import unprompt
from test_logs import SYSTEM, TALK, assistant, user, written
from unprompt import cli, pipeline
from unprompt.messages import UserError
from unprompt.recipe import parse
from unprompt.stages.check import check
from unprompt.tools import logs

COLOURS = ["red", "green", "blue", "black", "white", "pink"]


def many(count: int, system: str = str(SYSTEM["content"])) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "system", "content": system},
                user(f"A {COLOURS[n % 6]} lamp, number {n}?"),
                assistant("Yes."),
                user("How much?"),
                assistant(f"{n} euros."),
            ]
        }
        for n in range(count)
    ]


def test_a_log_becomes_a_recipe_that_runs(tmp_path: Path, decoder_folder: Path) -> None:
    log = written(tmp_path, [*many(30), *many(3, "Rare.")], "log.jsonl.gz")
    out = tmp_path / "made" / "recipe.yaml"
    lines = logs.write(log, out, str(decoder_folder))
    assert any("the system prompt of 91% of them (30)" in line for line in lines)
    assert any("3 with 1 other system prompts, or none, are left out" in line for line in lines)
    assert (out.parent / "system.md").read_text() == f"{SYSTEM['content']}\n"
    assert lines == logs.write(log, out, str(decoder_folder)), "again, with nothing changed"
    small = ["contexts.main.inputs.limit=12", "sampling.max_new_tokens=4", "train.epochs=1"]
    recipe = unprompt.load(out, [*small, "report.instructions=0", "labels.draws=5"])
    checked = check(recipe)
    assert any("3 with another system prompt" in line for line in checked.lines)
    taught, held = checked.prompts.inputs.taught["main"], checked.prompts.inputs.held_out["main"]
    assert len(taught) + len(held) == 12
    groups = [{row.fields["conversation"] for row in rows} for rows in (taught, held)]
    assert not groups[0] & groups[1]
    long, short = checked.prompts.teacher["main"].prompts[0], checked.prompts.student["main"]
    assert long.content[0] == SYSTEM
    assert long.content[1:] == short.prompts[0].content
    report = pipeline.run(recipe, tmp_path / "run").report
    assert report["verdict"]["verdict"] == "look closer"
    assert report["contexts"]["main"]["likeness"]["groups"]


def test_several_common_system_prompts_are_several_contexts(tmp_path: Path) -> None:
    log = written(tmp_path, [*many(40), *many(25, "Another one.")])
    logs.write(log, tmp_path / "recipe.yaml", "x")
    made = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    assert list(made["contexts"]) == ["main", "main_2"]
    assert made["contexts"]["main_2"]["inputs"]["system"] == "system_2.md"
    assert (tmp_path / "system_2.md").read_text() == "Another one.\n"
    parse(made | {"model": "x"})


def test_a_log_without_a_system_prompt_is_refused(tmp_path: Path) -> None:
    log = written(tmp_path, [{"messages": TALK}] * 3)
    with pytest.raises(UserError, match="none of its 3 conversations has a system prompt"):
        logs.write(log, tmp_path / "recipe.yaml", "x")


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    log = written(tmp_path, many(30))
    (tmp_path / "system.md").write_text("mine")
    with pytest.raises(UserError, match="holds something else"):
        logs.write(log, tmp_path / "recipe.yaml", "x")
    assert not (tmp_path / "recipe.yaml").exists()


def test_a_prompt_and_logs_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in ([], ["prompt.md", "--logs", "log.jsonl"]):
        monkeypatch.setattr("sys.argv", ["unprompt", "init", *arguments])
        with pytest.raises(UserError, match="a recipe begins with a prompt"):
            cli.app(standalone_mode=False)
