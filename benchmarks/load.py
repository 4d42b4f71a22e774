"""Bookkeeping under load: inputs through an engine that answers at once. Inputs a second, memory
while they go by, and the scan that a resumed run begins with.

    python benchmarks/load.py [INPUTS] [PICTURE.svg]

Everything is measured that collecting does beside the model: fingerprints, parts, checksums,
writing, and reading the answers once in the prompts' order. Memory is the process's resident set,
sampled each time the engine is asked; the prompts themselves, which are made ahead, are in it from
the beginning.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from unprompt.recipe import Labels, Sampling
from unprompt.records import BASE, Completion, Prompt, SoftLabels
from unprompt.stages.collect import fill, here
from unprompt.stages.prompts import Side
from unprompt.stages.questions import Question
from unprompt.store.answers import Answers

TOKENS, ENTRIES = 20, 8
"""Of an answer, and of each of its tokens' labels."""
VARIETY = 5000
"""Different labels: more than a part holds, so that they do not pack better than real ones."""


class Fast:
    """Answers at once, and notes the memory (MiB) after so many inputs."""

    def __init__(self) -> None:
        self.memory: list[tuple[int, float]] = []
        self._labels, self._done = [_labels(seed) for seed in range(VARIETY)], 0

    def generate(self, prompts: Sequence[Prompt], *_: Any, **__: Any) -> list[Completion]:
        """See `Engine.generate`."""
        self.memory.append((self._done, resident()))
        begun, self._done = self._done, self._done + len(prompts)
        return [
            Completion(
                p.example_id,
                p.context,
                f"An answer to {p.example_id}",
                tuple(range(TOKENS)),
                "end",
                12,
                self._labels[n % VARIETY],
            )
            for n, p in enumerate(prompts, begun)
        ]


def _labels(seed: int) -> SoftLabels:
    draw = np.random.default_rng(seed)
    probs = draw.random((TOKENS, ENTRIES), np.float32)
    return SoftLabels(
        np.sort(draw.integers(0, 50_000, (TOKENS, ENTRIES))).astype(np.int32).ravel(),
        (probs / probs.sum(1, keepdims=True)).ravel(),
        np.arange(0, TOKENS * ENTRIES + 1, ENTRIES, dtype=np.int32),
        draw.random(TOKENS, np.float32),
    )


def resident() -> float:
    """MiB."""
    return psutil.Process().memory_info().rss / 2**20


def measure(
    count: int, store: Path
) -> tuple[dict[str, float], list[tuple[int, float]], list[tuple[int, float]]]:
    """Figures, and the memory after so many inputs asked, and read."""
    prompts = [
        Prompt(
            f"i{n}", "load", f"Sort this message, number {n}, into its topic: " + "word " * (n % 7)
        )
        for n in range(count)
    ]
    lengths = [len(str(prompt.content)) for prompt in prompts]
    engine: Any = Fast()

    def go() -> Answers:
        return fill(
            here(lambda: engine),
            store,
            Question(BASE, Side(prompts, lengths, (0,)), Sampling(), Labels()),
        )

    began = time.perf_counter()
    go()
    asked = time.perf_counter()
    answers = go()
    scanned = time.perf_counter()
    reading = []
    for number, answer in enumerate(answers):
        assert answer.example_id == prompts[number].example_id
        if number % 2000 == 0:
            reading.append((number, resident()))
    read = time.perf_counter()
    figures = {
        "inputs": count,
        "inputs a second": count / (asked - began),
        "resume scan, seconds": scanned - asked,
        "answers read a second": count / (read - scanned),
        "parts": len(list(store.glob("part-*"))),
        "MiB on disk": sum(path.stat().st_size for path in store.iterdir()) / 2**20,
    }
    return figures, engine.memory, reading


def growth(memory: Sequence[tuple[int, float]]) -> float:
    """MiB by which the last fifth is above the second."""
    fifth = max(1, len(memory) // 5)
    return float(
        np.mean([size for _, size in memory[-fifth:]])
        - np.mean([size for _, size in memory[fifth : 2 * fifth]])
    )


def picture(
    asked: Sequence[tuple[int, float]], read: Sequence[tuple[int, float]], path: Path
) -> None:
    """Memory over inputs, as an SVG file."""
    width, height, left, bottom = 640, 260, 56, 36
    most = max(size for _, size in [*asked, *read]) * 1.15
    last = max(number for number, _ in asked)

    def line(points: Sequence[tuple[int, float]], colour: str) -> str:
        thin = points[:: max(1, len(points) // 200)]
        spots = " ".join(
            f"{left + n / last * (width - left - 16):.1f}"
            f",{(1 - size / most) * (height - bottom):.1f}"
            for n, size in thin
        )
        return f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{spots}"/>'

    marks = "".join(
        f'<text x="{left - 6}" y="{(1 - share) * (height - bottom) + 4:.0f}"'
        f' text-anchor="end">{most * share:.0f}</text>'
        for share in (0, 0.5)
    )
    marks += "".join(
        f'<text x="{left + share * (width - left - 16):.0f}" y="{height - bottom + 16}"'
        f' text-anchor="middle">{last * share:,.0f}</text>'
        for share in (0, 0.5, 1)
    )
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        ' font-family="sans-serif" font-size="12" role="img" '
        f'aria-label="Resident memory in MiB over inputs"><rect width="{width}" height="{height}"'
        ' fill="#fff"/>'
        f'<path d="M{left} 0V{height - bottom}H{width - 16}" fill="none" stroke="#888"/>{marks}'
        f"{line(asked, '#1f6fb2')}{line(read, '#c2571a')}"
        f'<text x="{left + 10}" y="16" fill="#1f6fb2">MiB while asking</text><text x="{left + 150}"'
        ' y="16" fill="#c2571a">while reading the answers</text>'
        f'<text x="{width / 2}" y="{height - 4}" text-anchor="middle">inputs</text></svg>\n'
    )


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as folder:
        figures, asked, read = measure(count, Path(folder) / "store")
    figures |= {
        "MiB more at the end of asking": growth(asked),
        "MiB more at the end of reading": growth(read),
        "MiB at most": max(size for _, size in asked + read),
    }
    for name, value in figures.items():
        print(f"{name:32} {value:,.1f}")
    if len(sys.argv) > 2:
        picture(asked, read, Path(sys.argv[2]))


if __name__ == "__main__":
    main()
