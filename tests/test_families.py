"""Model families against the plain path: greedy answers of transformers' own `generate`, and full
recompute's log-probabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import PreTrainedModel

from conftest import decoder, seq2seq
from unprompt.engines.hf.engine import HFEngine
from unprompt.recipe import Labels, Sampling
from unprompt.records import Prompt

SHARED = "A prefix of more tokens than any window here. "
TEXTS = [
    "one",
    "twenty two",
    "three hundred thirty three",
    "4",
    "fifty-five",
    "six",
    "a much longer seventh input, longer than a window",
]
SIZE = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}


def made(family: str, **changes: Any) -> Callable[[], PreTrainedModel]:
    def make() -> PreTrainedModel:
        torch.manual_seed(0)
        config = getattr(transformers, f"{family}Config")(**{**SIZE, **changes})
        return getattr(transformers, f"{family.removesuffix('Text')}ForCausalLM")(config).eval()

    return make


def gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    size = {
        "vocab_size": 259,
        "n_embd": 32,
        "n_layer": 3,
        "n_head": 4,
        "n_positions": 512,
        "eos_token_id": 1,
        "initializer_range": 0.3,
    }
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**size)).eval()


def bloom() -> PreTrainedModel:
    torch.manual_seed(0)
    size = {
        "vocab_size": 259,
        "hidden_size": 32,
        "n_layer": 2,
        "n_head": 4,
        "eos_token_id": 1,
        "initializer_range": 0.3,
    }
    return transformers.BloomForCausalLM(transformers.BloomConfig(**size)).eval()


HALF = ["sliding_attention", "full_attention"] * 2
SHARES: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": decoder,
    "qwen2": made("Qwen2"),
    "qwen3": made("Qwen3"),
    "mistral-window": made("Mistral", sliding_window=9),
    "gemma3-window": made(
        "Gemma3Text", sliding_window=9, layer_types=HALF, query_pre_attn_scalar=8
    ),
    "gpt2": gpt2,
}
COPIES: dict[str, Callable[[], PreTrainedModel]] = {
    "gemma2-eager": made(
        "Gemma2",
        sliding_window=9,
        layer_types=HALF,
        query_pre_attn_scalar=8,
        attn_implementation="eager",
    ),
    "bloom-alibi": bloom,
}
ALL = SHARES | COPIES | {"t5": seq2seq}


def asked(texts: list[str] = TEXTS) -> list[Prompt]:
    return [Prompt(str(n), "c", SHARED + text) for n, text in enumerate(texts)]


def plain(model: Any, tokenizer: Any, prompt: Prompt, new: int) -> list[int]:
    ids = torch.tensor([tokenizer(prompt.content).input_ids])
    out = model.generate(
        ids,
        max_new_tokens=new,
        do_sample=False,
        attention_mask=torch.ones_like(ids),
        use_cache=False,
    )[0]
    return out[1 if model.config.is_encoder_decoder else ids.shape[1] :].tolist()


@pytest.mark.parametrize("batch_size", [2, 7])
@pytest.mark.parametrize("family", ALL)
def test_greedy_answers_are_those_of_transformers(
    family: str, batch_size: int, tokenizer: Any, capsys: Any
) -> None:
    theirs: Any = ALL[family]()
    engine = HFEngine(ALL[family](), tokenizer)
    mine = engine.generate(
        asked(), Sampling(temperature=0, max_new_tokens=10), None, batch_size=batch_size
    )
    for prompt, completion in zip(asked(), mine, strict=True):
        assert list(completion.token_ids) == plain(theirs, tokenizer, prompt, 10)
    engine.generate(asked(), Sampling(temperature=0, max_new_tokens=1), None)
    said = capsys.readouterr()
    assert (said.out + said.err).count("for every prompt with this model") == (family in COPIES), (
        "one line, said once, where the prefix is not shared"
    )
    assert engine._shares is (None if family == "t5" else family in SHARES)


@pytest.mark.parametrize("family", ALL)
def test_scores_are_those_of_a_full_recompute(family: str, tokenizer: Any) -> None:
    model: Any = ALL[family]()
    given = [
        tokenizer(text).input_ids
        for text in ("yes", "no, not at all", "x", "perhaps", "", "19", "so")
    ]
    said = HFEngine(ALL[family](), tokenizer).score(
        asked(), given, Labels(kind="hard"), batch_size=3
    )
    for prompt, ids, labels in zip(asked(), given, said, strict=True):
        read = tokenizer(prompt.content).input_ids
        with torch.no_grad():
            if model.config.is_encoder_decoder:
                logits = model(
                    input_ids=torch.tensor([read]),
                    decoder_input_ids=torch.tensor([[0, *ids][: max(1, len(ids))]]),
                ).logits[0]
            else:
                logits = model(torch.tensor([[*read, *ids]]), use_cache=False).logits[
                    0, len(read) - 1 : -1
                ]
        nll = [-float(row.log_softmax(-1)[id_]) for row, id_ in zip(logits, ids, strict=False)]
        assert labels.ids.tolist() == ids
        np.testing.assert_allclose(labels.teacher_nll, np.array(nll), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma3-window", "t5", "bloom-alibi"])
def test_answers_do_not_depend_on_who_is_asked_with_them(family: str, tokenizer: Any) -> None:
    """Answers of different lengths, more prompts than slots: each is the one it has alone."""
    model = ALL[family]()
    engine = HFEngine(model, tokenizer)
    texts = [f"input number {n * n}" for n in range(14)]
    free = engine.generate(asked(texts), Sampling(temperature=1.0, max_new_tokens=12), None)
    stop = tuple(c.text[n + 3 : n + 5] for n, c in enumerate(free[:6]))
    sampling, labels = Sampling(temperature=1.0, max_new_tokens=12, stop=stop), Labels(draws=30)
    together = engine.generate(asked(texts), sampling, labels, batch_size=4)
    assert len({len(c.token_ids) for c in together}) > 3, (
        "all answers are of one length; the test proves nothing"
    )
    for prompt, completion in zip(asked(texts), together, strict=True):
        [alone] = engine.generate([prompt], sampling, labels)
        assert (completion.token_ids, completion.text, completion.stop) == (
            alone.token_ids,
            alone.text,
            alone.stop,
        )
        assert completion.labels is not None
        assert alone.labels is not None
        np.testing.assert_array_equal(completion.labels.ids, alone.labels.ids)
        np.testing.assert_allclose(
            completion.labels.teacher_nll, alone.labels.teacher_nll, atol=1e-5
        )


def test_progress_counts_every_answer(tokenizer: Any) -> None:
    counted: list[int] = []
    HFEngine(decoder(), tokenizer).generate(
        asked(), Sampling(max_new_tokens=5), None, batch_size=2, progress=counted.append
    )
    assert sum(counted) == len(TEXTS)
