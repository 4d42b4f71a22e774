"""What is compared of two runs' folders."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def digests(run: Path) -> dict[str, str]:
    """All files that records and weights are made of; what holds measured seconds or the folder's
    name is left out.
    """
    kept = [
        *run.glob("completions/*/*.parquet"),
        *run.glob("*.parquet"),
        *run.glob("student/*.safetensors"),
        run / "train_log.json",
    ]
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(kept)
    }


def figures(run: Path) -> Any:
    """The report, without seconds and the folder's name."""
    report = json.loads((run / "report.json").read_text())
    for context in report["contexts"].values():
        for system in context["systems"].values():
            del system["seconds_per_call"]
    del report["use"]
    return report
