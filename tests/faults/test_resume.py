"""kill -9 in each stage, then the same command again: the same bytes as an undisturbed run, and
nothing asked twice.
"""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from faults.conftest import Warm, Whole, undisturbed, words
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


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory, decoder_folder: Path) -> Path:
    """Long enough in each stage to be hit: 40 inputs, 60 steps with a checkpoint every 5, dropout
    to show that random states are restored.
    """
    made = words(decoder_folder)
    made["contexts"]["colours"]["inputs"] = [
        {"id": f"i{n}", "text": f"colour number {n}"} for n in range(40)
    ]
    made["train"] |= {"epochs": 12, "save_every": 5}
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(made))
    return path


def killed(warm: Warm, recipe: Path, out: Path, **moment: Any) -> None:
    assert warm.start(recipe, out, moment=moment).wait() == -signal.SIGKILL
    assert not (out / "report.json").exists()


@pytest.fixture(scope="module")
def long_whole(warm: Warm, long: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return undisturbed(warm, long, tmp_path_factory.mktemp("undisturbed") / "run")


@pytest.mark.parametrize("stage", STAGES)
def test_killed_in_a_stage(
    stage: str, warm: Warm, long: Path, long_whole: Whole, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    killed(warm, long, out, **STAGES[stage], steps=random.Random(stage).randint(1, MOST))
    parts = {path: path.stat().st_mtime_ns for path in out.glob("completions/*/part-*.parquet")}
    warm.run(long, out)
    assert {path: path.stat().st_mtime_ns for path in parts} == parts, (
        "a finished part was written again"
    )
    assert digests(out) == digests(long_whole.folder)
    assert figures(out) == figures(long_whole.folder)


def test_killed_again_and_again(warm: Warm, long: Path, long_whole: Whole, tmp_path: Path) -> None:
    """Each time within so few steps that as many are still left."""
    out, draw = tmp_path / "run", random.Random(0)
    steps = sum(long_whole.steps.values())
    for _ in range(KILLS):
        killed(warm, long, out, steps=draw.randint(1, steps // (KILLS + 1)))
    warm.run(long, out)
    assert digests(out) == digests(long_whole.folder)


def test_a_second_run_does_nothing_and_says_so(warm: Warm, long: Path, long_whole: Whole) -> None:
    def times() -> dict[Path, int]:
        return {
            path: path.stat().st_mtime_ns
            for path in long_whole.folder.rglob("*")
            if path.is_file() and path.name != ".lock"
        }

    before = times()
    assert "nothing was done" in warm.run(long, long_whole.folder)
    assert times() == before
