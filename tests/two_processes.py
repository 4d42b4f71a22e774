"""Trainings of tiny students, for `torchrun --nproc-per-node 2 --max-restarts 1
tests/two_processes.py FOLDER`, and for one process to be compared with.

`torchrun ... tests/two_processes.py run RECIPE` is `unprompt run` with FSDP2 on processors.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from accelerate.state import DistributedType, PartialState

from conftest import byte_tokenizer, decoder, seq2seq
from test_train import ragged_lessons
from unprompt import cli
from unprompt.recipe import Train
from unprompt.records import Lesson
from unprompt.stages import processes, train
from unprompt.store.folder import RunDir

FSDP2 = {"fsdp": True, "fsdp_config": {"version": 2}, "use_cpu": False}
PLAIN: dict[str, Any] = {
    "batch_size": 8,
    "epochs": 2,
    "learning_rate": 0.05,
    "schedule": "constant",
    "warmup": 0,
    "save_every": 100,
}
KILLED: dict[str, Any] = {"adapter": {"rank": 4}, "batch_size": 4, "save_every": 1}
CASES: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "killed, DDP": (decoder, KILLED, {}),
    "adapter, DDP": (decoder, {"adapter": {"rank": 4}}, {}),
    "adapter, DDP, fast": (decoder, {"adapter": {"rank": 4}, "fast": True}, {}),
    "all weights, DDP, micro-batches of 2": (decoder, {"adapter": None, "micro_batch_size": 2}, {}),
    "encoder-decoder, DDP": (seq2seq, {"adapter": None}, {}),
    "adapter, FSDP2": (decoder, {"adapter": {"rank": 4}}, FSDP2),
    "all weights, FSDP2, micro-batches of 2": (
        decoder,
        {"adapter": None, "micro_batch_size": 2},
        FSDP2,
    ),
}
"""Name -> the model, the settings of `train`, and what is said to the trainer of two processes
only."""


class Counted(list[Lesson]):
    """Counts what is read, and dies with its process at the `deadly` one."""

    read, deadly = 0, -1

    def __getitem__(self, number: Any) -> Any:
        self.read += isinstance(number, int)
        if self.read == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(number)


def trained(name: str, folder: Path, lessons: list[Lesson]) -> RunDir:
    """Two epochs of lessons whose number is no multiple of the batch: the last step of each can't
    be dealt evenly.
    """
    family, changes, shared = CASES[name]
    said = {
        "optim": "sgd",
        "logging_steps": 1,
        **changes.get("trainer", {}),
        **(shared if processes.count() > 1 else {}),
    }
    settings = Train(**{**PLAIN, "fast": False, **changes, "trainer": said})
    student, files = train.attach_adapter(family(), settings, 0), RunDir(folder / name)
    train.train(student, byte_tokenizer(), lessons, settings, files, seed=3, made_from="x")
    return files


def shard_on_processors() -> None:
    """accelerate shards on GPUs only, though torch needs none for it: here it takes processors for
    GPUs.
    """
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    plain = PartialState._prepare_backend

    def prepare(self: Any, cpu: bool = False, *args: Any, **kwargs: Any) -> Any:
        return plain(self, cpu, *args, **kwargs) if cpu else ("gloo", DistributedType.MULTI_GPU)

    PartialState._prepare_backend = prepare


def main(folder: Path) -> None:
    """All cases; at the first attempt the first process is killed in the middle of the second epoch
    of the first one.
    """
    processes.meet(1800, None)
    for name in CASES:
        lessons = Counted(ragged_lessons(10))
        if (
            name == "killed, DDP"
            and processes.number() == 0
            and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        ):
            lessons.deadly = 11  # asked for when step 4 of 6 is saved
        files = trained(name, folder, lessons)
        if processes.number() == 0:
            files.write_text("read.txt", str(lessons.read))


if __name__ == "__main__":
    shard_on_processors()
    if sys.argv[1] == "run":
        cli.main()
    else:
        main(Path(sys.argv[1]))
