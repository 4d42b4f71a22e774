"""What was internalised: the instructions of a prompt, and a model for which one of two counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import unprompt
from conftest import byte_tokenizer
from unprompt.recipe import Labels, parse
from unprompt.records import Prompt
from unprompt.stages import plan
from unprompt.stages.evaluate import instructions

PROMPT = """Answer the customer.

- Be kind.
- Write dates as 2024-01-31,
  never otherwise.
  1) Not in words.
2. Use at most (a) ten words - or so.
Message: {}
"""


def prompts(text: str) -> list[Prompt]:
    return [
        Prompt(str(n), "c", text.format(message)) for n, message in enumerate(["- hello", "- bye"])
    ]


def test_items_with_the_lines_that_go_on_with_them() -> None:
    found = instructions.find(prompts(PROMPT))
    assert [item.text for item in found] == [
        "- Be kind.",
        "- Write dates as 2024-01-31,\n  never otherwise.",
        "1) Not in words.",
        "2. Use at most (a) ten words - or so.",
    ]
    assert found[1].without[1].content == PROMPT.format("- bye").replace(
        "- Write dates as 2024-01-31,\n  never otherwise.\n", ""
    )


def test_what_is_no_list_of_instructions() -> None:
    assert instructions.find(prompts("Only\n- one item\n{}")) == []
    assert instructions.find([Prompt("0", "c", "- a\n- b", ("- a\n- b",))]) == [], "an ensemble"
    assert instructions.find(prompts("- same\n- same\n- other\n{}")) == [], (
        "an item that stands twice is no one place"
    )


def test_messages_keep_their_roles() -> None:
    [first, _] = instructions.find(
        [
            Prompt(
                "0",
                "c",
                ({"role": "system", "content": "1. a\n2. b\n"}, {"role": "user", "content": "hi"}),
            )
        ]
    )
    assert first.without[0].content == (
        {"role": "system", "content": "2. b\n"},
        {"role": "user", "content": "hi"},
    )


def test_taken_in_counts_where_the_instruction_matters() -> None:
    found = instructions.bar(
        "x",
        [[2.0, 0.0], [2.0, 0.0]],
        [[4.0, 9.0], [4.0, 9.0]],
        {"s": [[1.0, 9.0], [1.0, 9.0]]},
        [None, None],
    )
    assert found["matters"]["mean"] == 1
    assert found["taken_in"]["s"]["value"] == pytest.approx(0.75), (
        "the second token has nothing to do with it"
    )
    slight = instructions.bar("x", [[0.0, 1e-5]], [[4.0, 9.0]], {"s": [[1.0, 9.0]]}, [None])
    assert slight["taken_in"] == {"s": None}


def test_instructions_are_measured_over_groups() -> None:
    """Of a group of three answers and one of one, each counts the same."""
    found = instructions.bar(
        "x",
        [[1.0], [1.0], [1.0], [3.0]],
        [[4.0]] * 4,
        {"s": [[0.0]] * 3 + [[4.0]]},
        ["a", "a", "a", "b"],
    )
    assert found["matters"]["mean"] == 2, "not 1.5"
    # 4 of 4 + 12 weighted nats are closed
    assert found["taken_in"]["s"]["value"] == pytest.approx(0.25)


def z_model() -> Any:
    """A decoder whose answer hangs on whether there is a Z in the prompt, and on nothing else: its
    one head looks at the Zs.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=259,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=256,
        eos_token_id=1,
        bos_token_id=2,
        pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 1e15},
        tie_word_embeddings=False,
    )
    model: Any = LlamaForCausalLM(config).eval()
    ids = byte_tokenizer()("Zyn").input_ids
    layer = model.model.layers[0]
    with torch.no_grad():
        for weight in (
            layer.self_attn.q_proj,
            layer.self_attn.k_proj,
            layer.self_attn.v_proj,
            layer.self_attn.o_proj,
            layer.mlp.down_proj,
        ):
            weight.weight.zero_()
        model.model.embed_tokens.weight.zero_()
        model.model.embed_tokens.weight[:, 0] = 1.0
        model.model.embed_tokens.weight[ids[0], 1] = 1.0
        # dimension 7 of a head hardly turns with the position: a query of every token meets the
        # keys of the Zs alone
        layer.self_attn.q_proj.weight[7, 0] = 40.0
        layer.self_attn.k_proj.weight[7, 1] = 40.0
        layer.self_attn.v_proj.weight[2, 1] = 2.0
        layer.self_attn.o_proj.weight[2, 2] = 2.0
        model.lm_head.weight.zero_()
        model.lm_head.weight[ids[2], 0] = 2.0
        model.lm_head.weight[ids[1], 2] = 2.0
    return model


def test_one_instruction_changes_the_output_and_another_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        plan, "EVALUATION_LABELS", Labels(kind="top_k", k=259)
    )  # so that KL is exact
    model, tokenizer = z_model(), byte_tokenizer()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    texts = ["red", "green", "blue", "yellow", "black", "white"]
    made = parse(
        {
            "model": str(tmp_path / "model"),
            "contexts": {
                "c": {
                    "inputs": [{"text": t} for t in texts],
                    "teacher": "Rules:\n- Be kind.\n- Say Z.\n- Be short.\n{{ text }}:",
                    "student": "{{ text }}:",
                }
            },
            "sampling": {"max_new_tokens": 2},
            "labels": {"kind": "top_k", "k": 259},
            "lessons": {"end_token": False},
            "train": {"epochs": 20, "batch_size": 6, "learning_rate": 5e-2, "adapter": {"rank": 4}},
            "evaluate": {
                "data": {"rows": [{"text": t} for t in ("grey", "gold", "pink")]},
                "metrics": [],
                "max_new_tokens": 2,
            },
        }
    )
    run = unprompt.run(made, tmp_path / "run")
    found = run.report["contexts"]["c"]["instructions"]
    assert found["examples"] == 3
    assert found["bars"][0]["text"] == "- Say Z.", "the one that matters stands first"
    say, *others = found["bars"]

    def by_hand(ask: str, without: str) -> float:
        p, q = (
            model(input_ids=torch.tensor([tokenizer(text).input_ids])).logits[0, -1].log_softmax(-1)
            for text in (ask, without)
        )
        return (p.exp() * (p - q)).sum().item()

    full = "Rules:\n- Be kind.\n- Say Z.\n- Be short.\ngrey:"
    assert say["matters"]["mean"] == pytest.approx(
        by_hand(full, full.replace("- Say Z.\n", "")), rel=1e-3
    )
    assert say["matters"]["mean"] > 0.1
    for bar in others:
        assert bar["matters"]["mean"] == pytest.approx(0, abs=1e-4)
        assert bar["taken_in"] == {"after": None}
    assert say["taken_in"]["after"]["value"] == pytest.approx(
        run.report["contexts"]["c"]["systems"]["after"]["gap_closed"]["value"], abs=0.02
    )
    assert say["taken_in"]["after"]["value"] > 0.5
