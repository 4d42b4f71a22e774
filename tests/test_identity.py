"""The test that comes first: same weights and same template on both sides -> KL is 0 at step 0, for
every label kind, family and layout.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from conftest import byte_tokenizer, decoder, reads, seq2seq
from unprompt.engines.hf.engine import HFEngine
from unprompt.engines.tokens import decoded
from unprompt.recipe import Extract, Labels, Sampling
from unprompt.records import Chat, Lesson, Prompt
from unprompt.stages import lessons, train
from unprompt.stages.train.kl import token_kl
from unprompt.stages.train.loss import batch_kl, collate

KINDS = [
    Labels(kind="sampled", draws=7),
    Labels(kind="top_k", k=5),
    Labels(kind="top_k", k=1000),
    Labels(kind="top_k_tail", k=5, tail=3),
    Labels(kind="hard"),
]
EQUAL = ["Say it: aa", "Say it: bb", "Say it: cc"]
RAGGED = ["a", "Say it: bb", "Say it: a much longer input", "Say"]


def taught(
    model: Any, tokenizer: Any, texts: list[Any], labels: Labels, temperature: float = 1.0
) -> list[Lesson]:
    prompts = [Prompt(str(n), "c", text) for n, text in enumerate(texts)]
    answers = HFEngine(model, tokenizer).generate(
        prompts, Sampling(temperature=temperature, max_new_tokens=6), labels, seed=3
    )
    built, drops = lessons.build(prompts, answers, reads(tokenizer), Extract(), end_token=True)
    assert set(drops.failed.values()) <= {"nothing there"}
    return built


@pytest.mark.parametrize("labels", KINDS, ids=lambda x: f"{x.kind}-{x.k}")
@pytest.mark.parametrize("texts", [EQUAL, RAGGED], ids=["unpadded", "padded"])
@pytest.mark.parametrize("family", [decoder, seq2seq], ids=["decoder", "encoder-decoder"])
def test_kl_is_zero(family: Any, texts: list[str], labels: Labels, tokenizer: Any) -> None:
    model = family()
    built = taught(model, tokenizer, texts, labels)
    assert len(built) >= 2
    start = 0 if model.config.is_encoder_decoder else None
    with torch.no_grad():
        kl = batch_kl(model, collate(built, 0, start))
    assert kl.abs().max() < 2e-5
    # and it is not zero for another model: the test can fail
    with torch.no_grad():
        other = batch_kl(family(seed=1), collate(built, 0, start))
    assert other.abs().mean() > 0.1


@pytest.mark.parametrize("labels", KINDS, ids=lambda x: f"{x.kind}-{x.k}")
def test_kl_is_zero_for_chat_messages(labels: Labels, tokenizer: Any) -> None:
    chats = [
        ({"role": "system", "content": "Be brief."}, {"role": "user", "content": text})
        for text in ("one", "twenty-two")
    ]
    model = decoder()
    with torch.no_grad():
        kl = batch_kl(model, collate(taught(model, tokenizer, chats, labels), 0))
    assert kl.abs().max() < 2e-5


THINKS = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]<think>"
    "{% if enable_thinking is defined and not enable_thinking %}</think>{% endif %}{% endif %}"
)


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("labels", KINDS[:2], ids=lambda x: f"{x.kind}-{x.k}")
def test_kl_is_zero_with_thinking_on_and_off(thinking: bool, labels: Labels) -> None:
    """The prompts' own variables are in the lesson as they were before the teacher."""
    tokenizer, model = byte_tokenizer(), decoder()
    tokenizer.chat_template = THINKS
    given = {"enable_thinking": thinking}
    chats = [
        Chat(({"role": "user", "content": text},), (), given) for text in ("one", "twenty-two")
    ]
    built = taught(model, tokenizer, chats, labels)
    for lesson in built:
        asked = decoded(tokenizer, lesson.input_ids[: lesson.prompt_length])
        assert asked.endswith("<think>" if thinking else "<think></think>")
    with torch.no_grad():
        kl = batch_kl(model, collate(built, 0))
    assert kl.abs().max() < 2e-5


def mean_kl(model: Any, tokenizer: Any, built: list[Lesson], batch_size: int) -> float:
    """The largest of the lessons' KL per token, in nats."""
    return max(abs(sum(own) / len(own)) for own in token_kl(model, tokenizer, built, batch_size))


def test_an_untrained_adapter_changes_nothing(tokenizer: Any) -> None:
    from unprompt.recipe import Train

    model = decoder()
    built = taught(model, tokenizer, RAGGED, Labels())
    student = train.attach_adapter(model, Train(), seed=0)
    assert mean_kl(student, tokenizer, built, 2) < 2e-5


def test_the_end_token_has_the_teachers_own_label(tokenizer: Any) -> None:
    """A model that ends its answer: the end token's label is the teacher's, so KL stays 0 there
    too.
    """
    model = decoder(seed=0)
    with torch.no_grad():
        model.lm_head.weight[1] = (
            model.lm_head.weight[50:60].mean(0) * 3
        )  # an end token that is likely now and then
    built = [
        x
        for seed in range(1)
        for x in taught(model, tokenizer, [f"input {n}" for n in range(40)], Labels())
    ]
    ended = [x for x in built if x.input_ids[-1] == 1]
    assert ended, "no answer ended; the test proves nothing"
    assert mean_kl(model, tokenizer, ended, 8) < 2e-5
