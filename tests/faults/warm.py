"""A process that has imported everything, has one thread, and forks for each run that it is told
of: a run starts in milliseconds, and can be killed.

It reads a JSON line a command from stdin: `{"arguments": [...], "log": path, "asked": path, ...}`
starts a run and answers its process id; `{"wait": id}` answers how it ended (a negative number: by
which signal), `{"stopped": id}` by which signal it stopped. A run that hangs writes into its log
where it stands, and is killed (-6).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import faulthandler
import gc
import json
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import peft  # noqa: F401
import scipy.stats  # noqa: F401
import sklearn.metrics  # noqa: F401
import torch
from peft import LoraConfig, PeftModel  # noqa: F401
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast, Trainer  # noqa: F401

import moments
from unprompt import cli, pipeline  # noqa: F401
from unprompt.engines.hf import engine as hf
from unprompt.engines.server import engine as server
from unprompt.report import page, sections, write  # noqa: F401
from unprompt.stages import check, collect, coverage  # noqa: F401
from unprompt.stages.evaluate import bars, measured  # noqa: F401
from unprompt.stages.lessons import transfer_set  # noqa: F401
from unprompt.stages.questions import key_of
from unprompt.stages.train import kl, student, watch  # noqa: F401
from unprompt.store import files


def note_what_is_asked(path: Path) -> None:
    """Each time a model is asked, a line of the store and the prompts' fingerprints, before it
    answers.
    """
    fill, store = collect.fill, [""]

    def noting(ask: Any, place: Any, *rest: Any, **options: Any) -> Any:
        store[0] = place.name
        return fill(ask, place, *rest, **options)

    def asking(verb: Any, self: Any, prompts: Any, *rest: Any, **options: Any) -> Any:
        with path.open("a") as file:
            file.write(
                json.dumps([os.getpid(), [f"{store[0]}/{key_of(prompt)}" for prompt in prompts]])
                + "\n"
            )
        return verb(self, prompts, *rest, **options)

    collect.fill = noting
    for engine, name in (
        (hf.HFEngine, "generate"),
        (hf.HFEngine, "score"),
        (server.ServerEngine, "generate"),
    ):
        verb = getattr(engine, name)
        setattr(engine, name, lambda self, *a, verb=verb, **b: asking(verb, self, *a, **b))


def jump(clock: Any, a_second: int, seed: int) -> Any:
    """A clock that jumps by up to ten years at every look."""
    count = [seed]

    def now() -> Any:
        count[0] = (count[0] * 1103515245 + 12345) % 2**31
        return clock() + int((count[0] / 2**31 - 0.5) * 20 * 365 * 86400) * a_second

    return now


def fill_the_disk(full: Path) -> None:
    """No space is left for this file (the kernel's own /dev/full)."""
    make = files.aside

    def aside(path: Path) -> Path:
        partial = make(path)
        if path == full:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.symlink_to("/dev/full")
        return partial

    files.aside = aside


def obey_permissions() -> None:
    """Root without the power to write where it may not (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH,
    CAP_FOWNER).
    """
    if os.getuid() == 0:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        data = (ctypes.c_uint32 * 6)()
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.capget(header, data) == 0
        for place in (0, 1):
            data[place] &= ~0b1110
        assert libc.capset(header, data) == 0


def run(told: dict[str, Any]) -> None:
    log = os.open(told["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for fd in (1, 2):
        os.dup2(log, fd)
    faulthandler.enable(log)  # of SIGABRT, too
    os.environ |= told.get("environment", {})
    os.chdir(told.get("folder", "."))
    note_what_is_asked(Path(told["asked"]))
    if told.get("clock"):
        time.time, time.time_ns = (
            jump(time.time, 1, told["clock"]),
            jump(time.time_ns, 10**9, told["clock"]),
        )
    if told.get("largest_file"):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (told["largest_file"], told["largest_file"]))
    if told.get("full"):
        fill_the_disk(Path(told["full"]))
    if told.get("permissions"):
        obey_permissions()
    steps = moments.watch(moments.Moment(**told["moment"]) if "moment" in told else None)
    sys.argv = ["unprompt", *told["arguments"]]
    code: Any = 0
    try:
        cli.main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 99
    if told.get("counts"):
        Path(told["counts"]).write_text(json.dumps(steps))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


HANGS = 300.0
"""Seconds, far over what any run takes."""


def ended(run: int) -> int:
    """Its exit code."""
    late = time.monotonic() + HANGS
    while time.monotonic() < late:
        id_, status = os.waitpid(run, os.WNOHANG)
        if id_:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(run, signal.SIGABRT)
    return os.waitstatus_to_exitcode(os.waitpid(run, 0)[1])


def wait_for_the_endpoint() -> None:
    """An engine asks again as soon as its endpoint is back, not after a while."""
    make = server.ServerEngine.__init__

    def patient(self: Any, section: Any, *rest: Any, **options: Any) -> None:
        host, port = section.url.removeprefix("http://").removesuffix("/v1").split(":")

        async def until_it_is_back(seconds: float) -> None:
            while True:
                with contextlib.suppress(OSError):
                    (await asyncio.open_connection(host, int(port)))[1].close()
                    return
                await asyncio.sleep(0.01)

        make(self, section, *rest, **options, sleep=until_it_is_back)

    server.ServerEngine.__init__ = patient  # type: ignore[method-assign]


def main() -> None:
    torch.set_num_threads(1)
    wait_for_the_endpoint()
    gc.freeze()
    assert threading.active_count() == 1
    threads = {
        Path(task, "comm").read_text().strip()
        for task in Path("/proc/self/task").iterdir()
        if task.name != str(os.getpid())
    }
    assert threads <= {"jemalloc_bg_thd"}, (
        f"a fork would lose threads: {threads}"
    )  # jemalloc (of Arrow) minds forks itself
    print("ready", flush=True)
    for line in sys.stdin:
        told = json.loads(line)
        if "stopped" in told:
            print(os.WSTOPSIG(os.waitpid(told["stopped"], os.WUNTRACED)[1]), flush=True)
        elif "wait" in told:
            print(ended(told["wait"]), flush=True)
        elif child := os.fork():
            print(child, flush=True)
        else:
            sys.stdin = open(os.devnull)  # noqa: PTH123, SIM115
            run(told)


if __name__ == "__main__":
    main()
