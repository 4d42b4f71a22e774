"""Choosing settings and a prompt's variant on an evaluation split: right, resumable, and never on
the test split.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import unprompt
from conftest import byte_tokenizer, decoder
from unprompt.engines.hf.engine import HFEngine
from unprompt.metrics.statistics import SHARE, interval
from unprompt.recipe import Extract, Recipe, Sampling
from unprompt.records import Example, Prompt
from unprompt.stages import check, evaluate
from unprompt.tools import tune

Make = Callable[..., Recipe]
SPLIT = [
    {"id": f"t{n}", "text": text, "target": letter}
    for n, (text, letter) in enumerate(zip(["lime", "teal", "navy", "rose"], "abcd", strict=True))
]
SETTINGS = {"sampling.temperature": [0.0, 1.0], "sampling.max_new_tokens": [2, 4]}
VARIANTS = {
    "own": None,
    "short": "{{ text }}",
    "chat": [{"role": "user", "content": "Colour {{ text }}"}],
}
METRIC = '''
def vowels(answer, example):
    """A metric that tells the answers of a random model apart."""
    return sum(letter.lower() in "aeiou" for letter in answer) / 10 + len(answer) / 1000
'''


@pytest.fixture
def wanted(tmp_path: Path, tiny: Make) -> Make:
    """The tiny recipe with a tune section; keyword arguments replace its parts."""
    (tmp_path / "tuned.py").write_text(METRIC)

    def make(recipe: dict[str, Any] | None = None, **parts: Any) -> Recipe:
        section = {
            "context": "colours",
            "data": SPLIT,
            "metric": "tuned:vowels",
            "settings": SETTINGS,
            "variants": VARIANTS,
        } | parts
        return tiny(**{"tune": section, "modules": str(tmp_path), **(recipe or {})})

    return make


def test_every_combination_is_tried_and_the_best_is_written(tmp_path: Path, wanted: Make) -> None:
    recipe = wanted()
    found = tune.tune(recipe, tmp_path / "out").report
    assert json.loads((tmp_path / "out" / "tune" / "tune.json").read_text()) == found
    assert (found["search"], found["combinations"], len(found["trials"]), found["examples"]) == (
        "all",
        12,
        12,
        4,
    )
    for trial in found["trials"]:  # by hand
        template = (
            recipe.contexts["colours"].teacher
            if trial["variant"] == "own"
            else recipe.tune and recipe.tune.variants[trial["variant"]]
        )
        assert template
        examples = [Example(row["id"], row, row["target"]) for row in SPLIT]
        asked = [unprompt_render(template, example) for example in examples]
        sampling = Sampling(
            temperature=trial["settings"]["sampling.temperature"],
            max_new_tokens=trial["settings"]["sampling.max_new_tokens"],
        )
        answers = HFEngine(decoder(), byte_tokenizer()).generate(
            asked, sampling, None, seed=recipe.seed
        )
        assert recipe.evaluate
        evaluation = recipe.evaluate.model_copy(update={"metrics": ("tuned:vowels",)})
        graded = evaluate.grade(
            "teacher", "colours", Extract(), examples, answers, evaluation, recipe.modules
        )
        values = [grade.metrics["tuned:vowels"] for grade in graded]
        assert (trial["mean"], trial["low"], trial["high"]) == interval(values, SHARE)
        assert trial["prompt_tokens"] == sum(answer.prompt_tokens for answer in answers) / 4
        assert trial["completion_tokens"] == sum(len(answer.token_ids) for answer in answers) / 4
        assert trial["failures"] == sum(grade.failure is not None for grade in graded)
    best = max(found["trials"], key=lambda trial: trial["mean"])
    assert found["chosen"]["mean"] == best["mean"] > min(trial["mean"] for trial in found["trials"])
    chosen = unprompt.load(tmp_path / "out" / "tune" / "chosen.yaml")
    assert chosen.tune is None
    assert chosen.sampling.temperature == found["chosen"]["settings"]["sampling.temperature"]
    assert chosen.sampling.max_new_tokens == found["chosen"]["settings"]["sampling.max_new_tokens"]
    template = VARIANTS[found["chosen"]["variant"]]
    written = chosen.contexts["colours"].model_dump()["teacher"]
    assert written == (template or recipe.contexts["colours"].model_dump()["teacher"])
    check.check(chosen)
    title, columns, rows, lines = tune.table(found)
    assert len(rows) == 12
    assert "(chosen)" in rows[0][0]
    assert len(columns) == len(rows[0])
    assert "12 combinations" in lines[0]
    assert "colours" in title


def unprompt_render(template: Any, example: Example) -> Prompt:
    from unprompt.stages.templates.render import render

    return render(template, "colours", example, None, "teacher")


def test_of_equals_the_shorter_prompt_is_chosen_then_the_first(
    tmp_path: Path, wanted: Make
) -> None:
    (tmp_path / "all_equal.py").write_text("def one(answer, example):\n    return 1.0\n")
    found = tune.tune(wanted(metric="all_equal:one"), tmp_path / "out").report
    assert (found["chosen"]["variant"], list(found["chosen"]["settings"].values())) == (
        "short",
        [0.0, 2],
    )
    assert "share the highest value" in tune.table(found)[3][1]


class Killed(BaseException):
    pass


@pytest.mark.parametrize(("after", "trials"), [(1, None), (3, 7), (5, 7)])
def test_a_search_that_was_killed_ends_with_the_same_choice(
    tmp_path: Path, wanted: Make, monkeypatch: pytest.MonkeyPatch, trials: int | None, after: int
) -> None:
    recipe = wanted(trials=trials)
    asked: list[str] = []
    answer = HFEngine.generate

    def generate(
        engine: HFEngine, prompts: Any, sampling: Sampling, *rest: Any, **options: Any
    ) -> Any:
        found = answer(engine, prompts, sampling, *rest, **options)
        if after and len(calls) == after:
            calls.append(None)
            raise Killed
        calls.append(None)
        asked.extend(f"{p.content} {sampling}" for p in prompts)
        return found

    calls: list[None] = []
    monkeypatch.setattr(HFEngine, "generate", generate)
    with pytest.raises(Killed):
        tune.tune(recipe, tmp_path / "cut")
    with (tmp_path / "cut" / "tune" / "trials.log").open("a") as journal:
        journal.write(
            '{"op_code": 5, "wor'
        )  # killed in the middle of a line, the journal's lock still there
    (tmp_path / "cut" / "tune" / "trials.log.lock").symlink_to("trials.log")
    resumed = tune.tune(recipe, tmp_path / "cut")
    together = len(set(asked))
    assert len(asked) - together <= 2, (
        "nothing is asked twice but the first batch of a part that was cut"
    )
    asked.clear()
    whole = tune.tune(recipe, tmp_path / "whole")
    assert resumed.report == whole.report
    assert (resumed.folder / "chosen.yaml").read_bytes() == (
        whole.folder / "chosen.yaml"
    ).read_bytes()
    assert len(whole.report["trials"]) == (trials or 12)
    assert together == len(asked)
    asked.clear()
    assert tune.tune(recipe, tmp_path / "whole").report == whole.report
    assert asked == []


def test_more_trials_go_on_from_fewer(tmp_path: Path, wanted: Make) -> None:
    few = tune.tune(wanted(trials=5), tmp_path / "out").report
    more = tune.tune(wanted(trials=9), tmp_path / "out").report
    every = tune.tune(wanted(), tmp_path / "out").report
    assert (few["search"], len(few["trials"]), len(more["trials"]), len(every["trials"])) == (
        "TPE",
        5,
        9,
        12,
    )
    assert all(trial in more["trials"] for trial in few["trials"])
    assert all(trial in every["trials"] for trial in more["trials"])
    assert tune.tune(wanted(trials=5), tmp_path / "out").report == few


def test_tpe_finds_what_is_better(
    tmp_path: Path, wanted: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a made-up landscape: of 5 * 6 * 3 combinations one is best, and each setting that is
    nearer is better.
    """

    def answer(search: tune.Search, combination: tune.Combination) -> dict[str, Any]:
        temperature, length = tune.settings(search.wanted, combination).values()
        mean = 1 - temperature - length / 100 + (combination[0] == "short")
        return {
            "mean": mean,
            "low": mean,
            "high": mean,
            "prompt_tokens": 1.0,
            "completion_tokens": 1.0,
            "failures": 0,
        }

    monkeypatch.setattr(tune, "answer", answer)
    settings = {
        "sampling.temperature": [0.0, 0.2, 0.4, 0.6, 0.8],
        "sampling.max_new_tokens": [1, 2, 3, 4, 5, 6],
    }
    found = tune.tune(wanted(settings=settings, trials=30), tmp_path / "out").report
    assert len({json.dumps([t["variant"], t["settings"]]) for t in found["trials"]}) == 30
    place = sum(
        found["chosen"]["mean"] < 1 - t / 5 - n / 100 + s
        for t in range(5)
        for n in range(1, 7)
        for s in (0, 0, 1)
    )
    assert place < 3


