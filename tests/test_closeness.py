"""KL to the teacher on held-out inputs: over answers, over tokens, with the end token, and on what
the teacher samples.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import unprompt
from conftest import decoder, reads
from unprompt.engines.hf.engine import HFEngine
from unprompt.recipe import Extract, Labels, Recipe, Sampling
from unprompt.records import Prompt, TokenKL
from unprompt.report.sections.kl import closeness
from unprompt.stages import check, lessons

KL = {
    "before": TokenKL(["a", "b", "c"], [], [[1.0, 3.0], [2.0], [4.0, 4.0, 4.0]]),
    "after": TokenKL(["a", "b", "c"], [], [[0.5, 0.5], [1.0], [0.0, 0.0, 0.6]]),
}


def test_over_answers_and_over_tokens_by_hand() -> None:
    found: Any = closeness(KL, dict.fromkeys("abc"))
    assert found["before"]["kl_nats_per_token"] == {
        "mean": pytest.approx((2 + 2 + 4) / 3),
        "by_token": pytest.approx(18 / 6),
        "examples": 3,
    }
    assert "gap_closed" not in found["before"]
    after = found["after"]
    assert after["gap_closed"]["value"] == pytest.approx(1 - (0.5 + 1 + 0.2) / 8)
    assert after["gap_closed_by_token"]["value"] == pytest.approx(1 - 2.6 / 18)


def test_groups_are_means_of_answers_and_sums_of_tokens() -> None:
    after: Any = closeness(KL, {"a": "x", "b": None, "c": "x"})["after"]
    assert after["gap_closed"]["value"] == pytest.approx(1 - (0.35 + 1) / (3 + 2))
    assert after["gap_closed_by_token"]["value"] == pytest.approx(1 - 2.6 / 18)


@pytest.mark.parametrize("rule", ["whole", "first_line"])
def test_the_end_token_is_compared_where_the_teacher_wrote_it(rule: Any, tokenizer: Any) -> None:
    prompts = [Prompt(str(n), "c", f"Say it: {n}") for n in range(40)]
    labels = Labels(kind="sampled", draws=5)
    sampling = Sampling(temperature=1.0, max_new_tokens=60)
    said = HFEngine(decoder(), tokenizer).generate(prompts, sampling, labels, seed=0)
    reader, extract = reads(tokenizer), Extract(keep=rule)
    built, _ = lessons.build(prompts, said, reader, extract, end_token=True, add_end=False)
    of = {x.example_id: x for x in said}
    ended = [x.input_ids[-1] == tokenizer.eos_token_id for x in built]
    whole = [len(x.input_ids) - x.prompt_length == len(of[x.example_id].token_ids) for x in built]
    by_itself = [of[x.example_id].stop == "end" for x in built]
    assert ended == [a and b for a, b in zip(whole, by_itself, strict=True)]
    assert any(ended)
    assert not all(ended), "cut at the limit, or by the rule"
    without, _ = lessons.build(prompts, said, reader, extract, end_token=False)
    assert all(x.input_ids[-1] != tokenizer.eos_token_id for x in without), "lessons.end_token"
    for lesson in built:
        assert sum(lesson.weights) == len(lesson.input_ids) - lesson.prompt_length


def test_what_the_teacher_samples(tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    made = tiny(report={"sampled": 2, "watch": 0})
    run = unprompt.run(made, tmp_path / "two")
    systems = run.report["contexts"]["colours"]["systems"]
    for system in ("before", "after"):
        sampled = systems[system]["sampled"]
        assert sampled["kl_nats_per_token"]["examples"] == 2
        assert sampled["kl_nats_per_token"] != systems[system]["kl_nats_per_token"]
    assert set(systems["after"]["sampled"]) > set(systems["before"]["sampled"])
    assert "sampled" not in systems["teacher"]
    for page in ("report.html", "report.md"):
        text = (run.folder / page).read_text("utf-8")
        assert "what the teacher samples" in text
        assert "most of which are form" in text


def test_nothing_is_sampled_unless_wanted(tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    without = tiny(report={"sampled": 0, "watch": 0})
    purposes = {ask.purpose for ask in check.check(without).plan.asks}
    assert "sampled" not in purposes
    run = unprompt.run(without, tmp_path / "none")
    assert "sampled" not in run.report["contexts"]["colours"]["systems"]["after"]
    assert "what the teacher samples" not in (run.folder / "report.html").read_text("utf-8")


def test_answers_that_are_sampled_already_are_not_asked_again(
    tiny: Callable[..., Recipe], tmp_path: Path
) -> None:
    evaluate = {**tiny().model_dump(mode="json")["evaluate"], "temperature": 1.0}
    made = tiny(evaluate=evaluate, report={"sampled": 64, "watch": 0})
    plan = check.check(made).plan
    assert sum(ask.purpose == "sampled" for ask in plan.asks) == 1
    without = check.check(tiny(evaluate=evaluate, report={"sampled": 0, "watch": 0})).plan
    assert plan.sizes(made) == without.sizes(made)
    systems = unprompt.run(made, tmp_path / "run").report["contexts"]["colours"]["systems"]
    assert systems["after"]["sampled"]["gap_closed"] == systems["after"]["gap_closed"]
