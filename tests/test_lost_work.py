"""A stop between two writes: nothing that was trained or measured is done again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from folders import digests
from unprompt import pipeline
from unprompt.recipe import Recipe
from unprompt.stages.evaluate import closeness
from unprompt.stages.train import kl, loop
from unprompt.stages.train.loop import LessonTrainer


class Stopped(BaseException):
    """A kill: nothing of ours catches it."""


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A batch of training each."""
    seen, compute = list[int](), LessonTrainer.compute_loss

    def counting(self: Any, *rest: Any, **options: Any) -> Any:
        seen.append(self.state.global_step)
        return compute(self, *rest, **options)

    monkeypatch.setattr(LessonTrainer, "compute_loss", counting)
    return seen


def _behind(verb: Any, count: int = 1) -> Any:
    """Do it, and be killed."""

    def stopping(*given: Any, **options: Any) -> Any:
        nonlocal count
        done, count = verb(*given, **options), count - 1
        if not count:
            raise Stopped
        return done

    return stopping


_remove = shutil.rmtree


def _removed(path: Any, **_: Any) -> None:
    _remove(path)
    raise Stopped


def _not_removed(path: Any, **_: Any) -> None:
    raise Stopped


KILLS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "the checkpoints are gone": lambda patch: patch.setattr(loop.shutil, "rmtree", _removed),
    "they are about to go": lambda patch: patch.setattr(loop.shutil, "rmtree", _not_removed),
    "the student is saved": lambda patch: patch.setattr(
        loop.RunDir, "write_text", _behind(loop.RunDir.write_text)
    ),
}


@pytest.fixture(scope="module")
def undisturbed(decoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    from conftest import tiny_recipe
    from unprompt.recipe import parse

    folder = tmp_path_factory.mktemp("undisturbed")
    return digests(pipeline.run(parse(tiny_recipe(decoder_folder)), folder / "run").folder)


@pytest.mark.parametrize("kill", KILLS)
def test_a_kill_around_the_end_of_a_training(
    kill: str,
    tiny: Callable[..., Recipe],
    tmp_path: Path,
    undisturbed: dict[str, str],
    steps: list[int],
) -> None:
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        save = loop._save

        def saving(*given: Any, **options: Any) -> None:
            KILLS[kill](patch)
            save(*given, **options)

        patch.setattr(loop, "_save", saving)
        with pytest.raises(Stopped):
            pipeline.run(tiny(), out)
    assert (out / "student").is_dir()
    assert steps.pop()
    steps.clear()
    pipeline.run(tiny(), out)
    assert steps == [], "batches were trained on again"
    assert not (out / "checkpoints").exists()
    assert not (out / "lessons.arrow").exists()
    assert digests(out) == undisturbed


def test_a_stop_while_kl_is_measured(
    tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 7 batches the third is lost, if each is written: two systems' 14, and 1 more."""
    held = [{"id": f"h{n}", "text": f"shade {n}", "target": "x"} for n in range(14)]
    made = tiny(evaluate={"data": {"rows": held}}, report={"watch": 0, "sampled": 0})
    measured, batches = list[int](), kl.batch_kl

    def counting(model: Any, batch: Any) -> Any:
        measured.append(batch.row_N.max().item() + 1)
        if len(measured) == 3:
            raise Stopped
        return batches(model, batch)

    monkeypatch.setattr(kl, "batch_kl", counting)
    monkeypatch.setattr(closeness, "_SECONDS", 0)
    out = tmp_path / "run"
    with pytest.raises(Stopped):
        pipeline.run(made, out)
    (begun,) = (out / "kl").glob("*.begun.json")
    assert len(json.loads(begun.read_text())) == 1 + 4, "a digest, and two batches of two"
    pipeline.run(made, out)
    assert len(measured) == 2 * 7 + 1
    assert not list((out / "kl").glob("*.begun.json"))

    monkeypatch.setattr(kl, "batch_kl", batches)
    pipeline.run(made, tmp_path / "whole")
    for path in (tmp_path / "whole" / "kl").iterdir():
        assert (out / "kl" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("fault", ["cut", "digit"])
def test_what_is_measured_and_broken_is_measured_again(
    fault: str, tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, measured = tiny(report={"watch": 0, "sampled": 0}), list[int]()
    batches = kl.batch_kl
    monkeypatch.setattr(closeness, "_SECONDS", 0)

    def stopping(model: Any, batch: Any) -> Any:
        measured.append(1)
        if len(measured) == 2:
            raise Stopped
        return batches(model, batch)

    monkeypatch.setattr(kl, "batch_kl", stopping)
    out = tmp_path / "run"
    with pytest.raises(Stopped):
        pipeline.run(made, out)
    (begun,) = (out / "kl").glob("*.begun.json")
    text = begun.read_text()
    at = text.rindex(".") + 1
    begun.write_text(
        text[:-9] if fault == "cut" else f"{text[:at]}{9 - int(text[at])}{text[at + 1 :]}"
    )
    pipeline.run(made, out)
    assert len(measured) == 2 + 2 * 2, "two batches of each of two systems"
