"""What each kind of label costs and how exact it is: error of the gradient, bytes of an answer
token in the store, speed of reading it.

    python benchmarks/labels.py [--inputs 64] [--new-tokens 16]
    python benchmarks/labels.py --run runs/quickstart     # bytes a token of each column of what a
    run has stored, and of what was tried instead

The teacher is SmolLM2-135M-Instruct behind the quickstart's prompt. The gradient of KL(teacher ||
student) with respect to a token's logits is p_student - q; its error is that of q: |mean of (q -
p)| / |mean of (p_student - p)| over all tokens, where the student is the same model without the
long prompt, and for one token alone |q - p| / |p|. Bytes and speed are those of
`write_completions` and `read_completions`.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from collect import asked, load

from unprompt.engines.hf.engine import HFEngine
from unprompt.recipe import Labels, Sampling
from unprompt.records import SoftLabels
from unprompt.store.tables import read_completions, write_completions

KINDS = [
    Labels(draws=100),
    Labels(draws=10),
    Labels(kind="top_k_tail", k=16, tail=8),
    Labels(kind="top_k", k=50),
    Labels(kind="top_k", k=100),
    Labels(kind="hard"),
]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--run", type=Path)
    options = parser.parse_args()
    if options.run:
        stored(options.run)
        return
    model, tokenizer = load("float32")
    prompts, shorts, _ = asked(tokenizer, options.inputs, prefix=0)
    engine = HFEngine(model, tokenizer)
    size = model.config.vocab_size
    written = engine.generate(
        prompts, Sampling(max_new_tokens=options.new_tokens), None, batch_size=32
    )
    given = [c.token_ids for c in written]
    exact = Labels(kind="top_k", k=size)
    p, student = (torch.zeros(size, dtype=torch.float64) for _ in range(2))
    truth: list[SoftLabels] = []
    for start in range(0, len(prompts), 4):
        batch = slice(start, start + 4)
        truth_4 = engine.score(prompts[batch], given[batch], exact)
        p += sum((_sum(x, size) for x in truth_4), torch.zeros(size))
        student += sum(
            (_sum(x, size) for x in engine.score(shorts[batch], given[batch], exact)),
            torch.zeros(size),
        )
        truth += truth_4 if start < 16 else []
    scale = float((student - p).norm())
    print(
        "| labels | error of the mean gradient | error of one token | entries a token | bytes a"
        " token | tokens read a second |"
    )
    print("|---|---|---|---|---|---|")
    for labels in KINDS:
        said = engine.score(prompts, given, labels, batch_size=32)
        q = sum((_sum(x, size) for x in said), torch.zeros(size))
        tokens = sum(map(len, said))
        one = [
            _distance(a, b)
            for x, y in zip(said, truth, strict=False)
            for a, b in zip(_tokens(x, size), _tokens(y, size), strict=True)
        ]
        with tempfile.TemporaryDirectory() as folder:
            rows = [
                (str(n), _with(c, label))
                for n, (c, label) in enumerate(zip(written, said, strict=True))
            ]
            write_completions(Path(folder, "part-00000.parquet"), rows)
            size_b = Path(folder, "part-00000.parquet").stat().st_size
            began = time.process_time()
            read_completions(Path(folder))
            took = time.process_time() - began
        name = {
            "sampled": f"{labels.draws} draws",
            "top_k_tail": f"top {labels.kept} and {labels.tail} draws",
            "top_k": f"top {labels.kept}",
        }
        print(
            f"| {name.get(labels.kind, labels.kind)} | {float((q - p).norm()) / scale:.1%} |"
            f" {np.mean(one):.1%} | {sum(len(x.ids) for x in said) / tokens:.1f} |"
            f" {size_b / tokens:.1f} | {tokens / took:,.0f} |"
        )


def stored(run: Path) -> None:
    """Print what the labels of a run's answers, of 100 draws each, take, column by column."""
    paths = sorted(run.glob("completions/*/part-*.parquet"))
    bytes_of: collections.Counter[str] = collections.Counter()
    for path in paths:
        footer = pyarrow.parquet.ParquetFile(path).metadata
        for group, column in itertools.product(
            range(footer.num_row_groups), range(footer.num_columns)
        ):
            chunk = footer.row_group(group).column(column)
            bytes_of[chunk.path_in_schema.removesuffix(".list.element")] += (
                chunk.total_compressed_size
            )
    folders = sorted({path.parent for path in paths})
    said = [c.labels for folder in folders for c in read_completions(folder).values() if c.labels]
    tokens = sum(map(len, said))
    ids = np.concatenate(
        [np.diff(x.slice(n, n + 1).ids, prepend=0) for x in said for n in range(len(x))]
    )
    probs, sizes = (
        np.concatenate([x.probs for x in said]),
        np.concatenate([np.diff(x.offsets) for x in said]),
    )
    nll = np.concatenate([x.teacher_nll for x in said])
    counts = probs * 100
    assert np.allclose(counts, counts.round(), atol=1e-3), "labels are not of 100 draws"
    assert np.abs(ids).max() < 2**16, "an id does not fit into 16 bits"
    tried = {
        "label_ids": ("differences in 16 bits, two planes", _planes(ids.astype(np.uint16))),
        "label_probs": ("counts in 8 bits", counts.round().astype(np.uint8)),
        "label_sizes": ("8 bits", sizes.astype(np.uint8)),
        "teacher_nll": ("16 bits, two planes", _planes(nll.astype(np.float16))),
    }
    print(f"{tokens:,} tokens in {len(paths)} parts, {len(probs) / tokens:.1f} ids a token\n")
    print(
        "| column | bytes a token | tried, with zstd over the whole | bytes a token"
        " |\n|---|---|---|---|"
    )
    sums = [0.0, 0.0]
    for name, (what, array) in tried.items():
        size = len(pyarrow.compress(array.tobytes(), codec="zstd", asbytes=True)) / tokens
        print(f"| `{name}` | {bytes_of[name] / tokens:.1f} | {what} | {size:.1f} |")
        sums = [sums[0] + bytes_of[name] / tokens, sums[1] + size]
    print(f"| together | {sums[0]:.1f} | | {sums[1]:.1f} |")
    share = np.unique(ids, return_counts=True)[1] / len(ids)
    print(
        f"\nentropy of the differences, each on its own: {-(share * np.log2(share)).sum() / 8:.2f}"
        " bytes an id"
    )


def _planes(array: np.ndarray) -> np.ndarray:
    """The bytes of one rank together."""
    return np.ascontiguousarray(array.view(np.uint8).reshape(len(array), -1).T)


def _sum(labels: SoftLabels, size: int) -> torch.Tensor:
    return torch.zeros(size, dtype=torch.float64).index_add_(
        0, torch.from_numpy(labels.ids).long(), torch.from_numpy(labels.probs).double()
    )


def _tokens(labels: SoftLabels, size: int) -> list[torch.Tensor]:
    return [_sum(labels.slice(n, n + 1), size) for n in range(len(labels))]


def _distance(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float((found - truth).norm() / truth.norm())


def _with(completion, labels: SoftLabels):
    from dataclasses import replace

    return replace(completion, labels=labels)


if __name__ == "__main__":
    main()
