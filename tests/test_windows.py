"""Model families at lengths beyond each window, chunk or switch of theirs: answers are those of
transformers' own `generate` without a cache, the same weights taught by themselves have KL 0, and
the fast paths give the plain numbers or say why they are off.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import unprompt
from conftest import reads
from test_families import SIZE
from unprompt.engines import models
from unprompt.engines.hf.engine import HFEngine
from unprompt.messages import UserError
from unprompt.recipe import Extract, Labels, Recipe, Sampling
from unprompt.records import Lesson, Prompt, SoftLabels
from unprompt.stages import lessons
from unprompt.stages.train import fast, loop
from unprompt.stages.train.kl import token_kl
from unprompt.stages.train.loss import batch_kl, collate

SHARED = "A prefix of many tokens, more of them than any window, chunk or length here has. " * 2
TEXTS = ["one", "twenty-two and more", "3", "a much longer last input, of many more tokens " * 2]
NEW = 9
WINDOW = 100
HALF = ["sliding_attention", "full_attention"]
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 3.0, 4.0, 5.0],
    "original_max_position_embeddings": WINDOW,
    "factor": 4.0,
}
SMALL = {**SIZE, "num_hidden_layers": 2}


def config(name: str, **changes: Any) -> Any:
    return getattr(transformers, f"{name}Config")(**{**SMALL, **changes})


FAMILIES: dict[str, tuple[str, Any]] = {
    # name: class, configuration
    "llama": ("Llama", config("Llama")),
    "qwen2": ("Qwen2", config("Qwen2")),
    "qwen3": ("Qwen3", config("Qwen3")),
    "mistral, window": ("Mistral", config("Mistral", sliding_window=WINDOW)),
    "starcoder2, window": ("Starcoder2", config("Starcoder2", sliding_window=WINDOW)),
    "gemma2, window": (
        "Gemma2",
        config("Gemma2", sliding_window=WINDOW, layer_types=HALF, query_pre_attn_scalar=8),
    ),
    "gemma3, window": (
        "Gemma3",
        config("Gemma3Text", sliding_window=WINDOW, layer_types=HALF, query_pre_attn_scalar=8),
    ),
    "olmo2": ("Olmo2", config("Olmo2")),
    "granite": ("Granite", config("Granite")),
    "smollm3, layers without positions": (
        "SmolLM3",
        config("SmolLM3", no_rope_layers=[1, 0], layer_types=["full_attention"] * 2),
    ),
    "phi3, window": ("Phi3", config("Phi3", sliding_window=WINDOW)),
    "phi3, longrope": (
        "Phi3",
        config("Phi3", rope_parameters=LONG, original_max_position_embeddings=WINDOW),
    ),
    "phimoe, window": (
        "Phimoe",
        config("Phimoe", sliding_window=WINDOW, num_local_experts=2, num_experts_per_tok=1),
    ),
    "llama4, chunks": (
        "Llama4",
        config(
            "Llama4Text",
            attention_chunk_size=WINDOW,
            num_local_experts=2,
            intermediate_size_mlp=64,
            layer_types=["chunked_attention", "full_attention"],
        ),
    ),
    "llama, yarn": (
        "Llama",
        config(
            "Llama",
            rope_parameters={
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": WINDOW,
            },
        ),
    ),
}
SLOW = {"llama4, chunks", "phimoe, window", "phi3, longrope"}
"""Those whose prefix can't be shared, or whose lessons can't be packed."""


def made(name: str) -> Any:
    torch.manual_seed(0)
    kind, given = FAMILIES[name]
    return getattr(transformers, f"{kind}ForCausalLM")(given).eval()


def asked() -> list[Prompt]:
    return [Prompt(str(n), "c", SHARED + text) for n, text in enumerate(TEXTS)]


def plain(model: Any, tokenizer: Any, prompt: Prompt) -> list[int]:
    ids = torch.tensor([tokenizer(prompt.content).input_ids])
    return model.generate(ids, max_new_tokens=NEW, do_sample=False, use_cache=False)[
        0, ids.shape[1] :
    ].tolist()


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_beyond_the_window_are_those_of_transformers(name: str, tokenizer: Any) -> None:
    theirs, engine = made(name), HFEngine(made(name), tokenizer)
    lengths = [len(tokenizer(prompt.content).input_ids) for prompt in asked()]
    assert min(lengths) > WINDOW + NEW
    sampling = Sampling(temperature=0, max_new_tokens=NEW)
    mine = engine.generate(asked(), sampling, None)
    for prompt, completion in zip(asked(), mine, strict=True):
        assert list(completion.token_ids) == plain(theirs, tokenizer, prompt)
    if name not in SLOW:
        assert engine._shares is True


@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_weights_have_no_kl_beyond_the_window(name: str, tokenizer: Any) -> None:
    model = made(name)
    said = HFEngine(model, tokenizer).generate(asked(), Sampling(max_new_tokens=NEW), Labels())
    built, _ = lessons.build(asked(), said, reads(tokenizer), Extract(), end_token=True)
    assert len(built) >= 3
    nats = [value for own in token_kl(model, tokenizer, built, 4) for value in own]
    assert max(map(abs, nats)) < 1e-4
    student = made(name)
    with torch.no_grad():
        for weights in student.parameters():
            weights.add_(0.02 * torch.randn_like(weights))
    batch = collate(built, 0)
    want = (batch_kl(student, batch) * batch.weight_N).sum()
    with fast.enabled(student, batch) as step:
        if name not in SLOW:
            assert not isinstance(step, str), step
        if not isinstance(step, str):
            torch.testing.assert_close(step(batch), want, rtol=1e-4, atol=1e-4)


def test_a_training_tries_its_longest_lesson(
    tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a window is missed, only it shows."""
    tried, original = list[int](), fast.enabled

    def enabled(student: Any, probe: Any) -> Any:
        tried.append(max(probe.lengths))
        return original(student, probe)

    monkeypatch.setattr(loop.fast, "enabled", enabled)
    run = unprompt.run(tiny(), tmp_path / "run")
    assert tried == [max(len(lesson.input_ids) for lesson in run.lessons()) - 1]


