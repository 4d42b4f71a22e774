"""The fast training step against the plain one: the same loss and the same gradients, family by
family, and a plain word where it can't.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from conftest import decoder, seq2seq
from test_train import ragged_lessons
from unprompt.recipe import Train
from unprompt.records import Lesson, SoftLabels
from unprompt.stages import train
from unprompt.stages.train import fast, loop
from unprompt.stages.train.fast import head, packing, step as step_module
from unprompt.stages.train.loss import batch_kl, collate
from unprompt.store.folder import RunDir

SIZE: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}


def gpt2() -> Any:
    config = GPT2Config(
        vocab_size=259, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.2
    )
    config.attn_pdrop = config.embd_pdrop = config.resid_pdrop = 0.0
    return GPT2LMHeadModel(config)


FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": decoder,
    "llama, tied": lambda: decoder(tie_word_embeddings=True),
    "qwen2, bias": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZE)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZE, tie_word_embeddings=True)),
    "mistral, window": lambda: MistralForCausalLM(MistralConfig(**SIZE, sliding_window=4)),
    "gemma2, softcap": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SIZE, sliding_window=4, final_logit_softcapping=3.0)
    ),
    "gemma3, window": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(
            **SIZE, sliding_window=4, layer_types=["sliding_attention", "full_attention"]
        )
    ),
    "gpt2, learned positions": gpt2,
    "neox": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(
            **{k: v for k, v in SIZE.items() if k not in ("head_dim", "num_key_value_heads")}
        )
    ),
}


def dense(lessons: list[Lesson], seed: int = 0) -> list[Lesson]:
    """The same lessons with a probability for every id of the vocabulary."""
    draw, found = np.random.default_rng(seed), []
    for lesson in lessons:
        probs_NV = draw.dirichlet(np.full(259, 0.3), len(lesson.labels)).astype(np.float32)
        ids = np.tile(np.arange(259, dtype=np.int32), len(probs_NV))
        nll = -(probs_NV * np.log(probs_NV.clip(1e-30))).sum(-1)
        labels = SoftLabels(
            ids, probs_NV.ravel(), np.arange(len(probs_NV) + 1, dtype=np.int32) * 259, nll
        )
        found.append(
            Lesson(
                lesson.example_id,
                "c",
                lesson.input_ids,
                lesson.prompt_length,
                lesson.weights,
                labels,
            )
        )
    return found


def student(family: str, adapter: bool) -> Any:
    torch.manual_seed(0)
    model = FAMILIES[family]()
    if not adapter:
        return model.requires_grad_(True)
    made = train.attach_adapter(model, Train(), seed=0)
    with torch.no_grad():  # an untrained adapter has a zero in it, and so have gradients
        for name, value in made.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.1)
    return made


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {
        name: value.grad.clone()
        for name, value in model.named_parameters()
        if value.grad is not None
    }


@pytest.mark.parametrize("adapter", [True, False], ids=["LoRA", "all weights"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_is_that_of_dense_kl(
    family: str, adapter: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels of the whole vocabulary, chunks smaller than the batch, lessons longer than the
    window.
    """
    monkeypatch.setattr(head, "CHUNK_BYTES", 4 * 259 * 3)
    lessons = dense(ragged_lessons())
    assert max(len(x.input_ids) for x in lessons) > 8
    batch, model = collate(lessons, 0), student(family, adapter)
    plain = (batch_kl(model, batch) * batch.weight_N).sum() / batch.weight_N.sum()
    want = gradients(model, plain)
    attention = model.config._attn_implementation
    with fast.enabled(model, collate(lessons[:2], 0)) as step:
        assert not isinstance(step, str), step
        got = step(batch) / batch.weight_N.sum()
        found = gradients(model, got)
    assert model.config._attn_implementation == attention
    torch.testing.assert_close(got, plain, atol=1e-5, rtol=1e-5)
    assert set(found) == set(want)
    assert max(value.abs().max() for value in want.values()) > 1e-3
    for name, value in want.items():
        torch.testing.assert_close(
            found[name], value, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
    after = (batch_kl(model, batch) * batch.weight_N).sum() / batch.weight_N.sum()
    torch.testing.assert_close(after, plain, msg="the student is not as it was")


@pytest.mark.parametrize("adapter", [True, False], ids=["LoRA", "all weights"])
def test_checkpointing_changes_no_gradient(adapter: bool) -> None:
    batch, model = collate(ragged_lessons(), 0), student("llama", adapter).train()
    with fast.enabled(model, batch) as step:
        assert not isinstance(step, str), step
        want = gradients(model, step(batch))
        model.gradient_checkpointing_enable({"use_reentrant": False})
        runs = []
        model.get_submodule(
            "base_model.model.model.layers.0" if adapter else "model.layers.0"
        ).register_forward_pre_hook(lambda *seen: runs.append(1))
        found = gradients(model, step(batch))
    assert len(runs) == 2, "the layer was not recomputed"
    for name, value in want.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-5)


