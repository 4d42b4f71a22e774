"""`inputs.min_gain`: training inputs to which the prompt changes nothing give no lesson."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import unprompt
from unprompt.messages import UserError
from unprompt.recipe import Recipe
from unprompt.stages import check
from unprompt.stages.evaluate import closeness

ROWS = [
    {"id": f"i{n}", "text": text, "hint": "" if n % 2 else "Say it in a long, long sentence. "}
    for n, text in enumerate(["red", "green", "blue", "yellow", "black", "white"])
]
"""To every second one the teacher's prompt says no more than the student's."""


def contexts(least: float | None = 0.01, **more: Any) -> dict[str, Any]:
    inputs: dict[str, Any] = {"rows": ROWS, "min_gain": least}
    teacher, student = "{{ hint }}{{ text }}:", "{{ text }}:"
    return {"colours": {"inputs": inputs, "teacher": teacher, "student": student, **more}}


HELD = {"data": {"rows": [{"id": "h", "text": "gold", "hint": "Be long. "}]}, "metrics": []}

PART = {"data": {"rows": ROWS, "min_gain": 1}, "share": 1}


@pytest.fixture
def made(tiny: Callable[..., Recipe]) -> Callable[..., Recipe]:
    def make(least: float | None = 0.01, **sections: Any) -> Recipe:
        return tiny(**{"contexts": contexts(least), "evaluate": HELD, **sections})

    return make


def test_inputs_that_teach_nothing_are_left_out(
    made: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = unprompt.run(made(), tmp_path / "run")
    assert {lesson.example_id for lesson in run.lessons()} == {"i0", "i2", "i4"}
    said = "3 of 6 inputs are left out: their context gain is under 0.01 nats per token"
    assert said in " ".join(capsys.readouterr().err.split())
    entry = run.report["contexts"]["colours"]
    assert (entry["inputs"], entry["lessons"]) == (6, 3)
    gain = entry["training_gain"]
    assert (gain["examples"], gain["left_out"], gain["min_gain"]) == (6, 3, 0.01)
    assert gain["counts"][0] == gain["nothing"] == 3
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "3 of 6 training inputs were left out (under 0.01 nats per token)" in page
    (tmp_path / "run" / "report.json").unlink()
    read = list[str]()
    whole = closeness.read_kl
    monkeypatch.setattr(
        closeness, "read_kl", lambda *rest, **more: read.append("") or whole(*rest, **more)
    )
    again = unprompt.run(made(), tmp_path / "run")
    assert again.report["contexts"]["colours"]["training_gain"] == gain
    assert not read, "what was measured is kept"
    assert unprompt.run(made(None), tmp_path / "run").report["contexts"]["colours"]["lessons"] == 6


def test_the_gain_is_the_loss_ahead_of_training(
    made: Callable[..., Recipe], tmp_path: Path
) -> None:
    """The tiny model writes no end, so every label is the teacher's."""
    run = unprompt.run(made(1e-4, lessons={"end_token": False}), tmp_path / "run")
    gain = run.report["contexts"]["colours"]["training_gain"]
    assert gain["left_out"] == 3, "equal prompts gain nothing at all"
    held = run.report["contexts"]["colours"]["context_gain"]
    assert held["examples"] == 1
    one = made(1e-4, contexts=contexts(1e-4, inputs={"rows": ROWS[:1], "min_gain": 1e-4}))
    alone = unprompt.run(one, tmp_path / "one").report
    mean = alone["contexts"]["colours"]["training_gain"]["mean"]
    assert alone["rounds"]["after"]["first_loss"] == pytest.approx(mean, rel=1e-4)


def test_an_inputs_gain_is_the_mean_over_its_answers(
    made: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = made(sampling={"max_new_tokens": 4, "per_input": 2})
    run = unprompt.run(recipe, tmp_path / "run")
    assert {each.example_id for each in run.lessons()} == {
        *("i0", "i0/2", "i2", "i2/2", "i4", "i4/2")
    }
    assert run.report["contexts"]["colours"]["training_gain"]["examples"] == 6


def test_nothing_left_is_said(made: Callable[..., Recipe], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"all 6 inputs would be left out: none has a context gain"):
        unprompt.run(made(1000), tmp_path / "run")


@pytest.mark.parametrize("kind", ["hard", "top_k"])
def test_labels_that_tell_no_distribution_are_refused(
    made: Callable[..., Recipe], kind: str
) -> None:
    with pytest.raises(UserError, match=f"labels.kind: {kind} keeps only a part of it"):
        check.check(made(labels={"kind": kind}))


@pytest.mark.parametrize(
    ("sections", "what"),
    [
        ({"contexts": contexts(teacher=None, gold="x")}, "none is asked here"),
        ({"evaluate": {"data": {"rows": ROWS, "min_gain": 1}}}, "of all inputs of a context"),
        ({"contexts": contexts(inputs={"mix": 2 * [PART]})}, r"mix\.0\.data\.min_gain is of all"),
    ],
)
def test_it_stands_where_a_teacher_answers(
    made: Callable[..., Recipe], sections: dict[str, Any], what: str
) -> None:
    with pytest.raises(UserError, match=what):
        made(**sections)


def test_check_counts_the_reading(made: Callable[..., Recipe]) -> None:
    def passes(least: float | None) -> float:
        return sum(each.side.read for each in check.check(made(least)).plan.passes)

    student = check.check(made()).prompts.student["colours"]
    assert passes(0.01) - passes(None) == student.read
