"""Gap closed on held-out inputs along the training: what is measured, and that nobody is the other
for it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

import unprompt
from unprompt.recipe import Recipe


def test_what_a_watched_student_was_on_the_way(tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    train = {
        "epochs": 4,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "schedule": "constant",
        "warmup": 0.0,
        "adapter": {"rank": 4},
    }
    watched = unprompt.run(tiny(train=train, report={"watch": 2}), tmp_path / "watched")
    alone = unprompt.run(tiny(train=train, report={"watch": 0}), tmp_path / "alone")
    half = unprompt.run(tiny(train={**train, "epochs": 2}, report={"watch": 0}), tmp_path / "half")
    [a], [b] = (list((run.folder / "student").glob("*.safetensors")) for run in (watched, alone))
    first, second = load_file(a), load_file(b)
    assert all((first[key] == second[key]).all() for key in first), "the student is the same"
    assert "held_out" not in alone.report["rounds"]["after"]
    found = watched.report["rounds"]["after"]["held_out"]["colours"]
    assert [p["step"] for p in found["points"]] == [4, 8]
    assert found["inputs"] == 3
    values = [
        run.report["contexts"]["colours"]["systems"]["after"]["gap_closed"]["value"]
        for run in (half, watched)
    ]
    assert [p["gap_closed"] for p in found["points"]] == pytest.approx(values, abs=1e-5), (
        "a training of half as many steps ends there"
    )
    assert "Gap closed on held-out inputs" in (tmp_path / "watched" / "report.html").read_text(
        "utf-8"
    )
