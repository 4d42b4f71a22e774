"""Coverage: which instructions of a prompt the inputs exercise that a model wrote from it, and the
inputs that are written for those that none does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import unprompt
from test_written import Hand, wide
from unprompt.recipe import FromPrompt, Recipe
from unprompt.records import Example, Lesson, Prompt
from unprompt.stages import check, coverage
from unprompt.stages.evaluate import closeness

IDLE = "- Be kind."
"""What no input of the first draws exercises, in some tests."""


def contexts(**settings: Any) -> dict[str, Any]:
    teacher = f"Say what the colour is like.\n- Be short.\n{IDLE}\n{{{{ text }}}}:"
    source = {"from_prompt": {"count": 6, "max_new_tokens": 20, **settings}}
    return {"colours": {"inputs": source, "teacher": teacher, "student": "{{ text }}:"}}


def by_number(prompt: Prompt) -> str:
    if prompt.example_id.startswith("list"):
        return "- something warm"
    number = int(prompt.example_id[-2:])
    return "colour " + 3 * "abcdefghijklmnopqrstuvwxyz"[number] + ("kind" if number > 23 else "")


@pytest.fixture
def made(tiny: Callable[..., Recipe], tmp_path: Path) -> Callable[..., Recipe]:
    model = wide(tmp_path / "model")

    def make(**settings: Any) -> Recipe:
        return tiny(model=model, contexts=contexts(**settings))

    return make


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many answers were read at each measurement."""
    found, real = list[int](), closeness.read_kl

    def reading(weights: Any, who: Any, asked: Sequence[Lesson], *rest: Any) -> Any:
        found.append(len(asked))
        return real(weights, who, asked, *rest)

    monkeypatch.setattr(closeness, "read_kl", reading)
    return found


def test_each_instruction_is_measured(
    made: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    read: list[int],
) -> None:
    """Random weights heed every word."""
    hand = Hand(monkeypatch, by_number)
    recipe = made(coverage={"examples": 3})
    run = unprompt.run(recipe, tmp_path / "run")
    entry = run.report["contexts"]["colours"]
    assert entry["coverage"] == {
        "edge": 0.01,
        "added": 0,
        "instructions": [
            {"text": text, "inputs": 3, "exercised": 3} for text in ("- Be short.", IDLE)
        ],
    }
    assert "inputs exercise 2 of 2 instructions" in capsys.readouterr().err
    assert "Coverage: instructions" in (tmp_path / "run" / "report.md").read_text("utf-8")
    (tmp_path / "run" / "report.json").unlink()
    asked, measured = len(hand.asked), len(read)
    again = unprompt.run(recipe, tmp_path / "run")
    assert again.report["contexts"]["colours"]["coverage"] == entry["coverage"]
    assert (len(hand.asked), len(read)) == (asked, measured), "what was measured is kept"


