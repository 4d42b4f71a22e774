"""Work on an event loop, which Ctrl-C stops."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

_Done = TypeVar("_Done")
_BEAT = 0.5
"""Seconds."""


def finished(work: Coroutine[Any, Any, _Done]) -> _Done:
    """Run to the end, in a thread of its own where a loop is at work already (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_hearing(work))
    loop = asyncio.new_event_loop()
    task = loop.create_task(work)
    with concurrent.futures.ThreadPoolExecutor(1) as pool, contextlib.closing(loop):
        running = pool.submit(loop.run_until_complete, task)
        try:
            return running.result()
        except BaseException:  # Ctrl-C is told here, not there
            loop.call_soon_threadsafe(task.cancel)
            concurrent.futures.wait([running])
            raise


async def _hearing(work: Coroutine[Any, Any, _Done]) -> _Done:
    """Ctrl-C is heard at the next beat at the latest: asyncio's handler is Python's, and a signal
    that comes just before the loop goes to sleep does not wake it.
    """
    loop = asyncio.get_running_loop()

    def beat() -> None:
        nonlocal next_
        next_ = loop.call_later(_BEAT, beat)

    next_ = loop.call_later(_BEAT, beat)
    try:
        return await work
    finally:
        next_.cancel()
