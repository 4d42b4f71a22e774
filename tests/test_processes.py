"""Two processes train the student of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import two_processes
from conftest import tiny_recipe
from test_train import ragged_lessons
from unprompt import pipeline
from unprompt.messages import UserError
from unprompt.recipe import Train, load, parse
from unprompt.stages import train
from unprompt.store.tables import read_grades

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def together(*command: str, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    """Run something in two processes of one thread each."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*TORCHRUN, "--max-restarts", str(restarts), *command],
        capture_output=True,
        text=True,
        env=environment,
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("student/*.safetensors")
    return load_file(file)


def assert_same_student(one: Path, two: Path, atol: float, rtol: float) -> None:
    """Files of the same names, tensors of the same names, shapes and formats, and to rounding the
    same numbers.
    """
    assert sorted(p.name for p in (one / "student").iterdir()) == sorted(
        p.name for p in (two / "student").iterdir()
    )
    mine, theirs = weights(one), weights(two)
    assert {key: (value.shape, value.dtype) for key, value in mine.items()} == {
        key: (value.shape, value.dtype) for key, value in theirs.items()
    }
    for key, value in mine.items():
        torch.testing.assert_close(theirs[key], value, atol=atol, rtol=rtol)
    logs: list[Any] = [json.loads((folder / "train_log.json").read_text()) for folder in (one, two)]
    assert logs[0]["steps"] == logs[1]["steps"]
    for here, there in zip(logs[0]["losses"], logs[1]["losses"], strict=True):
        assert there == pytest.approx(here, rel=1e-3)
    assert not (two / "checkpoints").exists()


@pytest.fixture(scope="module")
def dealt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dealt")
    done = together(two_processes.__file__, str(folder), restarts=1)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", two_processes.CASES)
def test_two_processes_train_the_student_of_one(name: str, dealt: Path, tmp_path: Path) -> None:
    alone = two_processes.trained(name, tmp_path, ragged_lessons(10)).folder
    assert_same_student(alone, dealt / name, atol=2e-6, rtol=1e-5)
    read = int(
        (dealt / name / "read.txt").read_text()
    )  # by the first process: half of both epochs, or after the kill what was left
    tried = "fast" in name  # the longest lesson, ahead of training
    assert read == (4 if "killed" in name else 12 + tried), "it began anew"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, decoder_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    pipeline.run(parse(two_rounds(decoder_folder)), folder / "run")
    return folder / "run"


def two_rounds(model: Path, **trainer: Any) -> dict[str, Any]:
    """Two rounds, the second from the first's student; `trainer` is said to the second's
    trainer.
    """
    words = tiny_recipe(model)
    words["train"] |= {"trainer": {"optim": "sgd"}, "learning_rate": 0.05}
    second = (
        {"contexts": ["colours"], "train": {"trainer": {"optim": "sgd", **trainer}}}
        if trainer
        else {"contexts": ["colours"]}
    )
    return words | {"rounds": {"one": {"contexts": ["colours"]}, "two": second}}


def test_a_whole_run(alone: Path, decoder_folder: Path, tmp_path: Path) -> None:
    """Only the first process asks, grades and writes; the second one trains with it, in round `two`
    on half of the student.
    """
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text(yaml.safe_dump(two_rounds(decoder_folder, **two_processes.FSDP2)))
    done = together(two_processes.__file__, "run", str(recipe), "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done: ") == 1
    for part in ("rounds/one", "rounds/two"):
        assert (out / part / "lessons.parquet").read_bytes() == (
            alone / part / "lessons.parquet"
        ).read_bytes()
        assert_same_student(alone / part, out / part, atol=2e-6, rtol=1e-5)
    grades = {
        run: [(g.system, g.example_id, g.text) for g in read_grades(run / "grades.parquet")]
        for run in (alone, out)
    }
    assert grades[alone] == grades[out]
    assert not list(out.rglob("*.arrow"))
    assert "FSDP or DeepSpeed shards the student" in done.stderr
    assert pipeline.run(load(recipe), out).unchanged, (
        "one process did not go on from the students of two"
    )


def test_a_failure_of_the_first_process_ends_all(decoder_folder: Path, tmp_path: Path) -> None:
    words = tiny_recipe(decoder_folder)
    words["contexts"]["colours"]["inputs"] = "missing.jsonl"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(words))
    done = together("-m", "unprompt", "run", str(recipe), "--out", str(tmp_path / "run"))
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "missing.jsonl" in line


@pytest.mark.parametrize(
    ("batch", "micro", "count", "want"),
    [
        (16, None, 1, (16, 1)),
        (16, None, 2, (8, 1)),
        (16, 4, 2, (4, 2)),
        (16, 16, 4, (4, 1)),
        (16, 8, 1, (8, 2)),
        (5, None, 2, None),
        (12, 4, 2, None),
        (2, None, 4, None),
    ],
)
def test_the_batch_is_that_of_all_processes(
    batch: int, micro: int | None, count: int, want: tuple[int, int] | None
) -> None:
    settings = Train(batch_size=batch, micro_batch_size=micro)
    if want is None:
        with pytest.raises(UserError, match=f"a batch of {batch} lessons can't be divided"):
            train.shares(settings, count)
    else:
        assert train.shares(settings, count) == want
