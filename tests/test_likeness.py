"""A verdict without gold answers: a student is held to how like the teacher's answers are to each
other.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import unprompt
from conftest import tiny_recipe
from unprompt import report
from unprompt.messages import UserError
from unprompt.metrics.likeness import exact, json_fields, kind_of, likeness, rouge_l
from unprompt.pipeline import Run
from unprompt.recipe import Recipe, parse
from unprompt.records import BASE
from unprompt.stages.check import check
from unprompt.stages.evaluate.likeness import sampling

WORDS = ["grey", "violet", "gold", "teal", "plum", "rust"]
HELD = [{"id": f"h{n}", "text": f"{WORDS[n % 6]} {n}"} for n in range(30)]


def without_gold(folder: Path, **sections: Any) -> dict[str, Any]:
    made = tiny_recipe(folder)
    made["evaluate"] = {"data": {"rows": HELD}, "metrics": [], **sections.pop("evaluate", {})}
    return made | {"report": {"sampled": 0, "watch": 0, "instructions": 0}} | sections


@pytest.fixture(scope="module")
def run(decoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    long = {"model": "base", "prompt": "teacher"}
    sharp = {"temperature": 0.2, "max_new_tokens": 2}  # so that some answers are alike
    made = without_gold(decoder_folder, systems={"long": long}, sampling=sharp)
    return unprompt.run(parse(made), tmp_path_factory.mktemp("likeness") / "run")


# -- how two answers are compared ------------------------------------------------------------------


def test_exact_is_of_the_whole_text() -> None:
    assert exact(" Card  arrival.", "card arrival") == 1
    assert exact("card arrival", "card arrivals") == 0


def test_words_of_every_script_are_read() -> None:
    assert rouge_l("the cat sat", "the cat ran") == pytest.approx(2 / 3)
    assert rouge_l("кошка сидит", "кошка бежит") == pytest.approx(1 / 2)
    assert rouge_l("猫が座る", "猫が走る") == pytest.approx(3 / 4)
    assert rouge_l("👍", "👍") == 1, "no word, and the same"
    assert rouge_l("👍", "") == 0
    for one, other in (("a b c d", "a c"), ("x", "y z x")):
        assert rouge_l(one, other) == rouge_l(other, one)


def test_json_is_compared_field_by_field() -> None:
    assert json_fields('{"a": 1, "b": [2]}', '{"b": [2], "a": 1}') == 1
    assert json_fields('{"a": 1}', '{"a": 1, "b": 2}') == json_fields(
        '{"a": 1, "b": 2}', '{"a": 1}'
    )
    assert json_fields('{"a": 1}', '{"a": 1, "b": 2}') == 0.5
    assert json_fields('{"a": 1}', "sorry") == 0
    assert json_fields("{}", "{ }") == 1
    assert kind_of(['{"a": 1}', '{"b": "c"}'])[0] == "json_fields"
    assert kind_of(['{"a": 1}', "[1]"])[0] == "exact", "not all are objects"


def test_what_could_not_be_extracted_is_like_nothing() -> None:
    assert likeness("exact", ["a", None, None], ["a", "a", None]) == [1, 0, 0]


def test_the_kind_hangs_on_the_teachers_answers() -> None:
    assert kind_of(["card arrival"] * 3 + ["a b c d e f g h i j"])[0] == "exact"
    kind, why = kind_of(["one two three four five six seven eight nine"])
    assert kind == "rouge_l"
    assert "9 words in the median" in why
    assert kind_of([])[0] == "exact"


# -- what is asked ---------------------------------------------------------------------------------


def calls(recipe: Recipe) -> dict[str, int]:
    asks = check(recipe, estimate=False).plan.of("likeness")
    return {ask.system.name: ask.size.calls for ask in asks if ask.system}


def test_without_gold_it_is_measured_on_all_held_out_examples(decoder_folder: Path) -> None:
    assert calls(parse(without_gold(decoder_folder))) == {"teacher": 60, "before": 30, "after": 30}
    off = without_gold(decoder_folder, report={"self_agreement": 0})
    assert calls(parse(off)) == {}
    few = without_gold(decoder_folder, report={"self_agreement": 5})
    assert calls(parse(few)) == {"teacher": 10, "before": 5, "after": 5}


def test_with_gold_only_if_asked_for(tiny: Callable[..., Recipe]) -> None:
    assert calls(tiny()) == {}
    assert calls(tiny(report={"self_agreement": 2})) == {"teacher": 4, "before": 2, "after": 2}


def test_it_is_in_what_check_says_will_be_asked(decoder_folder: Path) -> None:
    on, off = (
        check(parse(without_gold(decoder_folder, report={"self_agreement": n}))) for n in (None, 0)
    )
    asked = [each.plan.sizes(parse(without_gold(decoder_folder)))[BASE][0] for each in (on, off)]
    assert asked[0].calls - asked[1].calls == 60 + 30


def test_greedy_answers_are_sampled_for_it(tiny: Callable[..., Recipe]) -> None:
    """Two greedy answers are the same: a ceiling of 1 that says nothing."""
    assert sampling(tiny(sampling={"temperature": 0})).temperature == 1
    assert sampling(tiny(sampling={"temperature": 0.7})).temperature == 0.7


def test_no_two_answers_share_a_random_stream(decoder_folder: Path) -> None:
    """A student's answer that was drawn as one of the teacher's would be too much like it."""
    asks = check(parse(without_gold(decoder_folder)), estimate=False).plan.of("likeness")
    ids = {
        ask.system.name: {prompt.example_id for prompt in ask.question.side.prompts}
        for ask in asks
        if ask.system and ask.question
    }
    assert ids["teacher"] >= {"h0", "h0/2"}
    assert ids["after"] == ids["before"] == {f"h{n}/3" for n in range(30)}
    assert not ids["after"] & ids["teacher"]


def test_scored_choices_have_none(decoder_folder: Path) -> None:
    choices = {"right": " yes", "wrong": " no"}
    recipe = parse(without_gold(decoder_folder, evaluate={"choices": choices}))
    assert calls(recipe) == {}
    with pytest.raises(UserError, match="likeness is for answers that are written"):
        parse(without_gold(decoder_folder, evaluate={"choices": choices, "likeness": "exact"}))


def test_a_kind_that_there_is_not_is_refused(decoder_folder: Path) -> None:
    with pytest.raises(UserError, match=r"evaluate\.likeness"):
        parse(without_gold(decoder_folder, evaluate={"likeness": "bleu"}))


def test_a_metric_that_needs_gold_is_refused_as_before(decoder_folder: Path) -> None:
    made = without_gold(decoder_folder, evaluate={"metrics": ["accuracy"]})
    with pytest.raises(UserError, match="no gold answer"):
        check(parse(made))


# -- what comes out --------------------------------------------------------------------------------


def test_every_system_stands_beside_the_ceiling(run: Run) -> None:
    like = run.report["contexts"]["colours"]["likeness"]
    assert like["decides"]
    assert like["examples"] == 30
    assert like["temperature"] == 0.2
    assert list(like["systems"]) == ["before", "long", "after"], "as in the table of systems"
    for figures in like["systems"].values():
        assert figures["to_ceiling"]["mean"] == pytest.approx(
            figures["mean"] - like["ceiling"]["mean"]
        )
    ceiling, before = like["ceiling"]["mean"], like["systems"]["before"]["mean"]
    assert ceiling > 0.1 > before, "else the test proves nothing"
    after = like["systems"]["after"]
    assert after["past_half"]["mean"] == pytest.approx(after["mean"] - (ceiling + before) / 2)
    assert "past_half" not in like["systems"]["long"]


def test_the_same_weights_under_the_same_prompt_reach_the_ceiling(run: Run) -> None:
    """Its answers are drawn anew, so that it is at the ceiling on average, not above it."""
    long = run.report["contexts"]["colours"]["likeness"]["systems"]["long"]["to_ceiling"]
    assert long["low"] <= 0 <= long["high"]
    assert abs(long["mean"]) < 0.2


def test_it_is_on_the_page_in_the_terminal_and_on_the_card(run: Run) -> None:
    titles = [table.title for table in report.tables(run.report)]
    assert titles[:2] == ["Context colours", "Likeness to the teacher"]
    page = (run.folder / "report.html").read_text("utf-8")
    assert 'data-key="/students/0/likeness/mean"' in page
    assert "Likeness to the teacher" in (run.folder / "report.md").read_text("utf-8")
    assert "likeness (" in (run.folder / "student" / "README.md").read_text("utf-8")
    assert "quality is unknown" not in page
    assert "likeness to the teacher" in report.compare({"a": run.report, "b": run.report})


def test_another_kind_asks_nobody_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from unprompt.stages.weights import Weights

    def refuse(*_: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(Weights, "engine", refuse)
    recipe = unprompt.load(run.folder / "recipe.yaml")
    how = recipe.evaluate
    assert how
    other = recipe.model_copy(update={"evaluate": how.model_copy(update={"likeness": "rouge_l"})})
    again = unprompt.run(other, run.folder)
    like = again.report["contexts"]["colours"]["likeness"]
    assert (like["kind"], like["why"]) == ("rouge_l", "evaluate.likeness says so")
    unprompt.run(recipe, run.folder)


# -- the verdict -----------------------------------------------------------------------------------


def judged(run: Run, **changes: Any) -> dict[str, Any]:
    """The student, with other figures."""
    found = json.loads(json.dumps(run.report))
    entry = found["contexts"]["colours"]
    like = entry["likeness"]
    like["examples"], like["decides"] = changes.get("examples", 300), changes.get("decides", True)
    own, before = like["systems"]["after"], like["systems"]["before"]

    def put(figures: Any, ends: Any) -> None:
        figures |= dict(zip(("mean", "low", "high"), ends, strict=True))

    put(own["to_ceiling"], changes.get("change", (0.0, -0.02, 0.02)))
    put(before["to_ceiling"], changes.get("before", (-0.3, -0.4, -0.2)))
    put(own["past_half"], changes.get("past", (0.15, 0.1, 0.2)))
    own["needed"], own["half_needed"] = changes.get("needed", 200), changes.get("half_needed", 90)
    if "metric" in changes:
        for name, figures in entry["systems"].items():
            share = {**own["to_ceiling"], "is_share": True, "needed": 10, "kept": None}
            share["to_teacher"] = changes["metric"] if name == "after" else own["to_ceiling"]
            figures["metrics"] = {"json_valid": share}
    for name in ("teacher", "after"):
        entry["systems"][name] |= {"extraction_failures": 0, "cut_at_limit": 0}
    entry["cut_at_limit"] = 0
    entry["overlap"] = {}
    report.conclude(found)
    return found["students"][0]


NONE = (0.0, None, None)


@pytest.mark.parametrize(
    ("changes", "verdict", "says"),
    [
        ({}, "ship", "no worse than the margin of 5 points allows"),
        ({"examples": 199}, "look closer", "about 200 are needed"),
        (
            {"examples": 9, "change": NONE, "before": NONE, "past": NONE},
            "look closer",
            "9 held-out examples are too few to tell; about 200",
        ),
        ({"change": (-0.2, -0.3, -0.06)}, "don't ship", "worse by more than the margin"),
        ({"change": (-0.06, -0.1, -0.01), "needed": None}, "look closer", "would not mend it"),
        ({"before": (0.0, -0.02, 0.02)}, "look closer", "there was nothing to learn"),
        ({"past": (0.01, -0.02, 0.04)}, "look closer", "about 90 are needed"),
        (
            {"past": (-0.01, -0.04, 0.02), "half_needed": None},
            "look closer",
            "would not mend it",
        ),
        ({"past": (-0.1, -0.2, -0.01)}, "don't ship", "nearer to before than to the teacher"),
        (
            {"metric": {"mean": -0.2, "low": -0.3, "high": -0.1}},
            "don't ship",
            "json_valid -20.0 [-30.0, -10.0] to the teacher: worse by more",
        ),
        ({"metric": {"mean": 0.0, "low": -0.01, "high": 0.01}}, "ship", "json_valid +0.0"),
        ({"decides": False}, "look closer", "quality is unknown: no metric is measured"),
    ],
)
def test_the_verdict_is_held_to_likeness(
    run: Run, changes: dict[str, Any], verdict: str, says: str
) -> None:
    student = judged(run, **changes)
    assert student["verdict"] == verdict
    assert any(says in reason["text"] for reason in student["reasons"]), student["reasons"]


def test_a_student_that_writes_anything_else_does_not_ship(
    decoder_folder: Path, tmp_path: Path
) -> None:
    """Trained to say something that the teacher never says."""
    made = without_gold(
        decoder_folder,
        sampling={"temperature": 0.2, "max_new_tokens": 2},
        train={"epochs": 30, "batch_size": 8, "learning_rate": 1e-2, "adapter": {"rank": 8}},
    )
    broken = made["contexts"]["colours"]
    broken["gold"] = " zzzz"
    del broken["extract"]
    found = unprompt.run(parse(made), tmp_path / "run").report
    student = found["students"][0]
    assert student["verdict"] == "don't ship"
    assert any("nearer to before" in each["text"] for each in student["reasons"]), student
