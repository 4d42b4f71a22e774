"""`evaluate: {hold_out: 0.2}`: a share of the inputs proves the student and is never trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import tiny_recipe
from unprompt import pipeline
from unprompt.messages import UserError
from unprompt.recipe import Recipe, Template, parse
from unprompt.records import Example
from unprompt.stages import check, inputs
from unprompt.stages.inputs import draw
from unprompt.stages.inputs.every import every
from unprompt.stages.inputs.hold_out import split
from unprompt.store.folder import RunDir
from unprompt.store.tables import read_lessons

STUDENT = Template(text="{{ text }}")


def _rows(count: int, **more: Any) -> list[Example]:
    return [Example(f"i{n}", {"id": f"i{n}", "text": f"text {n}"}, **more) for n in range(count)]


def _ids(rows: list[Example]) -> set[str]:
    return {row.id for row in rows}


def test_a_share_is_held_out_and_every_row_stands_on_one_side() -> None:
    rows = _rows(1000)
    parts = split(rows, 0.2, STUDENT, 0, "inputs")
    assert 150 < len(parts.held_out) < 250
    assert _ids(parts.taught).isdisjoint(_ids(parts.held_out))
    assert len(parts.taught) + len(parts.held_out) == 1000
    assert [row for row in rows if row in parts.held_out] == parts.held_out
    assert _ids(split(rows, 0.2, STUDENT, 1, "inputs").held_out) != _ids(parts.held_out)


def test_rows_that_are_appended_or_moved_change_no_sides() -> None:
    few = split(_rows(100), 0.3, STUDENT, 5, "inputs")
    many = split(_rows(400)[::-1], 0.3, STUDENT, 5, "inputs")
    assert _ids(few.held_out) <= _ids(many.held_out)
    assert _ids(few.taught) <= _ids(many.taught)


def test_a_group_stands_on_one_side() -> None:
    rows = [Example(f"i{n}", {"text": f"t{n}"}, group=f"talk {n // 10}") for n in range(400)]
    parts = split(rows, 0.2, STUDENT, 0, "inputs")
    assert {row.group for row in parts.held_out}.isdisjoint(row.group for row in parts.taught)
    assert len(parts.held_out) % 10 == 0


def test_equal_inputs_never_stand_on_both_sides() -> None:
    rows = [
        Example(f"i{n}", {"text": ["Hi  there", "hi there"][n % 2] if n < 40 else f"t{n}", "at": n})
        for n in range(80)
    ]
    parts = split(rows, 0.5, STUDENT, 0, "inputs")
    taught, held = (
        any("hi" in row.fields["text"].casefold() for row in side)
        for side in (parts.taught, parts.held_out)
    )
    assert taught != held
    # of groups: what is equal to a training input is left out of what proves, and counted
    texts = ["hi" if n % 2 else f"t{n}" for n in range(100)]
    talks = [Example(f"i{n}", {"text": x}, group=f"{n // 2}") for n, x in enumerate(texts)]
    parts = split(talks, 0.3, STUDENT, 0, "inputs")
    assert all(row.fields["text"] != "hi" for row in parts.held_out)
    assert parts.left_out == len(parts.held_out)


def test_both_sides_have_a_row_however_small_the_share() -> None:
    assert len(split(_rows(2), 0.001, STUDENT, 0, "inputs").held_out) == 1
    assert len(split(_rows(2), 0.999, STUDENT, 0, "inputs").taught) == 1


@pytest.mark.parametrize(
    "rows",
    [_rows(1), [Example(str(n), {"text": "same", "n": n}) for n in range(5)], _rows(4, group="a")],
)
def test_where_nothing_can_be_held_out_that_is_said(rows: list[Example]) -> None:
    with pytest.raises(UserError, match="none can be held out"):
        split(rows, 0.2, STUDENT, 0, "inputs")


def test_real_rows_prove_where_a_model_wrote_others() -> None:
    rows = [*_rows(50), *(Example(f"w{n}", {"text": f"w{n}"}, written=True) for n in range(200))]
    parts = split(rows, 0.4, STUDENT, 0, "inputs")
    assert parts.held_out
    assert not any(row.written for row in parts.held_out)
    assert sum(row.written for row in parts.taught) == 200
    written = split(rows[50:], 0.4, STUDENT, 0, "inputs")
    assert written.held_out


# -- in a recipe -----------------------------------------------------------------------------------


def _recipe(
    decoder_folder: Path, base: Path, inputs: Any, evaluate: Any, **sections: Any
) -> Recipe:
    words = tiny_recipe(decoder_folder) | {"evaluate": evaluate} | sections
    words["contexts"]["colours"]["inputs"] = inputs
    return parse(words, base)


COLOURS = [{"id": f"i{n}", "text": f"colour {n}", "talk": n // 4} for n in range(24)]
SHARE = {"hold_out": 0.25, "metrics": []}


def test_a_run_trains_on_one_side_and_measures_on_the_other(
    decoder_folder: Path, tmp_path: Path
) -> None:
    recipe = _recipe(decoder_folder, tmp_path, COLOURS, SHARE)
    done = pipeline.run(recipe, tmp_path / "run")
    lessons = read_lessons(RunDir(tmp_path / "run").round("after").proven("lessons.parquet"))
    trained = {lesson.example_id for lesson in lessons}
    graded = {grade.example_id for grade in done.grades}
    assert trained
    assert graded
    assert trained.isdisjoint(graded)
    assert len(trained | graded) == 24
    assert pipeline.run(recipe, tmp_path / "run").unchanged


def test_a_mixture_keeps_groups_and_says_who_wrote(decoder_folder: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"w {n}"}) for n in range(24)]
    (tmp_path / "w.jsonl").write_text("\n".join(lines))
    mix = [
        {"data": {"rows": COLOURS, "group": "talk"}, "share": 1},
        {"data": {"file": "w.jsonl", "model_written": True}, "share": 1},
    ]
    read = every(_recipe(decoder_folder, tmp_path, {"mix": mix}, SHARE))
    held, taught = read.held_out["colours"], read.taught["colours"]
    assert {row.group for row in held}.isdisjoint({row.group for row in taught})
    assert len(held) % 4 == 0
    assert all(row.id.startswith("0-") for row in held)
    assert sum(row.written for row in taught) == 24


def test_inputs_that_a_model_writes_are_split_when_they_are_written(
    decoder_folder: Path, tmp_path: Path
) -> None:
    sample = {"sample": {"seeds": COLOURS[:4], "template": "{{ examples }}", "count": 12}}
    recipe = _recipe(decoder_folder, tmp_path, sample, SHARE)
    rows = [{"id": f"draw-{n}", "text": f"new {n}"} for n in range(12)]
    (tmp_path / "drawn.json").write_text(json.dumps(rows))
    where = "contexts.colours.inputs"
    drawn = draw.resolved(recipe, {where: str(tmp_path / "drawn.json")})
    assert drawn.contexts["colours"].inputs
    assert drawn.contexts["colours"].inputs.by_model
    read = every(drawn)
    assert len(read.held_out["colours"]) + len(read.taught["colours"]) == 12
    assert read.held_out["colours"]
    assert read.taught["colours"]


def test_check_says_how_many_are_held_out_and_left_out(
    decoder_folder: Path, tmp_path: Path
) -> None:
    same = {"text": "the same"}
    rows = [row | (same if n % 4 == 0 else {}) for n, row in enumerate(COLOURS)]
    recipe = _recipe(decoder_folder, tmp_path, {"rows": rows, "group": "talk"}, SHARE)
    lines = check.check(recipe).lines
    assert any(" held out" in line for line in lines)
    assert any("held-out inputs are left out" in line for line in lines)


def test_gold_answers_come_with_the_inputs(decoder_folder: Path, tmp_path: Path) -> None:
    share = {"hold_out": 0.25, "metrics": ["accuracy"]}
    gold = {"rows": [row | {"topic": "x"} for row in COLOURS], "target": "topic"}
    check.check(_recipe(decoder_folder, tmp_path, gold, share))
    with pytest.raises(UserError, match="no gold answer in field 'target'") as error:
        check.check(_recipe(decoder_folder, tmp_path, {"rows": COLOURS}, share))
    assert "contexts.colours.inputs.target" in str(error.value)


def test_a_group_that_a_row_has_not_is_refused() -> None:
    recipe = parse(tiny_recipe(Path("x")))
    data = recipe.contexts["colours"].inputs
    assert data
    with pytest.raises(UserError, match="row 1: there is no 'talk'"):
        inputs.load(data.model_copy(update={"group": "talk"}), "inputs")


@pytest.mark.parametrize(
    ("evaluate", "said"),
    [
        ({"hold_out": 0}, "greater than 0"),
        ({"hold_out": 1.0}, "less than 1"),
        ({"metrics": []}, "give data, or hold_out"),
        ({"hold_out": 0.2, "data": COLOURS}, "and not both"),
    ],
)
def test_a_share_is_between_nothing_and_all_and_no_data(
    evaluate: Any, said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        _recipe(tmp_path, tmp_path, COLOURS, evaluate)


def test_a_context_without_inputs_has_no_share(tmp_path: Path) -> None:
    words = tiny_recipe(tmp_path) | {"evaluate": SHARE}
    words["contexts"]["proven"] = {"student": "{{ text }}"}
    with pytest.raises(UserError, match="which context 'proven' has not"):
        parse(words)


SAMPLE: dict[str, Any] = {
    "sample": {"seeds": COLOURS[:8], "template": "{{ examples }}", "count": 40}
}


TUNE = {"context": "colours", "settings": {"sampling.temperature": [0.5, 1.0]}}
SEEDED = SAMPLE["sample"] | {"seeds": SAMPLE}
CONTEXT = {"inputs": COLOURS, "teacher": "Name it. {{ text }}", "student": "{{ text }}"}
MIX = [{"data": COLOURS, "share": 1}, {"data": SAMPLE, "share": 1}]


@pytest.mark.parametrize(
    ("sections", "where"),
    [
        ({"evaluate": {"data": SAMPLE}}, "evaluate.data"),
        ({"evaluate": {"data": {"mix": MIX}}}, "evaluate.data"),
        ({"drift": {"inputs": SAMPLE}}, "drift.inputs"),
        ({"tune": TUNE | {"data": SAMPLE}}, "tune.data"),
        ({"contexts": {"colours": CONTEXT | {"examples": SAMPLE}}}, "contexts.colours.examples"),
        (
            {"contexts": {"colours": CONTEXT | {"evaluate": {"data": SAMPLE}}}},
            "contexts.colours.evaluate.data",
        ),
        (
            {"contexts": {"colours": CONTEXT | {"inputs": {"sample": SEEDED}}}},
            "contexts.colours.inputs.sample.seeds",
        ),
    ],
)
def test_only_inputs_are_written_by_a_model(
    sections: dict[str, Any], where: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"{where} can't be sample"):
        parse(tiny_recipe(tmp_path) | sections)