def test_what_none_exercises_is_topped_up(
    made: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hand = Hand(monkeypatch, by_number)
    look = coverage._look

    def blind(weights: Any, prompts: Any, name: str, settings: Any, known: set[str]) -> Any:
        """The first inputs don't exercise it, and one of those behind them does."""
        found = look(weights, prompts, name, settings, known)
        rows = [row for row in prompts.inputs.taught[name] if row.id not in known]
        if known:
            assert {row.fields["case"] for row in rows} == {
                "a message for which this rule matters: Be kind."
            }
        return found | {IDLE: [bool(known) and n == 0 for n in range(len(found[IDLE]))]}

    monkeypatch.setattr(coverage, "_look", blind)
    recipe = made(coverage={"examples": 3, "top_up": 2})
    run = unprompt.run(recipe, tmp_path / "run")
    entry = run.report["contexts"]["colours"]
    assert entry["coverage"]["added"] == 1, "of two wanted: a quarter of six at most"
    assert entry["coverage"]["instructions"][1] == {"text": IDLE, "inputs": 4, "exercised": 1}
    assert entry["inputs"] == 7
    assert entry["drawn"]["contexts.colours.inputs"]["kept"] == 7
    assert len({each.example_id for each in run.lessons()}) == 7
    told = " ".join(capsys.readouterr().err.split())
    assert "no input exercises 1 instructions; more are written for them" in told
    assert "inputs exercise 2 of 2 instructions" in told
    (tmp_path / "run" / "report.json").unlink()
    count = len(hand.asked)
    again = unprompt.run(recipe, tmp_path / "run")
    assert again.report["contexts"]["colours"]["coverage"] == entry["coverage"]
    assert len(hand.asked) == count, "what was drawn is kept"


def test_what_stays_idle_is_named(
    made: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The writer repeats itself: tries are bounded, and fewer will do."""
    hand = Hand(
        monkeypatch,
        lambda prompt: "the same" if int(prompt.example_id[-2:]) > 23 else by_number(prompt),
    )
    monkeypatch.setattr(coverage, "EDGE", 1e9)
    recipe = made(coverage={"examples": 2, "top_up": 1}, openers=[])
    run = unprompt.run(recipe, tmp_path / "run")
    entry = run.report["contexts"]["colours"]["coverage"]
    assert entry["added"] == 1, "'the same' once"
    assert [each["exercised"] for each in entry["instructions"]] == [0, 0]
    draws = [each.example_id for each in hand.asked if each.example_id.startswith("draw-")]
    assert 0 < len([id_ for id_ in draws if int(id_[-6:]) > 23]) <= 8
    assert f"no input exercises: {IDLE}" in capsys.readouterr().err
    assert "no input exercises 2 of 2" in (tmp_path / "run" / "report.md").read_text("utf-8")


def test_it_can_be_turned_off_and_is_counted(
    made: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Hand(monkeypatch, by_number)
    off = made(coverage=False)
    assert "coverage" not in unprompt.run(off, tmp_path / "run").report["contexts"]["colours"]
    plans = [check.check(recipe).plan for recipe in (off, made(coverage=2))]
    passes = [[each for each in plan.passes if each.what == "coverage"] for plan in plans]
    assert [[len(each.side.prompts) for each in found] for found in passes] == [[], [2, 2]]
    calls = [sum(ask.size.calls for ask in plan.of("draws")) for plan in plans]
    assert calls[1] - calls[0] == 2 * 4, "two instructions, an input each, four tries"


@pytest.mark.parametrize(
    ("top_up", "instructions", "more"), [(4, 3, 12), (4, 20, 25), (4, 40, 40), (0, 3, 0)]
)
def test_many_idle_instructions_get_fewer_inputs_each(
    top_up: int, instructions: int, more: int
) -> None:
    settings = FromPrompt.model_validate({"count": 100, "coverage": {"top_up": top_up}})
    assert settings.topped_up(instructions) == more
    assert settings.model_copy(update={"coverage": False}).topped_up(instructions) == 0


def test_labels_that_tell_no_distribution_are_said(
    made: Callable[..., Recipe], tiny: Callable[..., Recipe]
) -> None:
    recipe = tiny(model=made().model.model_dump(), contexts=contexts(), labels={"kind": "hard"})
    said = [line for line in check.check(recipe).lines if "is not measured" in line]
    assert said == [
        "note: which instructions contexts.colours.inputs exercise is not measured: labels.kind:"
        " hard keeps only a part of the teacher's distribution"
    ]


def test_inputs_that_were_written_for_an_instruction_come_first() -> None:
    case = "a message for which this rule matters: Be kind."
    rows = [
        Example("a", {"case": "a message"}, written=True),
        Example("b", {"case": case}, written=True),
        Example("c", {"case": case}),
        Example("d", {"case": case}, written=True),
    ]
    assert coverage.chosen_for(IDLE, rows, 2, set()) == [1, 3]
    assert coverage.chosen_for(IDLE, rows, 9, {"b"}) == [0, 3]