# -- factors that change with the length -----------------------------------------------------------


def test_answers_do_not_depend_on_a_longer_prompt_in_the_batch(tokenizer: Any) -> None:
    """LongRoPE: short prompts keep the short factors, beside long ones, scored or written."""
    name = "phi3, longrope"
    short = [Prompt(f"s{n}", "c", text) for n, text in enumerate(("one", "twenty-two", "3"))]
    mixed = [short[0], asked()[0], short[1], asked()[3], short[2]]
    theirs, engine = made(name), HFEngine(made(name), tokenizer)
    heard = dict[int, str]()
    said = engine.generate(
        mixed,
        Sampling(temperature=0, max_new_tokens=NEW),
        Labels(kind="hard"),
        heard=lambda n, text: heard.update({n: text}),
    )
    assert set(heard) == set(range(5))
    for prompt, completion in zip(mixed, said, strict=True):
        assert list(completion.token_ids) == plain(theirs, tokenizer, prompt)
    scored = engine.score(mixed, [c.token_ids for c in said], Labels(kind="hard"))
    for completion, labels in zip(said, scored, strict=True):
        assert completion.labels is not None
        torch.testing.assert_close(
            torch.tensor(labels.teacher_nll),
            torch.tensor(completion.labels.teacher_nll),
            atol=1e-4,
            rtol=1e-4,
        )
    built, _ = lessons.build(mixed, said, reads(tokenizer), Extract(), end_token=False)
    for own in token_kl(made(name), tokenizer, built, 5):
        assert max(map(abs, own)) < 1e-4


def test_an_answer_may_not_cross_the_switch(tokenizer: Any) -> None:
    engine = HFEngine(made("phi3, longrope"), tokenizer)
    near = [Prompt("n", "c", "x" * (WINDOW - 3))]
    with pytest.raises(UserError, match=r"LongRoPE, at 100 tokens.*lower max_new_tokens to 3"):
        engine.generate(near, Sampling(max_new_tokens=NEW), None)
    assert engine.generate(near, Sampling(max_new_tokens=3), None)


def lesson(tokens: int) -> Lesson:
    weights = np.zeros(tokens, np.float32)
    weights[-1] = 1
    return Lesson("x", "c", (5,) * tokens, tokens - 1, weights, SoftLabels.hard([5]))


def test_lessons_on_both_sides_of_the_switch_are_trained_one_by_one() -> None:
    student, lengths = made("phi3, longrope"), loop.lengths_of
    both = lengths([lesson(WINDOW + 1), lesson(WINDOW + 2)])  # the last token is not read
    with pytest.raises(UserError, match=r"1 of 2 lessons are over the 100 tokens.*write 1"):
        loop._refuse_switch(student, both, 2)
    loop._refuse_switch(student, both, 1)
    loop._refuse_switch(student, lengths([lesson(WINDOW + 2)] * 2), 2)
    loop._refuse_switch(made("llama"), both, 2)


@pytest.mark.parametrize("factor", [2.0, 4.0])
def test_dynamic_rope_has_the_window_of_its_first_training(factor: float) -> None:
    """Beyond it every token turns all others, which no cache can follow."""
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": factor}
    given = config("Llama", rope_parameters=rope, max_position_embeddings=300)
    assert models.positions(given) == 300
    rope["original_max_position_embeddings"] = 120
    given = config("Llama", rope_parameters=rope, max_position_embeddings=300)
    assert models.positions(given) == 120
    assert models.rope_switch(given) is None
    assert models.positions(FAMILIES["phi3, longrope"][1]) == 512
    assert models.rope_switch(FAMILIES["phi3, longrope"][1]) == WINDOW


def test_doge_is_not_asked_beyond_the_window_that_it_keeps(tokenizer: Any) -> None:
    """There its answers depend on the padding of the batch."""
    torch.manual_seed(0)
    model = transformers.DogeForCausalLM(config("Doge", keep_window_size=WINDOW)).eval()
    engine, sampling = HFEngine(model, tokenizer), Sampling(temperature=0, max_new_tokens=NEW)
    with pytest.raises(UserError, match="over the model's window of 100"):
        engine.generate(asked(), sampling, None)
    near = [Prompt(str(n), "c", "xyz" * n) for n in (3, 20, 30)]
    said = engine.generate(near, sampling, None)
    for prompt, completion in zip(near, said, strict=True):
        assert list(completion.token_ids) == plain(model, tokenizer, prompt)


def test_longer_prompts_are_tried_again(tokenizer: Any) -> None:
    engine = HFEngine(made("llama"), tokenizer)
    sampling, tried = Sampling(temperature=0, max_new_tokens=2), []
    for size in (20, 21, 200, 90, 450):
        engine.generate([Prompt("p", "c", "x" * size)], sampling, None)
        tried.append(engine._tried)
    assert tried[0] == tried[1] >= 23
    assert tried[2] == tried[3] >= 202
    assert 452 <= tried[4] <= 512