def test_the_student_may_be_tuned(tmp_path: Path, wanted: Make) -> None:
    parts = {
        "who": "student",
        "settings": {"evaluate.temperature": [0, 1], "evaluate.stop": [["\n"], []]},
        "variants": {"own": None, "long": "The colour {{ text }}:"},
    }
    found = tune.tune(wanted(**parts), tmp_path / "out").report
    chosen = unprompt.load(tmp_path / "out" / "tune" / "chosen.yaml")
    assert chosen.evaluate
    assert chosen.evaluate.temperature == found["chosen"]["settings"]["evaluate.temperature"]
    assert list(chosen.evaluate.stop or ()) == found["chosen"]["settings"]["evaluate.stop"]
    assert chosen.contexts["colours"].student.text == (
        parts["variants"][found["chosen"]["variant"]] or "{{ text }}:"
    )
    assert chosen.sampling == wanted().sampling


def test_greedy_answers_are_asked_for_once(tmp_path: Path, wanted: Make) -> None:
    found = tune.tune(
        wanted(settings={"sampling.temperature": [0.0], "sampling.top_p": [0.5, 1.0]}, variants={}),
        tmp_path / "out",
    )
    first, second = found.report["trials"]
    assert first["mean"] == second["mean"]
    assert len(list((tmp_path / "out" / "tune" / "completions").iterdir())) == 1


