"""Dollars a call and the break-even. The prices here are made up: what is tested is the arithmetic,
to the cent.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, strategies as st

import unprompt
from conftest import tiny_recipe
from test_docs import blocks, run_blocks
from unprompt.recipe import Recipe, parse, prices
from unprompt.recipe.prices import Price
from unprompt.report import cost
from unprompt.report.cost import Usage
from unprompt.stages import check
from unprompt.store.tables import read_completions

BIG = Price(Decimal("10"), Decimal("30"), Decimal("1"))
SMALL = Price(Decimal("0.5"), Decimal("1.5"))


def test_dollars_per_thousand_calls_to_the_cent() -> None:
    """1,200 tokens in and 150 out: 1.2 M * $10 + 0.15 M * $30 = $16.50; with 1,000 of them cached
    0.2 * 10 + 1.0 * 1 + 4.5 = $7.50.
    """
    assert cost.per_thousand(BIG, 1200, 150) == Decimal("16.5")
    assert cost.per_thousand(BIG, 1200, 150, 1000) == Decimal("7.5")
    assert cost.per_thousand(Price(Decimal("0.15"), Decimal("0.60")), 333, 77) == Decimal("0.09615")
    assert cost.cents(Decimal("0.125")) == Decimal("0.13"), "halves go up, as on a bill"
    with pytest.raises(ValueError, match="5 of 4 prompt tokens"):
        cost.per_thousand(BIG, 4, 1, 5)
    with pytest.raises(ValueError, match="no price of cached input"):
        cost.per_thousand(SMALL, 4, 1, 2)


def test_caching_begins_at_the_providers_minimum() -> None:
    usage = Usage("teacher", 10, 20_000, 0, 1000)
    assert cost.of_usage(BIG, usage, caching=False) == Decimal("0.2")
    assert cost.of_usage(BIG, usage, caching=True) == Decimal("0.11"), (
        "10,000 tokens at $10 and 10,000 at $1"
    )
    assert cost.of_usage(
        Price(BIG.input, BIG.output, BIG.cached_input, 1024), usage, caching=True
    ) == Decimal("0.2")
    assert cost.of_usage(SMALL, usage, caching=True) == cost.of_usage(SMALL, usage, caching=False)


def test_break_even() -> None:
    assert cost.break_even(Decimal(10), Decimal("0.03"), Decimal("0.01")) == 500
    assert cost.break_even(Decimal("10.001"), Decimal("0.03"), Decimal("0.01")) == 501
    assert cost.break_even(Decimal(10), Decimal("0.01"), Decimal("0.01")) is None
    assert cost.break_even(Decimal(0), Decimal("0.02"), Decimal("0.01")) == 0


@given(st.integers(0, 10**9), st.integers(1, 10**6), st.integers(0, 10**6))
def test_break_even_is_the_first_such_call(once: int, teacher: int, student: int) -> None:
    a, b, c = (Decimal(n) / 10**6 for n in (once, teacher, student))
    found = cost.break_even(a, b, c)
    if found is None:
        assert c >= b
    else:
        assert a + found * c <= found * b
        assert found == 0 or a + (found - 1) * c > (found - 1) * b


def test_our_examples_are_whole_and_the_users_table_wins(tmp_path: Path) -> None:
    ours = prices.load(None)
    assert ours["example-big"] == Price(
        Decimal("10.0"), Decimal("30.0"), Decimal("1.0"), 0, ours["example-big"].source
    )
    assert ours["example-big"].source.startswith("prices.yaml of 20")
    (tmp_path / "mine.yaml").write_text(
        "prices:\n  example-big: {input: 0.1, output: 0.3}\n  own: {input: 1, output: 2}\n"
    )
    both = prices.load(str(tmp_path / "mine.yaml"))
    assert both["example-big"] == Price(Decimal("0.1"), Decimal("0.3"), None, 0, "mine.yaml")
    assert both.keys() == ours.keys() | {"own"}


@pytest.fixture
def priced(tiny: Callable[..., Recipe], tmp_path: Path) -> Callable[..., Recipe]:
    table = {
        "prices": {
            "big": {"input": 1000, "output": 3000, "cached_input": 100},
            "small": {"input": 500, "output": 1500},
            "huge": {"input": 10**6, "output": 0},
        }
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(table))

    def make(cost: dict[str, Any] | None = None, **sections: Any) -> Recipe:
        own = {
            "prices": str(tmp_path / "mine.yaml"),
            "teacher": "big",
            "student": "small",
            "dollars_per_hour": 36,
        }
        return tiny(cost=own | (cost or {}), **sections)

    return make


def test_a_run_reports_its_cost(priced: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = priced({"calls": 1000})
    run = unprompt.run(recipe, tmp_path / "run")
    found, systems = run.report["cost"], run.report["contexts"]["colours"]["systems"]
    mine = found["contexts"]["colours"]
    assert set(mine) == set(systems)
    shared = check.check(recipe).prompts.held_teacher["colours"].prefix[0]
    assert shared > 40
    for name, prices_ in (("teacher", (1000, 3000, 100)), ("after", (500, 1500, 500))):
        tokens, written = systems[name]["prompt_tokens"], systems[name]["completion_tokens"]
        plain = (tokens * prices_[0] + written * prices_[1]) / 1000
        assert mine[name]["per_1000_calls"]["plain"] == pytest.approx(plain, rel=1e-9)
        saved = shared * (prices_[0] - prices_[2]) / 1000 if name == "teacher" else 0
        assert mine[name]["per_1000_calls"]["cached"] == pytest.approx(plain - saved, rel=1e-9)
    assert mine["after_teacher_prompt"]["model"] == "small"
    # once: the teacher's answers to the 8 inputs, and the seconds of training
    done = [
        c
        for store in (tmp_path / "run" / "completions").iterdir()
        for c in read_completions(store).values()
    ]
    own = [c for c in done if c.example_id.startswith("i")]
    assert len(own) == 8
    collecting = sum(c.prompt_tokens * 1000 + len(c.token_ids) * 3000 for c in own) / 1e6
    once = found["once"]["after"]
    seconds = json.loads((tmp_path / "run" / "train_seconds.json").read_text())
    assert seconds > 0
    assert once["collecting"]["plain"] == pytest.approx(collecting)
    assert once["collecting"]["cached"] == pytest.approx(collecting - 8 * shared * 900 / 1e6)
    assert once["training"] == pytest.approx(seconds * 36 / 3600, abs=1e-6)
    saved = (
        mine["teacher"]["per_1000_calls"]["plain"] - mine["after"]["per_1000_calls"]["plain"]
    ) / 1000
    total = once["total"]["plain"]
    assert total == pytest.approx(collecting + seconds / 100, abs=1e-6)
    assert mine["after"]["break_even_calls"]["plain"] == pytest.approx(total / saved, abs=1)
    assert "break_even_calls" not in mine["before"], (
        "it needs no training, but does not do the task either"
    )
    assert mine["after"]["total"]["plain"] == pytest.approx(
        total + mine["after"]["per_1000_calls"]["plain"], abs=1e-6
    )
    assert mine["teacher"]["total"] == mine["teacher"]["per_1000_calls"]
    page = (tmp_path / "run" / "report.md").read_text()
    assert "## Cost, context colours" in page
    assert "s at $36 an hour" in page
    assert unprompt.run(recipe, tmp_path / "run").unchanged


def test_a_dearer_student_never_pays(priced: Callable[..., Recipe], tmp_path: Path) -> None:
    """Another table alone makes another report: nobody is asked again."""
    unprompt.run(priced(), tmp_path / "run")
    parts = {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / "run").rglob("*.parquet")
        if "completions" in str(path)
    }
    run = unprompt.run(priced({"student": "huge"}), tmp_path / "run")
    assert {path: path.stat().st_mtime_ns for path in parts} == parts
    assert (
        run.report["cost"]["contexts"]["colours"]["after"]["break_even_calls"]["plain"] == "never"
    )
    assert "| never |" in (tmp_path / "run" / "report.md").read_text()


def test_an_unknown_time_is_said_and_not_guessed(
    priced: Callable[..., Recipe], tmp_path: Path
) -> None:
    unprompt.run(priced(), tmp_path / "run")
    for folder in (tmp_path / "run", tmp_path / "run" / "copies"):
        (folder / "train_seconds.json").unlink()
    run = unprompt.run(priced({"dollars_per_hour": 2}), tmp_path / "run")
    assert run.report["cost"]["once"]["after"]["total"]["plain"] is None
    assert run.report["cost"]["contexts"]["colours"]["after"]["break_even_calls"]["plain"] is None
    assert (
        "the seconds of training were not recorded" in (tmp_path / "run" / "report.md").read_text()
    )


def test_a_round_costs_what_it_stands_on(priced: Callable[..., Recipe], tmp_path: Path) -> None:
    """`second` starts from `first`, `third` is taught by `second`, `alone` needs nobody. Drawn
    inputs count; again from the store.
    """
    contexts = {
        "one": {
            "inputs": [{"id": "i1", "text": "red"}, {"id": "i2", "text": "green"}],
            "teacher": "Long and patient {{ text }}:",
            "student": "1 {{ text }}:",
        },
        "two": {
            "inputs": {
                "sample": {
                    "seeds": [{"text": "a"}],
                    "template": "x",
                    "count": 2,
                    "max_new_tokens": 6,
                    "stop": list("aeiounrst"),
                    "tries": 30,
                    "near": 1.0,
                }
            },
            "teacher": "What else is {{ text }}?",
            "student": "2 {{ text }}:",
        },
    }
    rounds = {
        "first": {"contexts": ["one"]},
        "second": {"contexts": ["two"]},
        "third": {"contexts": ["one"], "start": "base", "teacher": "second"},
        "alone": {"contexts": ["one"], "start": "base"},
    }
    recipe = priced(contexts=contexts, rounds=rounds, sampling={"max_new_tokens": 4})
    assert [cost.lineage(recipe, name) for name in rounds] == [
        ["first"],
        ["first", "second"],
        ["first", "second", "third"],
        ["alone"],
    ]
    found = unprompt.run(recipe, tmp_path / "run").report["cost"]
    collecting = {name: entry["collecting"]["plain"] for name, entry in found["once"].items()}
    assert collecting["alone"] == collecting["first"] > 0
    assert collecting["second"] > collecting["first"]
    assert collecting["third"] > collecting["second"]
    (tmp_path / "run" / "report.json").unlink()
    again = unprompt.run(recipe, tmp_path / "run").report["cost"]
    assert {name: entry["collecting"] for name, entry in again["once"].items()} == {
        name: entry["collecting"] for name, entry in found["once"].items()
    }
    assert "break_even_calls" not in found["contexts"]["two"]["first"], "it was not taught that"


def test_the_clock_goes_on_over_restarts(tmp_path: Path) -> None:
    from unprompt.stages.train.checkpoints import Clock

    assert (Clock(None).seconds() or -1) >= 0
    assert Clock(str(tmp_path)).seconds() is None, "a checkpoint without it: nobody knows"
    (tmp_path / "seconds.json").write_text("100.0")
    began = time.perf_counter()
    clock = Clock(str(tmp_path))
    assert 100 <= (clock.seconds() or 0) <= 100 + time.perf_counter() - began


def test_the_commands_of_the_page_run_and_print_what_it_says(tmp_path: Path) -> None:
    said = run_blocks("docs/cost.md", tmp_path)
    [promised] = [text for kind, _, text in blocks("docs/cost.md") if kind == "text"]
    assert said == promised
    for page, section in (("docs/cost.md", "cost"), ("docs/judging.md", "judge")):
        [shown] = [text for kind, title, text in blocks(page) if kind == "yaml" and not title]
        parse(tiny_recipe(tmp_path) | {section: yaml.safe_load(shown)[section]}, base=tmp_path)
