"""kill -9 in each stage, then the same command again: the same bytes as an undisturbed run, and
nothing asked twice.
"""

from __future__ import annotations

import json
import random
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import moments
from conftest import tiny_recipe
from folders import digests, figures

STAGES: dict[str, dict[str, Any]] = {
    "collect": {"file": "completions/*/part-*.parquet", "nth": 2},
    "held-out": {"file": "completions/*", "nth": 2},
    "train": {"file": "checkpoints/checkpoint-*"},
    "evaluate": {"file": "train_log.json"},
}
"""Stage -> the file that shows that a run is in it."""
MOST = 200
"""Steps (changes to files, layers computed) from there to the kill: fewer than a stage has."""
KILLS = 4


@dataclass(frozen=True)
class Whole:
    """An undisturbed run: its folder, and how many steps it took."""

    folder: Path
    steps: int


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, decoder_folder: Path) -> Path:
    """Long enough in each stage to be hit: 40 inputs, 60 steps with a checkpoint every 5, dropout
    to show that random states are restored.
    """
    words = tiny_recipe(decoder_folder)
    words["contexts"]["colours"]["inputs"] = [
        {"id": f"i{n}", "text": f"colour number {n}"} for n in range(40)
    ]
    words["train"] = {
        "epochs": 12,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "save_every": 5,
        "adapter": {"rank": 4, "dropout": 0.1},
    }
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(words))
    return path


def finish(recipe: Path, out: Path, **told: Any) -> str:
    done = moments.run(told, "run", str(recipe), "--out", str(out))
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def killed(recipe: Path, out: Path, **moment: Any) -> None:
    done = moments.run(moment, "run", str(recipe), "--out", str(out))
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (out / "report.json").exists()


@pytest.fixture(scope="module")
def undisturbed(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(recipe, folder / "run", counts=str(folder / "steps"))
    return Whole(folder / "run", sum(json.loads((folder / "steps").read_text()).values()))


@pytest.mark.parametrize("stage", STAGES)
def test_killed_in_a_stage(stage: str, recipe: Path, undisturbed: Whole, tmp_path: Path) -> None:
    out = tmp_path / "run"
    killed(recipe, out, **STAGES[stage], steps=random.Random(stage).randint(1, MOST))
    parts = {path: path.stat().st_mtime_ns for path in out.glob("completions/*/part-*.parquet")}
    finish(recipe, out)
    assert {path: path.stat().st_mtime_ns for path in parts} == parts, (
        "a finished part was written again"
    )
    assert digests(out) == digests(undisturbed.folder)
    assert figures(out) == figures(undisturbed.folder)


def test_killed_again_and_again(recipe: Path, undisturbed: Whole, tmp_path: Path) -> None:
    """Each time within so few steps that as many are still left."""
    out, draw = tmp_path / "run", random.Random(0)
    for _ in range(KILLS):
        killed(recipe, out, steps=draw.randint(1, undisturbed.steps // (KILLS + 1)))
    finish(recipe, out)
    assert digests(out) == digests(undisturbed.folder)


def test_a_second_run_does_nothing_and_says_so(recipe: Path, undisturbed: Whole) -> None:
    def times() -> dict[Path, int]:
        return {
            path: path.stat().st_mtime_ns
            for path in undisturbed.folder.rglob("*")
            if path.is_file() and path.name != ".lock"
        }

    before = times()
    assert "nothing was done" in finish(recipe, undisturbed.folder)
    assert times() == before
