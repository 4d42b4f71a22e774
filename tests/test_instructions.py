"""What was internalised: the instructions of a prompt, and a model for which one of two counts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unprompt
from conftest import byte_tokenizer, decoder, seq2seq, tiny_recipe
from unprompt.engines.hf.engine import HFEngine
from unprompt.messages import UserError
from unprompt.recipe import Labels, Recipe, parse
from unprompt.records import Lesson, Prompt, SoftLabels
from unprompt.stages import check, plan
from unprompt.stages.evaluate import closeness, instructions
from unprompt.stages.train import kl

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


RULES = [f"- rule {n}: {'so ' * n}\n" for n in (3, 1, 4, 2)]


@pytest.fixture(scope="module")
def measured(
    tmp_path_factory: pytest.TempPathFactory, decoder_folder: Path
) -> tuple[Callable[..., Recipe], Path]:
    """A recipe whose prompt has four rules, and a run of it without their bars."""
    written = tiny_recipe(decoder_folder)
    written["contexts"]["colours"]["teacher"] = "".join(RULES) + "{{ text }}:"

    def make(**report: Any) -> Recipe:
        return parse(written | {"report": report})

    folder = tmp_path_factory.mktemp("rules") / "run"
    unprompt.run(make(instructions=0), folder)
    return make, folder


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def bars_of(report: Any) -> Any:
    return report["contexts"]["colours"]["instructions"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), UserError("disk full"), RuntimeError()])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_stop_between_bars_leaves_the_report_whole_and_is_gone_on_from(
    measured: tuple[Callable[..., Recipe], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop: BaseException,
    after: int,
) -> None:
    make, before = measured
    folder, recipe = copied(before, tmp_path / "run"), make()
    read, asked, there = closeness.read_kl, list[str](), list[Any]()

    def stopping(*args: Any, **kwargs: Any) -> Any:
        there.append(unprompt.Run.open(folder).report)
        if len(asked) == after:
            raise stop
        asked.append(str(args[3]))
        return read(*args, **kwargs)

    monkeypatch.setattr(closeness, "read_kl", stopping)
    with pytest.raises(type(stop)):
        unprompt.run(recipe, folder)
    assert there[0]["verdict"]["verdict"], "the report is there ahead of the first bar"
    found = unprompt.Run.open(folder).report
    assert len(bars_of(found)["bars"]) == after
    assert bars_of(found)["items"] == 4
    assert "run the recipe again" in bars_of(found)["left_out"]
    for name in ("report.html", "report.md"):
        assert "run the recipe again" in (folder / name).read_text(), name

    def counted(*args: Any, **kwargs: Any) -> Any:
        asked.append(str(args[3]))
        return read(*args, **kwargs)

    monkeypatch.setattr(closeness, "read_kl", counted)
    whole = unprompt.run(recipe, folder).report
    assert len(bars_of(whole)["bars"]) == 4
    assert "left_out" not in bars_of(whole)
    assert len(asked) == len(set(asked)) == 4, "no rule is measured twice"


@pytest.mark.parametrize(
    ("settings", "count", "why"),
    [
        ({"items": 1}, {1}, "report.instructions.items: 1"),
        ({"items": 3}, {3}, "report.instructions.items: 3"),
        ({"seconds": 1e-9}, {0, 1}, "report.instructions.seconds: 1e-09 is used up"),
    ],
)
def test_a_budget_takes_the_longest_first_and_says_what_it_left_out(
    measured: tuple[Callable[..., Recipe], Path],
    tmp_path: Path,
    settings: dict[str, Any],
    count: set[int],
    why: str,
) -> None:
    make, before = measured
    folder = copied(before, tmp_path / "run")
    found = bars_of(unprompt.run(make(instructions=settings), folder).report)
    assert len(found["bars"]) in count
    assert found["left_out"] == why
    longest = sorted((rule.strip() for rule in RULES), key=len, reverse=True)
    assert {bar["text"] for bar in found["bars"]} == set(longest[: len(found["bars"])])
    for name in ("report.html", "report.md"):
        assert why in (folder / name).read_text(), name
    assert f"{len(found['bars'])} of 4 measured" in (folder / "report.md").read_text()


def test_check_says_what_the_bars_take(measured: tuple[Callable[..., Recipe], Path]) -> None:
    make, _ = measured

    def estimate(settings: Any) -> str:
        lines = check.check(make(instructions=settings)).lines
        return next(line for line in lines if line.startswith("estimate: "))

    assert "for the bars of 4 instructions" in estimate(32)
    assert "for the bars of 2 instructions" in estimate({"items": 2})
    assert "bars" not in estimate(0)


def lessons_behind(prefix: str) -> list[Lesson]:
    """Answers of several lengths, of which the first token is not weighted."""
    random = np.random.default_rng(0)
    made = []
    for n, (text, answer) in enumerate([("red:", "abcd"), ("greenish:", "x"), ("b:", "yz")]):
        asked, said = (byte_tokenizer()(t).input_ids for t in (prefix + text, "?" + answer))
        labels = SoftLabels(
            random.integers(3, 259, 5 * len(answer)).astype(np.int32),
            np.full(5 * len(answer), 0.2, np.float32),
            np.arange(0, 5 * len(answer) + 1, 5, dtype=np.int32),
            np.ones(len(answer), np.float32),
        )
        weights = np.array([0] * (len(asked) + 1) + [1] * len(answer), np.float32)
        made.append(Lesson(str(n), "c", (*asked, *said), len(asked), weights, labels))
    return made


@pytest.mark.parametrize("model", ["plain", "windowed", "encoder"])
def test_kl_with_a_shared_prefix_is_kl(model: str) -> None:
    made: Any = {
        "plain": decoder,
        "windowed": lambda: decoder(sliding_window=8, layer_types=["sliding_attention"] * 2),
        "encoder": seq2seq,
    }[model]()
    whole = "Rules: be kind, be short, and so on. "
    without, tokenizer = lessons_behind("Rules: be short, and so on. "), byte_tokenizer()
    plain = kl.token_kl(made, tokenizer, without, 2)
    shared = kl.shared_kl(HFEngine(made, tokenizer), without, 2, tokenizer(whole).input_ids)
    assert [len(each) for each in shared] == [4, 1, 2]
    for one, other in zip(shared, plain, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_what_prompts_share_is_read_once_for_all_instructions() -> None:
    """Tokens that the model reads, counted: the prompt once, then what follows each rule, then
    what the examples have for themselves.
    """
    rules, tokenizer = [f"- this is rule {n}.\n" for n in range(6)], byte_tokenizer()
    model: Any = decoder()
    engine, read = HFEngine(model, tokenizer), list[int]()
    whole = "".join(rules)
    like = tokenizer(whole).input_ids
    prompts = [whole.replace(rule, "") for rule in rules]
    kl.shared_kl(engine, lessons_behind(prompts[0]), 8, like)  # what is tried first is tried
    engine = HFEngine(model, tokenizer)
    engine._tried, engine._shares = 512, True
    model.get_input_embeddings().register_forward_hook(
        lambda module, args, out: read.append(args[0].numel())
    )
    own = 3 * len("greenish:?")  # three rows, as long as the longest
    for prompt in prompts:
        kl.shared_kl(engine, lessons_behind(prompt), 8, like)
    rule = len(rules[0])
    behind = sum(rule * (len(rules) - 1 - n) for n in range(len(rules)))
    assert sum(read) <= len(whole) + behind + len(rules) * (own + rule)
