"""One run by several processes, started by `torchrun` or `accelerate launch`: the first does
everything, the others join it in training.

What to do next goes from the first process to the others through the launcher's key-value store,
not through a collective operation: those have a time limit, and a teacher may be asked for days. A
process that fails ends the run: the launcher stops the others.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

from unprompt.messages import UserError, console
from unprompt.store.files import first_line

Made = TypeVar("Made")
_SECONDS = 0.1
"""Between two looks at the store."""
_store: Any = None
_numbers = itertools.count()
"""Of messages: each process counts them for itself, and all see the same ones."""


def count() -> int:
    """How many processes do this run; 1 without a launcher."""
    launched = os.environ.keys() >= {"LOCAL_RANK", "WORLD_SIZE"}
    return int(os.environ["WORLD_SIZE"]) if launched else 1


def number() -> int:
    """This process among them; the first is 0."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def meet(timeout: float, backend: str | None) -> None:
    """Every process waits here for all others, once; nothing happens in a run of one.

    Args:
        timeout: Seconds that a process may keep the others waiting during training.
        backend: Of `torch.distributed`; NCCL on GPUs and Gloo on processors unless given.

    Raises:
        UserError: They can't.
    """
    global _store
    if count() == 1 or _store is not None:
        return
    import torch

    distributed: Any = torch.distributed
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        store, rank, size = next(distributed.rendezvous("env://"))
        # torchrun keeps it over restarts
        store = distributed.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
        distributed.init_process_group(
            backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=timeout)
        )
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(
            f"the processes can't meet: {first_line(error)}",
            where="torchrun",
            fix="check the launcher's settings, and ddp_timeout and ddp_backend in train.trainer",
        ) from None
    atexit.register(distributed.destroy_process_group)
    _store = distributed.PrefixStore("unprompt", store)
    if rank:
        console.quiet = True


def say_to_others(job: dict[str, Any]) -> None:
    """From the first process: what they are to do next, anything JSON can write."""
    if count() > 1:
        _store.set(str(next(_numbers)), json.dumps({"job": job}))


@contextlib.contextmanager
def leading() -> Iterator[None]:
    """Around what the first process does: at its end, or when it fails, the others go home."""
    if count() == 1:
        yield
        return
    last: dict[str, Any] = {"failed": "an error of its own, which it printed"}
    try:
        yield
        last = {"done": True}
    except UserError as error:
        last = {"failed": str(error)}
        raise
    finally:
        with contextlib.suppress(RuntimeError):  # the others, and the store, may be gone
            _store.set(str(next(_numbers)), json.dumps(last))


def jobs() -> Iterator[dict[str, Any]]:
    """What the first process wants of the others, one after the other, until it is done.

    Raises:
        UserError: It failed, or is gone; raised once on each machine, the other processes there end
            in silence.
    """
    while True:
        key = str(next(_numbers))
        try:
            while not _store.check([key]):
                time.sleep(_SECONDS)
            message: dict[str, Any] = json.loads(_store.get(key))
        except RuntimeError:
            message = {"failed": "it is gone"}
        if "failed" in message:
            if int(os.environ["LOCAL_RANK"]):
                sys.exit(2)
            raise UserError(f"the first process stopped: {message['failed']}")
        if "done" in message:
            return
        yield message["job"]


def from_first(make: Callable[[], Made]) -> Made:
    """What the first process makes, in all processes; the others wait for it."""
    if count() == 1:
        return make()
    from torch import distributed

    made: list[Any] = [make() if number() == 0 else None]
    distributed.broadcast_object_list(made)
    return made[0]


def wait_for_all() -> None:
    """Go on when all processes are here."""
    if count() > 1:
        from torch import distributed

        distributed.barrier()
