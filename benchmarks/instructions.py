"""What the bars of a prompt's instructions read, and how long one takes, with the shared parts read
once and without.

    python benchmarks/instructions.py [--items 31] [--examples 32] [--seconds]

A random model of 135M weights, and token ids drawn at random: items of 45 tokens, inputs of 40,
answers of 12. Tokens are counted as they enter the model; with `--seconds`, one item is measured
both ways, on 8 examples.
"""

from __future__ import annotations

import argparse
import random
import time
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from unprompt.engines.hf.engine import HFEngine
from unprompt.records import Lesson, SoftLabels
from unprompt.stages.train import kl

VOCABULARY = 49152
ITEM, INPUT, ANSWER = 45, 40, 12


def ids(count: int) -> list[int]:
    """Token ids."""
    return [random.randrange(3, VOCABULARY) for _ in range(count)]


def behind(prompt: list[int], inputs: list[list[int]]) -> list[Lesson]:
    """An answer to each input."""
    made = []
    for n, asked in enumerate(inputs):
        said, length = ids(ANSWER), len(prompt) + len(asked)
        weights = np.array([0] * length + [1] * ANSWER, np.float32)
        lesson = Lesson(
            str(n), "c", (*prompt, *asked, *said), length, weights, SoftLabels.hard(said)
        )
        made.append(lesson)
    return made


def model(hidden: int, layers: int) -> Any:
    """A decoder of SmolLM2's shape, if it is as large."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=31)
    parser.add_argument("--examples", type=int, default=32)
    parser.add_argument("--seconds", action="store_true")
    args = parser.parse_args()
    random.seed(0)
    torch.manual_seed(0)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 1}, "a")), pad_token="a"
    )
    items, inputs = (
        [ids(ITEM) for _ in range(args.items)],
        [ids(INPUT) for _ in range(args.examples)],
    )
    like = [token for item in items for token in item]
    without = [
        [t for m, item in enumerate(items) if m != n for t in item] for n in range(args.items)
    ]

    small: Any = model(9, 1)
    read = [0]
    engine = HFEngine(small, tokenizer)
    kl.shared_kl(engine, behind(without[0], inputs), 32, like)  # tries whether it can be shared
    engine = HFEngine(small, tokenizer)
    engine._tried, engine._shares = 8192, True
    small.get_input_embeddings().register_forward_hook(
        lambda module, given, out: read.append(given[0].numel())
    )
    for prompt in without:
        kl.shared_kl(engine, behind(prompt, inputs), 32, like)
    once = sum(read)
    plain = sum(len(x.input_ids) - 1 for prompt in without for x in behind(prompt, inputs))
    print(
        f"{args.items} items, {args.examples} examples, a prompt of {len(like)} tokens: {plain:,}"
        f" tokens read whole, {once:,} with shared parts once: {plain / once:.1f} times fewer"
    )
    if args.seconds:
        whole: Any = model(576, 30)
        engine, lessons = HFEngine(whole, tokenizer), behind(without[5], inputs[:8])
        kl.shared_kl(engine, lessons, 8, like)
        engine._prefixes.clear()
        began = time.perf_counter()
        kl.token_kl(whole, tokenizer, lessons, 8)
        middle = time.perf_counter()
        kl.shared_kl(engine, behind(without[15], inputs[:8]), 8, like)  # reads `like`, too
        first = time.perf_counter()
        kl.shared_kl(engine, behind(without[20], inputs[:8]), 8, like)
        print(
            f"one item on 8 examples: {middle - began:.1f} s whole, {first - middle:.1f} s for the"
            f" first and {time.perf_counter() - first:.1f} s for each further one with shared parts"
        )


if __name__ == "__main__":
    main()
