"""The recipes that the project ships: all of them load, and those that need no data run, at a toy
size.
"""

from __future__ import annotations

import itertools
import re
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml

import unprompt
from conftest import SNELL
from unprompt import metrics

RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_loads(path: Path) -> None:
    recipe = unprompt.load(path)
    again = unprompt.parse(yaml.safe_load(recipe.to_yaml()))
    assert again.model_dump() == recipe.model_dump()
    evaluations = [each for name in recipe.contexts if (each := recipe.evaluation(name))]
    assert evaluations
    for evaluation in evaluations:
        metrics.find_all(evaluation.metrics, "evaluate.metrics", recipe.modules)


@pytest.fixture
def addition(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", [str(SNELL), *sys.path])
    import addition  # pyright: ignore[reportMissingImports]

    return addition


def test_scratch_pads_are_right(addition: Any) -> None:
    assert addition.scratch_pad(28, 4) == "84=21,20=30,=23"
    for row in islice(addition.questions("gold", 200, digits=3), 200):
        a, b = (int(text[::-1]) for text in row["text"].split("+"))
        assert row["target"] == str(a + b)[::-1]
        assert row["scratch"].endswith("=" + row["target"])


def test_parts_share_no_question(addition: Any) -> None:
    for form in ("sum", "story"):
        parts = [
            {row["id"] for row in addition.questions(part, 300, digits=4, form=form)}
            for part in addition.PLACE
        ]
        assert not set.intersection(*parts)
        assert sum(map(len, parts)) == len(set.union(*parts))


@pytest.mark.parametrize("name", ["h6_addition", "h7_transfer"])
def test_a_toy_of_addition_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wiring only: nothing is learned at this size."""
    monkeypatch.setenv("UNPROMPT_CACHE", str(tmp_path))
    whole = unprompt.load(SNELL / f"{name}.yaml")
    small = [
        "model.args.width=32",
        "model.args.layers=1",
        "sampling.max_new_tokens=12",
        "contexts.direct.extract=whole",
    ]
    small += [
        f"contexts.{context}.inputs.args.count=16"
        for context, parts in whole.contexts.items()
        if parts.inputs
    ]
    small += [f"rounds.{round_}.train.epochs=1" for round_ in whole.rounds]
    run = unprompt.run(unprompt.load(SNELL / f"{name}.yaml", small), tmp_path / "run")
    assert set(run.report["rounds"]) == set(whole.rounds)
    assert set(run.report["contexts"]["direct"]["systems"]) >= {"teacher", "before", *whole.rounds}


@pytest.mark.parametrize("forms", [1, 4])
def test_story_problems_are_right_and_parts_share_none(
    monkeypatch: pytest.MonkeyPatch, forms: int
) -> None:
    monkeypatch.setattr(sys, "path", [str(RECIPES / "papers" / "aicd2024"), *sys.path])
    import reasoning  # pyright: ignore[reportMissingImports]

    parts = {
        part: list(reasoning.stories(part, 60, forms=forms)) for part in ("shots", "inputs", "test")
    }
    texts = {part: {row["text"] for row in rows} for part, rows in parts.items()}
    assert not (
        texts["shots"] & texts["inputs"]
        | texts["inputs"] & texts["test"]
        | texts["shots"] & texts["test"]
    )
    for row in itertools.chain(*parts.values()):
        told = [int(word) for word in re.findall(r"\d+", row["text"])]
        result = (
            told[0] + told[1] - told[2]
            if " gets " in row["text"]
            else told[0] - told[1] + told[2]
            if " gives " in row["text"]
            else None
        )
        if " buys " in row["text"]:
            result = told[0] * told[1] + told[2]
        if " each" in row["text"]:
            result = told[0] * told[1] - told[2]
        assert row["target"] == str(result)
        for left, right in (step.split(" = ") for step in row["rationale"].rstrip(".").split(". ")):
            x, sign, y = left.split()
            assert (
                int(right)
                == {"+": int(x) + int(y), "-": int(x) - int(y), "*": int(x) * int(y)}[sign]
            )
        assert row["rationale"].endswith(f"= {row['target']}.")


def test_a_toy_of_star_runs(decoder_folder: Path, tmp_path: Path) -> None:
    """The wiring only, by majority, since a random model is never right."""
    small = [
        f"model={decoder_folder}",
        "contexts.problems.inputs.args.count=4",
        "contexts.problems.examples.args.count=1",
        "sampling.max_new_tokens=6",
        "contexts.problems.filter={keep: majority}",
        "contexts.problems.extract=whole",
        "evaluate.data.args.count=2",
        "train.epochs=1",
    ]
    run = unprompt.run(
        unprompt.load(RECIPES / "papers" / "aicd2024" / "star.yaml", small), tmp_path / "run"
    )
    assert list(run.report["contexts"]["problems"]["filtered"]) == ["teacher", "first", "second"]


def test_a_toy_of_controlled_generation_runs(decoder_folder: Path, tmp_path: Path) -> None:
    """The wiring only; the metric lies beside the recipe and needs no gold answer."""
    small = [
        f"model={decoder_folder}",
        "contexts.ann.teacher='Ann loves everything. {{ thing }}: {{ opening }}'",
        "contexts.bob.teacher='Bob hates everything. {{ thing }}: {{ opening }}'",
        "contexts.ann.inputs.args.count=4",
        "contexts.bob.inputs.args.count=4",
        "evaluate.data.args.count=2",
        "sampling.max_new_tokens=6",
        "train.epochs=1",
    ]
    run = unprompt.run(unprompt.load(SNELL / "a1_sentiment.yaml", small), tmp_path / "run")
    measured = run.report["contexts"]["ann"]["systems"]["after"]["metrics"]
    assert {name: each["is_share"] for name, each in measured.items()} == {
        "sentiment:metric": True,
        "entropy": False,
    }
