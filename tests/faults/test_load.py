"""20,000 inputs through an engine that answers at once: memory does not grow with what is asked or
read. `benchmarks/load.py` has the figures for 100,000.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

INPUTS = 20_000
MOST = 40.0
"""MiB; the answers themselves would take over 100."""


def test_memory_is_flat(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location(
        "load", Path(__file__).parents[2] / "benchmarks" / "load.py"
    )
    assert spec
    assert spec.loader
    load: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(load)
    figures, asked, read = load.measure(INPUTS, tmp_path / "store")
    assert figures["inputs"] == INPUTS
    assert load.growth(asked) < MOST
    assert load.growth(read) < MOST
    load.picture(asked, read, tmp_path / "load.svg")
    assert (tmp_path / "load.svg").read_text().count("<polyline") == 2
