"""kill -9 at random moments in each stage, then the same command again: the same bytes as an undisturbed run, and nothing asked twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from conftest import tiny_recipe
from folders import digests, figures

STAGES: dict[str, Callable[[Path], bool]] = {
    "collect": lambda run: len(list(run.glob("completions/*/part-*.parquet"))) >= 2,
    "held-out": lambda run: len(list(run.glob("completions/*"))) >= 2,
    "train": lambda run: bool(list(run.glob("checkpoints/checkpoint-*"))),
    "evaluate": lambda run: (run / "train_log.json").exists(),
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, decoder_folder: Path) -> Path:
    """Long enough in each stage to be hit: 40 inputs, 60 steps with a checkpoint every 5, dropout to show that random states are restored."""
    words = tiny_recipe(decoder_folder)
    words["contexts"]["colours"]["inputs"] = [{"id": f"i{n}", "text": f"colour number {n}"} for n in range(40)]
    words["train"] = {"epochs": 12, "batch_size": 8, "learning_rate": 1e-3, "save_every": 5, "adapter": {"rank": 4, "dropout": 0.1}}
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(words))
    return path


def start(recipe: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "unprompt", "run", str(recipe), "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


def finish(recipe: Path, out: Path) -> str:
    process = start(recipe, out)
    said = process.communicate()[0].decode()
    assert process.returncode == 0, said
    return said


def kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.fixture(scope="module")
def undisturbed(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(recipe, out)
    return out


@pytest.mark.parametrize("stage", STAGES)
def test_killed_in_a_stage(stage: str, recipe: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(recipe, out)
    deadline = time.monotonic() + 120
    while not STAGES[stage](out) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(random.Random(stage).random() * 0.05)
    assert process.poll() is None, "the run was over before it could be killed"
    kill(process)
    assert not (out / "report.json").exists()
    parts = {path: path.stat().st_mtime_ns for path in out.glob("completions/*/part-*.parquet")}
    finish(recipe, out)
    assert {path: path.stat().st_mtime_ns for path in parts} == parts, "a finished part was written again"
    assert digests(out) == digests(undisturbed)
    assert figures(out) == figures(undisturbed)


def test_killed_again_and_again_at_random(recipe: Path, undisturbed: Path, tmp_path: Path) -> None:
    out, draw, kills = tmp_path / "run", random.Random(0), 0
    for _ in range(4):
        process = start(recipe, out)
        try:
            process.communicate(timeout=4 + 6 * draw.random())
        except subprocess.TimeoutExpired:
            kill(process)
            kills += 1
    assert kills >= 1
    finish(recipe, out)
    assert digests(out) == digests(undisturbed)


def test_a_second_run_does_nothing_and_says_so(recipe: Path, undisturbed: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.is_file() and path.name != ".lock"}
    said = finish(recipe, undisturbed)
    assert "nothing was done" in said
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.is_file() and path.name != ".lock"} == before
