"""Contenders in processes of their own, which take turns: what is said to one, and what it says."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any


def ask(process: subprocess.Popen[str], line: str | None) -> dict[str, Any]:
    """The next answer of a contender (a line `@` and JSON), to a line if one is given."""
    assert process.stdin
    assert process.stdout
    if line is not None:
        process.stdin.write(line + "\n")
        process.stdin.flush()
    for said in process.stdout:  # libraries print, too
        if said.startswith("@"):
            return json.loads(said[1:])
    raise SystemExit(f"a contender stopped: {process.args}")


def stop(process: subprocess.Popen[str]) -> None:
    """Let a contender end."""
    assert process.stdin
    process.stdin.close()
    process.wait()


def resident(key: str, process: int | str = "self") -> float:
    """Memory of a process in MiB: `VmRSS` now, `VmHWM` the highest since it began or was
    cleared.
    """
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(key))) / 1024
