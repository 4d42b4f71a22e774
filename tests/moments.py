"""Ends a process, or stops it, at a moment that it reaches by itself: at the same place on every
machine, fast or slow.

`python tests/moments.py '{"file": "part-*.parquet", "nth": 2, "steps": 30}' run RECIPE --out RUN`
is `unprompt run RECIPE --out RUN` up to a moment. With `"counts": PATH` and no moment it writes
there how many steps there were.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_MADE = {"os.rename": 1, "os.mkdir": 0}
"""Audit event -> which of its arguments is the path that is there afterwards."""
_CHANGES = {*_MADE, "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree"}
CHANGE, LAYER = "change", "layer"


@dataclass(frozen=True)
class Moment:
    """So many steps behind the start, or behind a file.

    A step is a change to files (about to be made) or a layer of a model (about to be computed), so
    a moment can lie between two writes and in the middle of computing.
    """

    steps: int
    kind: str | None = None
    """`change` or `layer`; both count, unless given."""
    file: str | None = None
    """Steps count from the moment a path like this is there (renamed to, or a folder made); a glob,
    matched from the right."""
    nth: int = 1
    """Which of them."""
    signal: int = signal.SIGKILL


def _new(path: Any, pattern: str) -> bool:
    """Whether a path is like this, and not there yet."""
    wanted = isinstance(path, str | os.PathLike) and Path(path).match(pattern)
    return wanted and not Path(path).exists()


def watch(moment: Moment | None) -> Counter[str]:
    """Have this process send itself the moment's signal; gives the counts of its steps, which
    grow.
    """
    import torch

    seen, files = Counter[str](), [0]
    behind: list[int] = [] if moment and moment.file else [0]

    def step(kind: str) -> None:
        seen[kind] += 1
        if moment and behind and moment.kind in (None, kind):
            behind[0] += 1
            if behind[0] == moment.steps:
                os.kill(os.getpid(), moment.signal)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _CHANGES or (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING
        ):
            step(CHANGE)
            path = arguments[_MADE[event]] if event in _MADE else None
            if moment and moment.file and not behind and _new(path, moment.file):
                files[0] += 1
                behind.extend([0] * (files[0] == moment.nth))

    sys.addaudithook(hook)
    torch.nn.modules.module.register_module_forward_pre_hook(lambda *_: step(LAYER))
    return seen


def run(told: dict[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command with these arguments, up to the moment that is told, or to its end."""
    command = [sys.executable, __file__, json.dumps(told), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def main(told: dict[str, Any], arguments: list[str]) -> None:
    counts = told.pop("counts", None)
    seen = watch(Moment(**told) if told else None)
    from unprompt import cli

    sys.argv = ["unprompt", *arguments]
    try:
        cli.main()
    finally:
        if counts:
            Path(counts).write_text(json.dumps(seen))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2:])
