"""Checkpoints of a training: which is whole and may be gone on from, and the time they took."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from unprompt.messages import say
from unprompt.stages import processes
from unprompt.store.files import file_digest, read_json, refuse_moved, replacing

_FILES = "files.json"
"""In a checkpoint: what it is made of."""
_READ_AGAIN = 2**30


def resumable(folder: Path, made_from: str) -> str | None:
    """The newest whole checkpoint of the same lessons and settings; all others are removed."""
    mark = folder / "made_from.txt"
    if not mark.is_file() or mark.read_text() != made_from:
        if _newest_first(folder):
            say(
                f"the checkpoints in {folder} are of other lessons or settings, or of another"
                " number of processes: training begins anew"
            )
        shutil.rmtree(folder, ignore_errors=True)
        with replacing(mark) as partial:
            partial.write_text(made_from)
        return None
    for checkpoint in _newest_first(folder):
        listed = read_json(checkpoint / _FILES)
        if isinstance(listed, dict) and "trainer_state.json" in listed:
            files = ((checkpoint / name, digest) for name, digest in listed.items())
            broken = next((f for f, digest in files if not f.exists() or stamp(f) != digest), None)
            if broken is None:
                return str(checkpoint)
            say(
                f"BROKEN FILE: {broken} is not as it was written; training goes on"
                " from the checkpoint before"
            )
        shutil.rmtree(checkpoint)
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.split("-")[1]))


def stamp(file: Path) -> list[Any]:
    """A file's size and digest; none where reading takes longer than training anew."""
    size = file.stat().st_size
    return [size, file_digest(file) if size <= _READ_AGAIN else ""]


class Clock(TrainerCallback):
    """Seconds of training over all restarts: each checkpoint keeps those until then. What a kill
    undid is not counted. And the newest checkpoints are kept, with a list of their files.

    Args:
        checkpoint: From which the training goes on.
        kept: How many checkpoints are kept; None: all.
    """

    def __init__(self, checkpoint: str | None, kept: int | None = None) -> None:
        self._before: float | None = 0.0
        self._kept = kept
        if checkpoint:
            try:
                self._before = json.loads(Path(checkpoint, "seconds.json").read_text())
            except (OSError, ValueError):
                self._before = None  # killed just before it was written: nobody knows
        self._began = time.perf_counter()

    def seconds(self) -> float | None:
        """Until now; None, if nobody knows."""
        return None if self._before is None else self._before + time.perf_counter() - self._began

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ahead of a checkpoint: the trainer itself would make a folder anew that was moved."""
        refuse_moved(Path(args.output_dir))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the time and the files, and remove what is too old."""
        processes.wait_for_all()  # each writes its random state
        if not state.is_world_process_zero:
            return
        checkpoint = Path(args.output_dir, f"checkpoint-{state.global_step}")
        (checkpoint / "seconds.json").write_text(json.dumps(self.seconds()))
        # last: it says that the checkpoint is whole
        with replacing(checkpoint / _FILES) as partial:
            files = [f for f in checkpoint.rglob("*") if f.is_file() and f.name[0] != "."]
            stamps = {str(file.relative_to(checkpoint)): stamp(file) for file in files}
            partial.write_text(json.dumps(stamps))
        for older in _newest_first(checkpoint.parent)[self._kept :] if self._kept else ():
            shutil.rmtree(older)
