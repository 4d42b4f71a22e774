"""Metrics against values computed by hand."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from conftest import decoder, seq2seq
from unprompt import metrics
from unprompt.engines.hf.engine import HFEngine
from unprompt.metrics.association import association
from unprompt.metrics.choices import choice, sequence_logprob
from unprompt.metrics.entropy import entropy
from unprompt.metrics.margins import Margin, correlation, margin
from unprompt.metrics.numeric import (
    Number,
    first_number,
    last_number,
    numeric_match,
    numeric_match_first,
)
from unprompt.metrics.rouge import rouge_l
from unprompt.metrics.statistics import SHARE, by_group
from unprompt.recipe import Labels, Sampling
from unprompt.records import Example, Prompt, SoftLabels


def gold(target: Any) -> Example:
    return Example("e", {}, target)


def test_metrics_are_found_by_name() -> None:
    for name, function in {
        "rouge_l": rouge_l,
        "numeric_match": numeric_match,
        "numeric_match_first": numeric_match_first,
        "entropy": entropy,
    }.items():
        assert metrics.find(name, "evaluate.metrics").function is function


# -- rouge_l ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "target", "value"),
    [
        # longest common subsequence "police the gunman" (kill != killed), 3 of 4 words on both
        # sides
        ("police kill the gunman", "police ended the gunman", 3 / 4),
        (
            "the gunman kill police",
            "police killed the gunman",
            2 / 4,
        ),  # only "the gunman" is in order
        (
            "the cats were running",
            "the cat runs",
            2 * (3 / 4) / (3 / 4 + 1),
        ),  # the, cat, run of four words, and of three
        ("", "a word", 0.0),
        ("?!", "a word", 0.0),
        ("The Answer.", "the answer", 1.0),
        (
            "one two",
            ["nothing", "one two three four", "one two three"],
            2 * 1 * (2 / 3) / (1 + 2 / 3),
        ),
    ],
)
def test_rouge_l(answer: str, target: Any, value: float) -> None:
    assert rouge_l(answer, gold(target)) == pytest.approx(value)


def test_rouge_l_says_that_it_cannot_read_a_script() -> None:
    with pytest.raises(ValueError, match="no target has a word"):
        rouge_l("\u4f60\u597d", gold("\u4f60\u597d"))


# -- numeric_match ---------------------------------------------------------------------------------


def fraction(number: Number | None) -> Fraction | None:
    return None if number is None else Fraction(number.over) / Fraction(number.under)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 42.", 42),
        ("12 + 30 = 42", 42),
        ("$1,234,567.50 in all", Fraction(123456750, 100)),
        ("-5", -5),
        ("\u22125", -5),
        ("+5", 5),
        ("-$5", -5),
        ("$-5", -5),
        ("x=-5", -5),
        ("10-5", 5),
        ("pages 10-20", 20),
        ("(2)-5", 5),
        ("5 - 7", 7),
        ("3/4", Fraction(3, 4)),
        ("-3/4", Fraction(-3, 4)),
        ("6/2 cups", 3),
        ("1 3/4", Fraction(7, 4)),
        ("-1 3/4", Fraction(-7, 4)),
        ("1,000 1/2", Fraction(2001, 2)),
        ("75%", 75),
        ("12.5 %.", Fraction(25, 2)),
        (".5", Fraction(1, 2)),
        ("0.10", Fraction(1, 10)),
        ("5.", 5),
        ("1.5e3", 1500),
        ("2E-2", Fraction(1, 50)),
        ("1, 2, 3", 3),
        ("1,2,3", 3),
        ("2023,500", 500),
        ("3.14.15", 15),
        ("in 12/05/2024", 2024),
        ("#### 18", 18),
        ("007", 7),
        ("3/0", None),
        ("none", None),
        ("", None),
    ],
)
def test_the_last_number(text: str, number: Any) -> None:
    assert fraction(last_number(text)) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("$18 a day, 3 of them saved", 18),
        ("12 + 30 = 42", 12),
        ("-5 or 7", -5),
        ("1 3/4 cups, not 2", Fraction(7, 4)),
        ("10-5", 10),
        ("1,000.50, about 1,000", Fraction(2001, 2)),
        ("3.14.15", Fraction(314, 100)),
        ("1, 2, 3", 1),
        ("3/0 or 4", None),
        ("none", None),
        ("", None),
    ],
)
def test_the_first_number(text: str, number: Any) -> None:
    assert fraction(first_number(text)) == number


@pytest.mark.parametrize(
    ("answer", "first", "last"),
    [
        ("18 dollars, 3 of them saved", 1, 0),
        ("16 + 2 = 18", 0, 1),
        ("18.", 1, 1),
        ("none", 0, 0),
    ],
)
def test_which_number_of_an_answer_counts(answer: str, first: float, last: float) -> None:
    assert numeric_match_first(answer, gold("18")) == first
    assert numeric_match(answer, gold("18")) == last


def test_the_target_is_read_as_the_answer_is() -> None:
    assert numeric_match("18", gold("9 * 2 = 18")) == numeric_match_first("9", gold("9 * 2")) == 1
    assert numeric_match("9", gold("9 * 2 = 18")) == numeric_match_first("18", gold("9 * 2")) == 0
    assert numeric_match_first("7, not 5", gold(["5", "7"])) == 1
    with pytest.raises(ValueError, match="the target 'many' holds no number"):
        numeric_match_first("1", gold("many"))


def test_a_looping_model_writes_a_number_too_long_for_int() -> None:
    assert fraction(last_number("9" * 6000)) == 10**6000 - 1


def test_numbers_match_exactly() -> None:
    assert numeric_match("so 0.75 of it", gold("3/4")) == 1
    assert numeric_match("0.50", gold(0.5)) == 1
    assert numeric_match("1,000", gold(1000)) == 1
    assert numeric_match("20%", gold("20")) == 1
    assert numeric_match("7", gold(["5", "7"])) == 1
    assert numeric_match("42, or rather 43", gold("42")) == 0
    assert numeric_match("0.333333", gold("1/3")) == 0
    assert numeric_match("0.75", gold("75%")) == 0
    assert numeric_match("forty-two", gold("42")) == 0
    with pytest.raises(ValueError, match="the target 'many' holds no number"):
        numeric_match("1", gold("many"))


# -- association -----------------------------------------------------------------------------------


def test_association_by_hand() -> None:
    values = {
        ("a", "a"): [1.0, 1.0],
        ("a", "b"): [1.0, 0.0],
        ("b", "a"): [0.0, 0.0],
        ("b", "b"): [1.0, 0.0],
    }
    found = association(values, ["a", "b"], SHARE)
    assert found.matrix == [[1.0, 0.5], [0.0, 0.5]]
    assert found.correct[0] == pytest.approx(3 / 4)
    assert found.wrong[0] == pytest.approx(1 / 4)
    assert found.correct[1:] == (None, None), "four answers are too few"


def test_an_input_asked_with_several_wrong_ids_is_one_observation() -> None:
    """Three tasks: of 24 inputs each, a third does its own task whatever the id; the same answers
    twice say no more than once. By hand: 24 of 72 inputs, Clopper & Pearson.
    """
    own = [1.0] * 8 + [0.0] * 16
    values = {(asked, given): own for asked in "abc" for given in "abc"}
    exact = stats.binomtest(24, 72).proportion_ci(method="exact")
    for figures in (found := association(values, list("abc"), SHARE)).correct, found.wrong:
        assert figures == pytest.approx((1 / 3, exact.low, exact.high), abs=2e-3)


def test_association_is_a_mean_over_tasks() -> None:
    values = {
        ("a", "a"): [1.0] * 30,
        ("b", "b"): [0.0] * 10,
        ("b", "a"): [0.0] * 30,
        ("a", "b"): [1.0] * 10,
    }
    found = association(values, ["a", "b"], SHARE)
    assert (found.correct[0], found.wrong[0]) == pytest.approx((0.5, 0.5)), "pooled: 0.75, 0.25"
    assert found.correct[1] is not None
    assert 0.25 < found.correct[1] < 0.5


# -- margins ---------------------------------------------------------------------------------------


def test_a_margin_is_a_difference_of_pairs() -> None:
    found = margin("t", [1, 1, 1, 0], [0, 1, 0, 0], after=[1, 0], before=[0, 0], bounds=SHARE)
    assert found.in_context[0] == pytest.approx(0.5)
    assert found.distilled[0] == pytest.approx(0.5)
    assert found.in_context[1:] == (None, None), "four pairs are too few"
    with pytest.raises(ValueError, match="the distillation margin has 2 values against 1"):
        margin("t", [1], [0], after=[1, 1], before=[0], bounds=SHARE)


def margins_of(in_context: list[float], distilled: list[float]) -> list[Margin]:
    return [
        Margin(f"t{n}", (x, x, x), (y, y, y))
        for n, (x, y) in enumerate(zip(in_context, distilled, strict=True))
    ]


def test_correlation_by_hand() -> None:
    # deviations (-2, -1, 0, 1, 2) and (-1, -2, 0, 2, 1): r = (2 + 2 + 0 + 2 + 2) / 10
    found = correlation(margins_of([1, 2, 3, 4, 5], [2, 1, 3, 5, 4]))
    assert found.r == pytest.approx(0.8)
    t = 0.8 * math.sqrt(3 / (1 - 0.64))
    assert found.p == pytest.approx(2 * stats.t.sf(t, 3))
    assert (found.low, found.high, found.tasks) == (None, None, 5), "five tasks are too few"
    # the same deviations five times: r stays, and Fisher's interval has 25 tasks
    found = correlation(margins_of([1, 2, 3, 4, 5] * 5, [2, 1, 3, 5, 4] * 5))
    centre, width = math.atanh(0.8), 1.959963985 / math.sqrt(25 - 3)
    assert (found.low, found.high) == pytest.approx(
        (math.tanh(centre - width), math.tanh(centre + width))
    )


def test_correlation_refuses_what_has_none() -> None:
    with pytest.raises(ValueError, match="four or more tasks, each once; here are 3"):
        correlation(margins_of([1, 2, 3], [1, 2, 3]))
    with pytest.raises(ValueError, match="four or more tasks, each once"):
        correlation(margins_of([1, 2, 3, 4], [1, 2, 3, 4])[:3] + margins_of([9], [9]))
    with pytest.raises(ValueError, match=r"the distillation margin is 1\.0 for all 4 tasks"):
        correlation(margins_of([1, 2, 3, 4], [1.0] * 4))


# -- entropy ---------------------------------------------------------------------------------------


def test_entropy_is_that_of_the_models_answers(tokenizer: Any) -> None:
    """On a model that can only say 4 words of one token and an end: H by enumeration against the
    mean over sampled answers.
    """
    engine, prompts = (
        HFEngine(decoder(), tokenizer),
        [Prompt(str(n), "c", "Say:") for n in range(300)],
    )
    answers = engine.generate(prompts, Sampling(max_new_tokens=2), Labels(draws=30), seed=3)
    with torch.inference_mode():
        asked = tokenizer("Say:").input_ids
        first_V = engine.model(input_ids=torch.tensor([asked])).logits[0, -1].log_softmax(-1)
        ids = torch.tensor([[*asked, token] for token in range(len(first_V))])
        second_VV = engine.model(input_ids=ids).logits[:, -1].log_softmax(-1)
    entropy_V = -(second_VV.exp() * second_VV).sum(-1)
    entropy_V[tokenizer.eos_token_id] = 0.0  # the answer is over
    truth = float((first_V.exp() * (entropy_V - first_V)).sum())
    values = [entropy(answer) for answer in answers]
    assert np.mean(values) == pytest.approx(truth, abs=4 * np.std(values) / np.sqrt(len(values)))
    with pytest.raises(ValueError, match="soft labels"):
        entropy(engine.generate(prompts[:1], Sampling(max_new_tokens=2), None)[0])


# -- choices ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix_tokens", [None, [0]])
def test_sequence_logprob_is_the_models_own(
    tokenizer: Any, prefix_tokens: list[int] | None
) -> None:
    model: Any = decoder()
    prompts = [
        Prompt(str(n), "c", text)
        for n, text in enumerate(
            ["The Eiffel Tower is in", "The Eiffel Tower stands in the city of"]
        )
    ]
    objects = [tokenizer(" Rome").input_ids, tokenizer(" Paris, France").input_ids]
    labels = HFEngine(model, tokenizer).score(
        prompts, objects, Labels(kind="hard"), prefix_tokens=prefix_tokens
    )
    for prompt, ids, label in zip(prompts, objects, labels, strict=True):
        before = tokenizer(prompt.content).input_ids
        with torch.inference_mode():
            logp_TV = model(input_ids=torch.tensor([before + ids])).logits[0].log_softmax(-1)
        own = sum(float(logp_TV[len(before) + n - 1, token]) for n, token in enumerate(ids))
        assert sequence_logprob(label) == pytest.approx(own, abs=1e-3)


def test_sequence_logprob_of_an_encoder_decoder(tokenizer: Any) -> None:
    model: Any = seq2seq()
    ids = tokenizer(" Rome").input_ids
    [label] = HFEngine(model, tokenizer).score(
        [Prompt("0", "c", "The tower is in")], [ids], Labels(kind="hard")
    )
    with torch.inference_mode():
        logits = model(
            input_ids=torch.tensor([tokenizer("The tower is in").input_ids]),
            decoder_input_ids=torch.tensor([[0, *ids[:-1]]]),
        ).logits
    own = float(logits[0].log_softmax(-1)[range(len(ids)), ids].sum())
    assert sequence_logprob(label) == pytest.approx(own, abs=1e-3)


def test_sequence_logprob_needs_hard_labels() -> None:
    assert sequence_logprob(SoftLabels.hard([5, 6], np.array([0.5, 1.25], np.float32))) == -1.75
    spread = SoftLabels(
        np.array([1, 2], np.int32),
        np.array([0.5, 0.5], np.float32),
        np.array([0, 2], np.int32),
        np.ones(1, np.float32),
    )
    with pytest.raises(ValueError, match="kind hard"):
        sequence_logprob(spread)


def hard(*logps: float) -> SoftLabels:
    return SoftLabels.hard(list(range(len(logps))), -np.array(logps, np.float32))


def test_choice_by_hand() -> None:
    assert choice(hard(math.log(0.6)), hard(math.log(0.1))) == pytest.approx(
        {"score": 1.0, "magnitude": 0.5}
    )
    assert choice(hard(math.log(0.5), math.log(0.5)), hard(math.log(0.4))) == pytest.approx(
        {"score": 0.0, "magnitude": -0.15}
    ), "whole sequences"
    assert choice(hard(-1.0), hard(-1.0))["score"] == 0, "a tie is lost"
    assert choice(hard(-800.0), hard(-900.0))["score"] == 1, "below the smallest float"


def test_values_of_a_group_count_once() -> None:
    assert by_group([1.0, 0.0, 1.0, 0.25], ["a", "a", "b", None]) == [0.5, 1.0, 0.25]
    assert by_group([1.0, 0.0], [None, None]) == [1.0, 0.0]
