"""Memory while a student trains on many lessons: they stay on disk, so it should not grow with
their number.

    python benchmarks/lesson_memory.py [--lessons 1000000] [--in-memory]

Lessons of 24 tokens, 4 of them weighted with 20 draws each, are written as a run writes them and
trained on for one epoch in their shuffled order, through the real trainer, by a model so small (one
layer, width 8) that nearly all time is spent on reading. `--in-memory` reads them all at once
instead, for comparison. Memory is what is resident of this process, in MB.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback

from unprompt.recipe import Train
from unprompt.records import Lesson, SoftLabels
from unprompt.stages import train
from unprompt.store.folder import RunDir
from unprompt.store.stored import StoredLessons
from unprompt.store.tables import read_lessons, write_lessons

VOCABULARY = 256
TOKENS, TAUGHT, DRAWS = 24, 4, 20


def resident(key: str = "VmRSS") -> float:
    """Memory of this process in MB: `VmRSS` now, `VmHWM` the highest since it began."""
    return (
        int(
            next(
                line.split()[1]
                for line in Path("/proc/self/status").read_text().splitlines()
                if line.startswith(key)
            )
        )
        / 1024
    )


def lessons(count: int) -> Iterator[Lesson]:
    """So many different lessons, one after the other."""
    draw = np.random.default_rng(0)
    weights = np.concatenate([np.zeros(TOKENS - TAUGHT), np.ones(TAUGHT)]).astype(np.float32)
    probs, offsets = (
        np.full(TAUGHT * DRAWS, 1 / DRAWS, np.float32),
        np.arange(0, TAUGHT * DRAWS + 1, DRAWS, dtype=np.int32),
    )
    for n in range(count):
        ids, labels = (
            draw.integers(3, VOCABULARY, TOKENS).tolist(),
            draw.integers(3, VOCABULARY, TAUGHT * DRAWS, dtype=np.int32),
        )
        yield Lesson(
            f"i{n}",
            "c",
            tuple(ids),
            TOKENS - TAUGHT,
            weights,
            SoftLabels(labels, probs, offsets, np.zeros(TAUGHT, np.float32)),
        )


class _Memory(TrainerCallback):
    """Prints a row now and then."""

    def __init__(self, batch: int) -> None:
        self._batch, self._began = batch, time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % max(1, state.max_steps // 10) == 0:
            seen = state.global_step * self._batch
            print(
                f"| trained on {seen:,} | {resident():.0f} |"
                f" {time.perf_counter() - self._began:.0f} |",
                flush=True,
            )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lessons", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--in-memory", action="store_true")
    given = parser.parse_args()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(vocab={"<pad>": 0}, merges=[])), pad_token="<pad>"
    )
    size: dict[str, Any] = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
    }
    student = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **size, pad_token_id=0))
    settings = Train(
        adapter=None,
        epochs=1,
        batch_size=given.batch,
        save_every=10**9,
        trainer={"logging_steps": 100},
    )
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads\n\n| | resident, MB |"
        " seconds |\n|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        files, began = RunDir(folder), time.perf_counter()
        path = files.folder / "lessons.parquet"
        print(f"| at the start | {resident():.0f} | |", flush=True)
        write_lessons(path, lessons(given.lessons))
        print(
            f"| written, {path.stat().st_size / 2**20:,.0f} MB | {resident():.0f} |"
            f" {time.perf_counter() - began:.0f} |",
            flush=True,
        )
        began = time.perf_counter()
        taught = read_lessons(path) if given.in_memory else StoredLessons.copied(path)
        told = (
            "all read"
            if given.in_memory
            else f"copied, {path.with_suffix('.arrow').stat().st_size / 2**20:,.0f} MB"
        )
        print(f"| {told} | {resident():.0f} | {time.perf_counter() - began:.0f} |", flush=True)
        train.train(
            student,
            tokenizer,
            taught,
            settings,
            files,
            seed=0,
            made_from="x",
            watch=_Memory(given.batch),
        )
    print(f"| highest | {resident('VmHWM'):.0f} | |")


if __name__ == "__main__":
    main()