def test_bf16_is_near_float32() -> None:
    batch = collate(ragged_lessons(), 0)
    exact, half = student("llama", True), student("llama", True)
    half.get_base_model().to(torch.bfloat16)
    for name, value in half.named_parameters():
        value.data = value.data.float() if "lora" in name else value.data
    found = []
    for model in (exact, half):
        with fast.enabled(model, batch) as step:
            assert not isinstance(step, str), step
            found.append(gradients(model, step(batch)))
    for name, value in found[0].items():
        assert found[1][name].dtype == torch.float32
        assert (found[1][name] - value).norm() < 0.05 * value.norm(), name


def test_packing_keeps_every_token_that_predicts_and_its_place() -> None:
    lessons = ragged_lessons()
    batch = collate(lessons, 0)
    row = packing.pack(batch)
    assert sorted(row.lengths) == sorted(len(x.input_ids) - 1 for x in lessons)
    assert len(row.ids_S) == sum(row.lengths)
    starts = np.cumsum([0, *row.lengths[:-1]])
    packed = {
        tuple(row.ids_S[s : s + n].tolist()) for s, n in zip(starts, row.lengths, strict=True)
    }
    assert packed == {x.input_ids[:-1] for x in lessons}
    predicts = [x.input_ids[place - 1] for x in lessons for place in np.flatnonzero(x.weights)]
    assert row.ids_S[row.at_N].tolist() == predicts


UNSUITED: dict[str, tuple[Callable[[], Any], str]] = {
    "encoder": (seq2seq, "it has an encoder"),
    "eager attention": (lambda: decoder(attn_implementation="eager"), "its attention is 'eager'"),
    "no attention": (
        lambda: MambaForCausalLM(
            MambaConfig(vocab_size=259, hidden_size=32, state_size=4, num_hidden_layers=2)
        ),
        "",
    ),
}


@pytest.mark.parametrize("case", UNSUITED)
def test_a_model_that_can_not_says_why_and_is_left_alone(case: str) -> None:
    make, why = UNSUITED[case]
    model = make()
    before = copy.deepcopy(model.state_dict())
    batch = collate(ragged_lessons(2), 0, 0 if model.config.is_encoder_decoder else None)
    with fast.enabled(model, batch) as step:
        assert isinstance(step, str)
        assert why in step
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_other_numbers_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose lessons see each other in one row, say."""
    monkeypatch.setattr(step_module.head, "weighted_loss", lambda *given: torch.tensor(1.0))
    with fast.enabled(decoder(), collate(ragged_lessons(2), 0)) as step:
        assert isinstance(step, str)
        assert "other numbers" in step


@pytest.mark.parametrize(
    ("family", "given", "line"),
    [
        (decoder, {}, ""),
        (seq2seq, {}, "training takes the plain path: it has an encoder"),
        (
            decoder,
            {"trainer": {"bf16": True, "use_cpu": True}},
            "training takes the plain path: train.trainer asks for mixed precision",
        ),
    ],
)
def test_which_path_a_training_takes(
    family: Any,
    given: dict[str, Any],
    line: str,
    tokenizer: Any,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    loop._say_once.cache_clear()
    settings = Train(batch_size=4, epochs=1, **given)
    for run in ("one", "two"):
        model = train.attach_adapter(family(), settings, 0)
        train.train(
            model,
            tokenizer,
            ragged_lessons(),
            settings,
            RunDir(tmp_path / run),
            seed=0,
            made_from="x",
        )
    said = capfd.readouterr().err
    assert said.count("plain path") == bool(line)
    assert line in said


def test_fast_plain_and_checkpointed_trainings_end_alike(tokenizer: Any, tmp_path: Path) -> None:
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, given in (
        ("fast", {}),
        ("plain", {"fast": False}),
        ("checkpointed", {"checkpointing": True}),
    ):
        settings = Train.model_validate(
            {"batch_size": 4, "epochs": 3, "learning_rate": 1e-2, **given}
        )
        model = train.attach_adapter(decoder(), settings, 0)
        train.train(
            model,
            tokenizer,
            ragged_lessons(),
            settings,
            RunDir(tmp_path / name),
            seed=0,
            made_from="x",
        )
        found[name] = {
            key: value.detach().clone()
            for key, value in model.named_parameters()
            if value.requires_grad
        }
    for name in ("plain", "checkpointed"):
        for key, value in found["fast"].items():
            torch.testing.assert_close(found[name][key], value, atol=2e-4, rtol=1e-3)
