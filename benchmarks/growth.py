"""How collecting grows: seconds over inputs, prefix, batch size and draws; and decoding against the
memory's speed.

    python benchmarks/growth.py [--inputs 250 1000 4000] [--new-tokens 4] [--dtype float32]
    python benchmarks/growth.py --profile     # resident memory, and what a step of decoding is
    spent on

The quickstart's teacher (SmolLM2-135M-Instruct) with labels of 100 draws and end tokens not heeded.
One thing changes at a time; the others stay at 250 inputs (64 where it is not the inputs that
change), 900 tokens of prefix, 64 at once, 100 draws. Memory is the highest resident size while that
row ran, over that of the model at rest. The last table is a step of decoding: bytes it can't avoid
reading (all weights, the shared prefix once, each sequence's own keys and values) over the time it
takes, beside the fastest plain reading of as large a block on this machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from collect import asked, load
from turns import resident

from unprompt.engines.hf import sequences
from unprompt.engines.hf.engine import HFEngine
from unprompt.engines.tokens import common_prefix
from unprompt.recipe import Labels, Sampling


def collected(
    model: Any,
    tokenizer: Any,
    given: argparse.Namespace,
    inputs: int,
    prefix: int,
    batch: int,
    draws: int,
) -> tuple[float, float]:
    """Seconds, and megabytes over what was there before, of collecting so many inputs."""
    prompts, _, _ = asked(tokenizer, inputs, prefix)
    engine = HFEngine(model, tokenizer)
    engine._ends = set()
    Path("/proc/self/clear_refs").write_text("5")
    before, began = resident("VmRSS"), time.perf_counter()
    engine.generate(
        prompts,
        Sampling(temperature=0, max_new_tokens=given.new_tokens),
        Labels(draws=draws),
        batch_size=batch,
    )
    return time.perf_counter() - began, resident("VmHWM") - before


@torch.inference_mode()
def stepping(
    model: Any, tokenizer: Any, prefix: int, batch: int
) -> tuple[Callable[[], object], int, int]:
    """So many sequences, ready for their next token: what makes a step, tokens of the prefix they
    share, and tokens of their own.
    """
    prompts, _, ids = asked(tokenizer, batch, prefix)
    engine = HFEngine(model, tokenizer)
    engine.generate(prompts[:1], Sampling(max_new_tokens=1), None)  # switches the attention
    shared = common_prefix(ids) if batch > 1 else len(ids[0]) - 16
    slots = sequences.Slots(model, sequences.read_prefix(model, ids[0][:shared], whole=True))
    token_B = slots.join(ids)[:, -1].argmax(-1)

    @torch.inference_mode()
    def step() -> None:
        nonlocal token_B
        token_B = slots.step(token_B).argmax(-1)

    return step, shared, sum(len(row) - shared for row in ids)


def decoding(
    model: Any, tokenizer: Any, prefix: int, batch: int, steps: int = 16
) -> tuple[float, float]:
    """Seconds of a step with so many sequences, and the bytes it can't avoid reading."""
    step, shared, own = stepping(model, tokenizer, prefix, batch)
    took = []
    for _ in range(steps):
        began = time.perf_counter()
        step()
        took.append(time.perf_counter() - began)
    config = model.config
    column = (
        2
        * config.num_hidden_layers
        * config.num_key_value_heads
        * (config.hidden_size // config.num_attention_heads)
    )
    read = shared + own + batch * steps // 2  # half of the steps' own tokens, in the mean
    words = (
        sum(p.numel() for p in model.parameters()) + column * read
    )  # the head is the embedding, which is among them
    return statistics.median(took), words * next(model.parameters()).element_size()


def profile(model: Any, tokenizer: Any, batch: int, steps: int = 16) -> None:
    """Print what a step of decoding is spent on."""
    step, _, _ = stepping(model, tokenizer, 900, batch)
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        began = time.perf_counter()
        for _ in range(steps):
            step()
        took = time.perf_counter() - began
    own = {event.key: event.self_cpu_time_total / 1e6 for event in found.key_averages()}
    print(f"\n{batch} at once, profiled: {took / steps * 1e3:.0f} ms a step; of it")
    for name, seconds in sorted(own.items(), key=lambda pair: -pair[1])[:8]:
        print(f"  {seconds / took:5.1%} {name}")
    print(f"  {1 - sum(own.values()) / took:5.1%} outside of torch's operations")


def bandwidth() -> float:
    """Bytes a second of the fastest sum over a gigabyte here."""
    block = torch.ones(2**28)
    best = 0.0
    for _ in range(6):
        began = time.perf_counter()
        block.sum()
        best = max(best, block.numel() * 4 / (time.perf_counter() - began))
    return best


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, nargs="+", default=[250, 1000, 4000])
    parser.add_argument("--prefixes", type=int, nargs="+", default=[100, 900, 4000])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64, 128])
    parser.add_argument("--draws", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--new-tokens", type=int, default=4)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    libraries = resident("VmRSS")
    model, tokenizer = load(given.dtype)
    if given.profile:
        for weight in model.parameters():
            weight.sum()  # read from the file
        print(
            f"resident, MB: {libraries:.0f} with the libraries imported, {resident('VmRSS'):.0f}"
            " with the weights"
        )
        for batch in (1, 64):
            profile(model, tokenizer, batch)
        return
    collected(model, tokenizer, given, 8, 100, 8, 10)
    print(
        f"{given.new_tokens} tokens each, {given.dtype}, {torch.get_num_threads()} threads, torch"
        f" {torch.__version__}\n"
    )
    print(
        "| what changes | | inputs | seconds | seconds an input | extra memory, MB"
        " |\n|---|---|---|---|---|---|"
    )
    rows = [
        *(("inputs", n, n, 900, 64, 100) for n in given.inputs),
        *(("prefix", n, 64, n, 64, 100) for n in given.prefixes),
        *(
            ("at once", n, 128 if n > 64 else 64 if n > 1 else 16, 900, n, 100)
            for n in given.batches
        ),
        *(("draws", n, 64, 900, 64, n) for n in given.draws),
    ]
    for what, value, inputs, prefix, batch, draws in rows:
        seconds, memory = collected(model, tokenizer, given, inputs, prefix, batch, draws)
        print(
            f"| {what} | {value:,} | {inputs:,} | {seconds:.1f} | {seconds / inputs:.3f} |"
            f" {memory:.0f} |",
            flush=True,
        )
    limit = bandwidth()
    print(
        "\n| decoding, at once | ms a step | MB it must read | GB/s | of the memory's speed"
        " |\n|---|---|---|---|---|"
    )
    for batch in (1, 4, 16, 64):
        seconds, size = decoding(model, tokenizer, 900, batch)
        print(
            f"| {batch} | {seconds * 1e3:.1f} | {size / 1e6:.0f} | {size / seconds / 1e9:.1f} |"
            f" {size / seconds / limit:.0%} |",
            flush=True,
        )
    print(f"\nfastest reading: {limit / 1e9:.1f} GB/s")


if __name__ == "__main__":
    main()
