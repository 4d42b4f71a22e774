"""Lessons stay on disk while a student trains, and it is the student of lessons in memory."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from conftest import decoder
from test_train import ragged_lessons
from unprompt.messages import UserError
from unprompt.recipe import Train
from unprompt.records import Lesson
from unprompt.stages import train
from unprompt.store.folder import RunDir
from unprompt.store.stored import StoredLessons
from unprompt.store.tables import read_lessons, write_lessons

BENCHMARK = Path(__file__).parent.parent / "benchmarks/lesson_memory.py"


def same(one: Lesson, two: Lesson) -> bool:
    plain = (one.example_id, one.context, one.input_ids, one.prompt_length) == (
        two.example_id,
        two.context,
        two.input_ids,
        two.prompt_length,
    )
    if one.loss_weight != two.loss_weight:
        return False
    arrays = [
        (x.weights, x.labels.ids, x.labels.probs, x.labels.offsets, x.labels.teacher_nll)
        for x in (one, two)
    ]
    return plain and all(
        a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(*arrays, strict=True)
    )


@pytest.mark.parametrize("count", [1, 32, 33, 5000])
def test_every_lesson_is_read_as_it_was_written(count: int, tmp_path: Path) -> None:
    """5,000: more than are written together."""
    lessons, path = ragged_lessons(count), tmp_path / "lessons.parquet"
    lessons[-1] = dataclasses.replace(lessons[-1], loss_weight=5 / 9)
    write_lessons(path, iter(lessons))
    stored = StoredLessons.copied(path)
    assert len(stored) == count
    for number in np.random.default_rng(0).permutation(count)[:200].tolist():
        assert same(stored[number], lessons[number])
    assert same(stored[-1], lessons[-1])
    assert all(same(a, b) for a, b in zip(stored[:40], lessons[:40], strict=True))
    assert all(same(a, b) for a, b in zip(read_lessons(path), lessons, strict=True))
    assert len(pickle.loads(pickle.dumps(stored))) == count
    with pytest.raises(IndexError):
        stored[count]


def test_lessons_of_an_older_run_are_read(tmp_path: Path) -> None:
    lessons, path = ragged_lessons(3), tmp_path / "lessons.parquet"
    write_lessons(path, iter(lessons))
    pq.write_table(pq.read_table(path).drop_columns(["loss_weight"]), path)
    assert all(same(a, b) for a, b in zip(read_lessons(path), lessons, strict=True))
    pq.write_table(pq.read_table(path).drop_columns(["weights"]), path)
    with pytest.raises(UserError, match="its columns are not those"):
        read_lessons(path)


def test_a_changed_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "lessons.parquet"
    write_lessons(path, ragged_lessons(200))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"lessons\.parquet"):
        StoredLessons.copied(path)
    assert not list(tmp_path.glob("*.arrow"))


def test_the_student_is_the_same_bit_for_bit(tokenizer: Any, tmp_path: Path) -> None:
    write_lessons(tmp_path / "lessons.parquet", ragged_lessons(40))
    stored = StoredLessons.copied(tmp_path / "lessons.parquet")
    digests = []
    for name, lessons in (("memory", ragged_lessons(40)), ("disk", stored)):
        student, settings = (
            train.attach_adapter(decoder(), Train(), 0),
            Train(batch_size=8, epochs=2),
        )
        train.train(
            student,
            tokenizer,
            lessons,
            settings,
            RunDir(tmp_path / name),
            seed=0,
            made_from="x",
            variants=2,
        )
        digests.append(
            hashlib.sha256(
                (tmp_path / name / "student/adapter_model.safetensors").read_bytes()
            ).digest()
        )
    assert digests[0] == digests[1]


def test_memory_stays_flat(tmp_path: Path) -> None:
    """Training itself takes 60 MB at its first step; 30,000 lessons in memory would take 120 MB
    more. A million: docs/scale.md.
    """
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--lessons", "30000"],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [
        line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.count("|") > 2
    ][2:]
    resident = {what: float(megabytes) for what, megabytes, *_ in rows}
    written = next(mb for what, mb in resident.items() if what.startswith("written"))
    assert resident["highest"] - written < 110, done.stdout
    assert resident["trained on 30,000"] - resident["trained on 3,000"] < 20, done.stdout
