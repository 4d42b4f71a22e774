"""The default engine: prefix sharing, batching, seeds, stop strings, scoring."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from conftest import decoder, seq2seq
from unprompt.engines.hf.engine import HFEngine
from unprompt.recipe import Labels, Sampling
from unprompt.records import Completion, Prompt

SHARED = "These are long instructions that stand ahead of every input, word for word the same. "
TEXTS = ["one", "twenty two", "three hundred thirty three", "4"]
EVERYTHING = Labels(kind="top_k", k=259)


def asked(texts: list[str], shared: str = SHARED) -> list[Prompt]:
    return [Prompt(str(n), "c", shared + text) for n, text in enumerate(texts)]


def same(a: Completion, b: Completion) -> None:
    assert a.token_ids == b.token_ids
    assert (a.text, a.stop, a.prompt_tokens) == (b.text, b.stop, b.prompt_tokens)
    assert a.labels is not None
    assert b.labels is not None
    for n in range(len(a.labels)):
        left, right = dict(a.labels.token(n)), dict(b.labels.token(n))
        np.testing.assert_allclose(
            [left[k] for k in sorted(left)], [right[k] for k in sorted(right)], atol=1e-5
        )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_shared_prefix_changes_nothing(tokenizer: Any, temperature: float) -> None:
    """Token for token and, through labels over the whole vocabulary, probability for
    probability.
    """
    engine, sampling = (
        HFEngine(decoder(), tokenizer),
        Sampling(temperature=temperature, max_new_tokens=12),
    )
    shared = engine.generate(asked(TEXTS), sampling, EVERYTHING)
    assert engine._shares is True, "the tiny Llama took the slow path"
    unshared = engine.generate(asked(TEXTS), sampling, EVERYTHING, prefix_tokens=[0])
    alone = [
        engine.generate([prompt], sampling, EVERYTHING, prefix_tokens=[0])[0]
        for prompt in asked(TEXTS)
    ]
    copied = HFEngine(decoder(), tokenizer)
    copied._shares = False
    for a, b, c, d in zip(
        shared, unshared, alone, copied.generate(asked(TEXTS), sampling, EVERYTHING), strict=True
    ):
        same(a, b)
        same(a, c)
        same(a, d)


@pytest.mark.parametrize("shares", [True, False])
def test_the_head_gets_what_it_reads_in_one_piece(tokenizer: Any, shares: bool) -> None:
    """Of a view with gaps PyTorch multiplies each row alone, and copies the vocabulary's weights
    for it in bfloat16: 80 rows of a vocabulary of 152 thousand took 22 GB.
    """
    model, whole = decoder(), list[bool]()
    engine = HFEngine(model, tokenizer)
    engine.generate(asked(TEXTS[:1]), Sampling(max_new_tokens=1), None)  # tries the shared prefix
    engine._shares = shares
    real = model.lm_head.forward

    def noting(input: torch.Tensor) -> torch.Tensor:
        whole.append(input.is_contiguous())
        return real(input)

    model.lm_head.forward = noting
    found = engine.generate(asked(TEXTS), Sampling(max_new_tokens=3, temperature=0), None)
    engine.score(asked(TEXTS), [each.token_ids for each in found], EVERYTHING)
    assert len(whole) >= 4
    assert all(whole)
    assert not model.lm_head._forward_pre_hooks, "it is taken off again"


def test_greedy_tokens_are_those_of_transformers_generate(tokenizer: Any) -> None:
    model: Any = decoder()
    for prompt, mine in zip(
        asked(TEXTS),
        HFEngine(model, tokenizer).generate(
            asked(TEXTS), Sampling(temperature=0, max_new_tokens=10), None
        ),
        strict=True,
    ):
        ids = torch.tensor([tokenizer(prompt.content).input_ids])
        theirs = model.generate(
            ids, max_new_tokens=10, do_sample=False, attention_mask=torch.ones_like(ids)
        )[0, ids.shape[1] :]
        assert list(mine.token_ids) == theirs.tolist()
        assert mine.labels is None


def test_greedy_tokens_of_an_encoder_decoder(tokenizer: Any) -> None:
    model: Any = seq2seq()
    for prompt, mine in zip(
        asked(TEXTS),
        HFEngine(model, tokenizer).generate(
            asked(TEXTS), Sampling(temperature=0, max_new_tokens=8), EVERYTHING
        ),
        strict=True,
    ):
        ids = torch.tensor([tokenizer(prompt.content).input_ids])
        theirs = model.generate(ids, max_new_tokens=8, do_sample=False)[0, 1:]
        assert list(mine.token_ids) == theirs.tolist()


@pytest.mark.parametrize("family", [decoder, seq2seq])
def test_scoring_gives_the_labels_of_generating(tokenizer: Any, family: Any) -> None:
    engine = HFEngine(family(), tokenizer)
    said = engine.generate(asked(TEXTS), Sampling(max_new_tokens=7), EVERYTHING)
    scored = engine.score(asked(TEXTS), [c.token_ids for c in said], EVERYTHING)
    for completion, labels in zip(said, scored, strict=True):
        same(
            completion,
            Completion(
                "",
                "",
                completion.text,
                completion.token_ids,
                completion.stop,
                completion.prompt_tokens,
                labels,
            ),
        )


def test_draws_do_not_depend_on_the_batch(tokenizer: Any) -> None:
    engine, sampling, labels = (
        HFEngine(decoder(), tokenizer),
        Sampling(max_new_tokens=6),
        Labels(draws=30),
    )
    together = engine.generate(asked(TEXTS), sampling, labels, seed=5)
    backwards = engine.generate(asked(TEXTS)[::-1], sampling, labels, seed=5)[::-1]
    for a, b in zip(together, backwards, strict=True):
        same(a, b)
    other = engine.generate(asked(TEXTS), sampling, labels, seed=6)
    assert [c.token_ids for c in other] != [c.token_ids for c in together]


def test_draws_follow_the_distribution(tokenizer: Any) -> None:
    engine = HFEngine(decoder(), tokenizer)

    def first(labels: Labels) -> dict[int, float]:
        [found] = engine.generate(asked(["x"]), Sampling(max_new_tokens=1), labels)
        assert found.labels
        return dict(found.labels.token(0))

    exact, drawn = first(EVERYTHING), first(Labels(draws=60000))
    assert max(abs(drawn.get(id_, 0) - p) for id_, p in exact.items()) < 0.01


def test_stop_strings_and_the_end_token(tokenizer: Any) -> None:
    engine = HFEngine(decoder(), tokenizer)
    free = engine.generate(asked(["x"]), Sampling(temperature=0, max_new_tokens=20), None)[0]
    assert free.stop == "length"
    stop = free.text[3:5]
    stopped = engine.generate(
        asked(["x"]), Sampling(temperature=0, max_new_tokens=20, stop=(stop,)), None
    )[0]
    assert stopped.stop == "stop"
    assert stopped.text == free.text[: free.text.find(stop)]
    model = decoder()
    with torch.no_grad():
        model.lm_head.weight[1] = model.lm_head.weight[free.token_ids[2]] * 10
    ended = HFEngine(model, tokenizer).generate(
        asked(["x"]), Sampling(temperature=0, max_new_tokens=20), None
    )[0]
    assert ended.stop == "end"
    assert ended.token_ids[-1] == 1
    assert "<|end|>" not in ended.text


def test_nucleus_sampling_keeps_to_the_nucleus(tokenizer: Any) -> None:
    engine = HFEngine(decoder(), tokenizer)
    greedy = engine.generate(asked(TEXTS), Sampling(temperature=0, max_new_tokens=5), None)
    narrow = engine.generate(
        asked(TEXTS), Sampling(temperature=1, top_p=1e-6, max_new_tokens=5), None
    )
    assert [c.token_ids for c in narrow] == [c.token_ids for c in greedy]
