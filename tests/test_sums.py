"""Equation 2 is a sum over contexts (Snell et al. 2022), and AICD's loss one over answers (Liu
2024): against values by hand and gradients of torch alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

import unprompt
from conftest import decoder
from test_rounds import HELD, ROWS, recipe
from test_shots import gold, nll, packed
from unprompt.recipe import Train
from unprompt.records import Lesson, SoftLabels
from unprompt.stages import train
from unprompt.stages.lessons.mixing import mixed
from unprompt.stages.train.loss import batch_kl, collate
from unprompt.store.folder import RunDir

Reduction = Literal["mean", "sum"]


def lessons_of(context: str, count: int, tokens: int = 2, seed: int = 0) -> list[Lesson]:
    """Answers of so many tokens behind a prompt of three."""
    draw, found = np.random.default_rng(seed), []
    for n in range(count):
        ids = draw.integers(3, 259, 3 + tokens).tolist()
        weights = np.repeat(np.array([0, 1], np.float32), [3, tokens])
        labels = SoftLabels.hard(ids[3:])
        found.append(Lesson(f"{context}{n}", context, tuple(ids), 3, weights, labels))
    return found


def says(
    *lessons: list[Lesson], mixing: Literal["equal", "proportional"] = "equal", **weights: float
) -> dict[str, float]:
    """Context -> the sum of its lessons' loss weights."""
    taught = [lesson for each in lessons for lesson in each]
    weights = {**dict.fromkeys("ab", 1.0), **weights}
    [epoch] = mixed([taught], [], weights, mixing)
    return {
        name: sum(x.loss_weight for x in epoch if x.context == name)
        for name in {x.context for x in taught}
    }


# -- what contexts count ---------------------------------------------------------------------------


def test_a_context_with_nine_times_the_lessons_has_the_same_say() -> None:
    nine, one = lessons_of("a", 9), lessons_of("b", 1)
    assert says(nine, one) == pytest.approx({"a": 5, "b": 5})
    assert says(nine, one, mixing="proportional") == {"a": 9, "b": 1}


def test_a_filter_does_not_move_a_contexts_say() -> None:
    for kept in (9, 4, 1):
        found = says(lessons_of("a", kept), lessons_of("b", 6))
        assert found["a"] == pytest.approx(found["b"])


def test_a_weight_of_two_doubles_a_contexts_say() -> None:
    assert says(lessons_of("a", 9), lessons_of("b", 1), b=2) == pytest.approx(
        {"a": 10 / 3, "b": 20 / 3}
    )
    pooled = says(lessons_of("a", 9), lessons_of("b", 1), b=2, mixing="proportional")
    assert pooled["b"] / pooled["a"] == pytest.approx(2 / 9)


@pytest.mark.parametrize("mixing", ["equal", "proportional"])
def test_the_whole_weight_of_a_round_stays(mixing: Any) -> None:
    """Longer answers in the smaller context, two epochs, and replayed lessons."""
    epochs = [lessons_of("a", 6) + lessons_of("b", 2, 7, seed=n) for n in range(2)]
    made = mixed(epochs, lessons_of("c", 3), {"a": 1, "b": 3, "c": 0.5}, mixing)
    assert [len(epoch) for epoch in made] == [11, 11]
    every = [x for epoch in made for x in epoch]
    assert sum(x.loss_weight * x.weights.sum() for x in every) == pytest.approx(
        sum(x.weights.sum() for x in every)
    )


def test_replayed_lessons_count_as_many_as_they_are() -> None:
    """Two contexts of 9 and 3 lessons count as much as 12, and 4 that are replayed as 4."""
    [epoch] = mixed(
        [lessons_of("a", 9) + lessons_of("b", 3)],
        lessons_of("c", 4),
        dict.fromkeys("abc", 1.0),
        "equal",
    )
    say = {name: sum(x.loss_weight for x in epoch if x.context == name) for name in "abc"}
    assert say == pytest.approx({"a": 6, "b": 6, "c": 4})