def refusal(recipe: Recipe, folder: Path) -> str:
    with pytest.raises(unprompt.UserError) as error:
        tune.tune(recipe, folder)
    assert not (folder / "tune").exists(), "before anything is asked"
    return str(error.value)


def test_never_on_the_test_split(tmp_path: Path, wanted: Make) -> None:
    held = [{"id": "x", "text": " TEAL", "target": "x"}, {"id": "y", "text": "gold", "target": "y"}]
    line = refusal(wanted({"evaluate": {"data": held}}), tmp_path / "out")
    assert "1 of its examples (as 't1') are what context 'colours' is proven on" in line
    file = tmp_path / "all.jsonl"
    file.write_text("\n".join(map(json.dumps, SPLIT)))
    mixed = {"mix": [{"data": str(file), "share": 1}, {"data": held, "share": 1}]}
    line = refusal(
        wanted({"evaluate": {"data": {"file": str(file), "limit": 1}}}, data=mixed),
        tmp_path / "out",
    )
    assert f"the file {file} is what context 'colours' is proven on" in line


def test_sections_about_other_contexts_are_left_alone(
    tmp_path: Path, wanted: Make, tiny: Make
) -> None:
    """Judge and further systems may name contexts that the search leaves aside."""
    colours = tiny().model_dump(mode="json", by_alias=True)["contexts"]["colours"]
    held = {"data": [{"id": "h", "text": "gold", "target": "y"}], "metrics": ["accuracy"]}
    recipe = wanted(
        {
            "contexts": {"colours": colours, "others": {**colours, "evaluate": held}},
            "systems": {"plain": {"model": "base", "prompt": "student", "contexts": ["others"]}},
            "judge": {"contexts": ["others"]},
            "evaluate": held,
        }
    )
    assert tune.tune(recipe, tmp_path / "out").report["combinations"] == 12


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"settings": {"sampling.temprature": [0]}}, "did you mean 'sampling.temperature'?"),
        ({"settings": {"train.epochs": [1]}}, "there are: sampling.temperature"),
        ({"settings": {"sampling.top_p": [0]}}, "tune.settings.sampling.top_p can't be 0"),
        ({"settings": {"sampling.top_p": [1, 1.0]}}, "names a value twice"),
        ({"settings": {}, "variants": {}}, "nothing to choose among"),
        ({"context": "colors"}, "did you mean 'colours'?"),
        ({"who": "student"}, "evaluate.temperature"),
    ],
)
def test_what_the_schema_refuses(wanted: Make, parts: dict[str, Any], said: str) -> None:
    with pytest.raises(unprompt.UserError) as error:
        wanted(**parts)
    assert said in str(error.value)


def test_what_is_refused_before_anything_is_asked(tmp_path: Path, wanted: Make, tiny: Make) -> None:
    out = tmp_path / "out"
    assert "does not say what to tune" in refusal(tiny(), out)
    assert "example 't0' has no gold answer in field 'gold'" in refusal(
        wanted(data={"rows": SPLIT, "target": "gold"}), out
    )
    assert "does not say how good" in refusal(wanted(metric="entropy"), out)
    assert "did you mean 'accuracy'" in refusal(wanted(metric="acuracy"), out)
    assert "over the model's window" in refusal(
        wanted(settings={"sampling.max_new_tokens": [4, 500]}), out
    )
    assert "'txt' is undefined" in refusal(wanted(variants={"a": None, "b": "{{ txt }}"}), out)
