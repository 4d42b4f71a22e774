"""What is compared of two runs' folders."""

from __future__ import annotations

import hashlib
from pathlib import Path


def digests(run: Path) -> dict[str, str]:
    """All files that records and weights are made of; what holds measured seconds or the folder's name is left out."""
    kept = [*run.glob("completions/*/*.parquet"), *run.glob("*.parquet"), *run.glob("student/*.safetensors"), run / "train_log.json"]
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(kept)}