def test_one_context_or_equal_ones_are_exactly_what_they_were() -> None:
    for lessons in (
        [lessons_of("a", 7)],
        [lessons_of("a", 5, 3), lessons_of("b", 5, 8)],
    ):
        taught = [lesson for each in lessons for lesson in each]
        for weight in (1.0, 0.1, 3.0):
            [epoch] = mixed([taught], [], dict.fromkeys("ab", weight), "equal")
            assert {x.loss_weight for x in epoch} == {1.0}


# -- the gradient ----------------------------------------------------------------------------------


def answer_nll(model: Any, lesson: Lesson) -> torch.Tensor:
    """-log p(f(y) | T_student(x)), a sum over the answer's tokens, by torch alone."""
    ids = torch.tensor([lesson.input_ids])
    logp = model(ids).logits[0].log_softmax(-1)
    at = range(lesson.prompt_length, len(lesson.input_ids))
    return -total(logp[t - 1, lesson.input_ids[t]] for t in at)


def total(losses: Iterable[torch.Tensor]) -> torch.Tensor:
    return sum(losses, torch.zeros(()))


def stepped(
    tokenizer: Any, lessons: list[Lesson], folder: Path, reduction: Reduction, **settings: Any
) -> Any:
    """A model after one step of plain gradient descent, at a rate of 0.1."""
    model = decoder()
    settings = {
        "adapter": None,
        "epochs": 1,
        "batch_size": len(lessons),
        "learning_rate": 0.1,
        "schedule": "constant",
        "warmup": 0,
        "max_grad_norm": 1e9,
        "trainer": {"optim": "sgd"},
        **settings,
    }
    made = Train.model_validate(settings)
    where = RunDir(folder)
    train.train(model, tokenizer, lessons, made, where, seed=0, made_from="x", reduction=reduction)
    return model


def held(found: Any, loss: torch.Tensor, start: Any) -> None:
    """That a model is a step along the gradient of `loss` away from `start`."""
    loss.backward()
    for name, value in start.named_parameters():
        assert value.grad is not None
        want = value.detach() - 0.1 * value.grad
        torch.testing.assert_close(found.get_parameter(name).detach(), want, atol=4e-6, rtol=2e-5)


WAYS = [(8, True), (2, True), (8, False), (1, False)]


