"""Labels in a store: what is read is what was written, number for number."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unprompt.records import Completion, SoftLabels
from unprompt.store.tables import read_completions, write_completions


def test_labels_come_back_as_they_were(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    kept: list[SoftLabels | None] = [None, SoftLabels.hard([5, 70_000, 0]), SoftLabels.concat([])]
    for _ in range(5):
        sizes = draw.integers(0, 9, 12)
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
        ids = draw.integers(0, 250_000, offsets[-1]).astype(np.int32)  # in any order
        kept.append(
            SoftLabels(
                ids, draw.random(offsets[-1], np.float32), offsets, draw.random(12, np.float32)
            )
        )
    rows = [
        (str(n), Completion(f"e{n}", "c", "text", (1, 2), "end", 7, labels))
        for n, labels in enumerate(kept)
    ]
    write_completions(tmp_path / "part-00000.parquet", rows)
    found = read_completions(tmp_path)
    for n, labels in enumerate(kept):
        mine = found[str(n)].labels
        assert (mine is None) == (labels is None)
        for name in ("ids", "probs", "offsets", "teacher_nll") if labels else ():
            a, b = getattr(mine, name), getattr(labels, name)
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def test_a_part_without_rows(tmp_path: Path) -> None:
    write_completions(tmp_path / "part-00000.parquet", [])
    assert read_completions(tmp_path) == {}