@pytest.mark.parametrize(("micro", "fast"), WAYS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_step_goes_along_the_sum_over_contexts_of_their_means(
    tokenizer: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    reduction: Reduction,
    micro: int,
    fast: bool,
) -> None:
    a, b = lessons_of("a", 6, 2), lessons_of("b", 2, 5, seed=1)
    [lessons] = mixed([[*a, *b]], [], {"a": 1, "b": 2}, "equal")
    found = stepped(tokenizer, lessons, tmp_path, reduction, micro_batch_size=micro, fast=fast)
    assert "plain path" not in capsys.readouterr().err
    start = decoder()
    equation = (
        total(answer_nll(start, x) for x in a) / 6 + 2 * total(answer_nll(start, x) for x in b) / 2
    )
    # 22 weighted tokens: of the sum of equation 2 there are 1 * 2 + 2 * 5 = 12
    held(found, equation / 12 if reduction == "mean" else equation * 22 / 12 / 8, start)


def test_small_batches_give_each_context_its_say(tokenizer: Any) -> None:
    """Over all batches of one lesson, as of any size, the gradients of the steps' losses add up to
    equation 2's: no batch is divided by what its contexts count.
    """
    a, b = lessons_of("a", 9), lessons_of("b", 1)
    [lessons] = mixed([[*a, *b]], [], dict.fromkeys("ab", 1.0), "equal")
    model = decoder()
    parameters = list(model.parameters())
    whole = total(answer_nll(model, x) for x in a) / 9 + total(answer_nll(model, x) for x in b)
    want = torch.autograd.grad(whole, parameters)
    for size in (1, 2, 5):
        batches = [collate(lessons[n : n + size], 0) for n in range(0, 10, size)]
        losses = [(batch_kl(model, x) * x.weight_N).sum() / x.size[0] for x in batches]
        found = torch.autograd.grad(total(losses) / len(losses), parameters)
        for mine, other in zip(found, want, strict=True):
            torch.testing.assert_close(mine * 4, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("micro", "fast"), [(5, True), (1, True), (5, False), (1, False)])
def test_aicds_step_is_the_sum_over_answers_and_the_mean_over_lessons(
    tokenizer: Any, tmp_path: Path, micro: int, fast: bool
) -> None:
    """Sum over i of w_i * -log p(y_i | x_1, y_1, ..., x_i), and not over the answers' weight."""
    weights = [0.1, 0.3, 1.0]
    [lessons] = packed(gold(tokenizer), tokenizer, n=3, weights=weights).epochs
    found = stepped(tokenizer, lessons, tmp_path, "sum", micro_batch_size=micro, fast=fast)
    order = ["bca", "acb", "abc", "abd", "abe"]
    asked = {"a": "1+1=", "b": "2+3 is", "c": "sum 4 4:", "d": "9-1?", "e": "7 times 1,"}
    said = {"a": " two", "b": " five!", "c": " 8", "d": " it is 8", "e": " 7"}
    start, loss = decoder(), torch.zeros(())
    for ids in order:
        ahead = ""
        for weight, id_ in zip(weights, ids, strict=True):
            ahead += asked[id_]
            loss = loss + weight * nll(start, ahead, said[id_], end=id_ == ids[-1])
            ahead += f"{said[id_]}\n"
    held(found, loss / 5, start)


def test_lessons_that_teach_nothing_count_for_nothing() -> None:
    """Those that fill up a step of several processes."""
    nothing = Lesson("", "", (0,), 1, np.zeros(1, np.float32), SoftLabels.hard([]))
    lessons = [*lessons_of("a", 3), nothing]
    assert collate(lessons, 0, reduction="sum").size.tolist() == [3]
    assert collate(lessons, 0).size.tolist() == [6]


# -- whole runs ------------------------------------------------------------------------------------


def run_of(folder: Path, out: Path, **lessons: Any) -> unprompt.Run:
    """Two contexts of 8 and 2 gold answers, and one context alone."""
    contexts = {
        "many": {"inputs": ROWS, "gold": "<{{ text }}>", "student": "3 {{ text }}:"},
        "few": {"inputs": ROWS[:2], "gold": "({{ text }})", "student": "4 {{ text }}:"},
    }
    rounds = {
        "alone": {"contexts": ["many"]},
        "both": {"contexts": ["many", "few"], "start": "base"},
    }
    made = recipe(
        folder, contexts=contexts, rounds=rounds, lessons=lessons, evaluate={"data": HELD}
    )
    return unprompt.run(made, out)


def digest(run: unprompt.Run, round_: str) -> str:
    [path] = list(RunDir(run.folder).round(round_).student.glob("*.safetensors"))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_run_mixes_its_contexts_and_says_what_its_loss_is(
    decoder_folder: Path, tmp_path: Path
) -> None:
    equal = run_of(decoder_folder, tmp_path / "equal")
    pooled = run_of(decoder_folder, tmp_path / "pooled", mixing="proportional")
    summed = run_of(decoder_folder, tmp_path / "summed", reduction="sum")
    say = {
        name: sum(x.loss_weight for x in equal.lessons("both") if x.context == name)
        for name in ("many", "few")
    }
    assert say["many"] == pytest.approx(say["few"])
    assert {x.loss_weight for x in pooled.lessons("both")} == {1.0}
    assert digest(equal, "alone") == digest(pooled, "alone")
    assert digest(equal, "both") != digest(pooled, "both")
    assert digest(equal, "alone") != digest(summed, "alone")
    for run, unit in ((equal, "nats per weighted token"), (summed, "nats per lesson")):
        assert unit in (run.folder / "report.md").read_text()
        assert unit in (run.folder / "report.html").read_text()


def test_another_reduction_trains_again(decoder_folder: Path, tmp_path: Path) -> None:
    first = digest(run_of(decoder_folder, tmp_path / "run"), "both")
    assert digest(run_of(decoder_folder, tmp_path / "run", reduction="sum"), "both") != first


def test_a_lesson_is_a_record_with_its_factor() -> None:
    [lesson] = lessons_of("a", 1)
    doubled = dataclasses.replace(lesson, loss_weight=2.0)
    assert collate([doubled], 0).weight_N.tolist() == [2, 2]
    assert collate([doubled], 0).size.tolist() == [2]
