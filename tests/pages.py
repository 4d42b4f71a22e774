"""What tests of the pages share: a server in this process, and a browser that notes complaints."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

from unprompt.tools import ui

SLOW = 600_000
"""Milliseconds that a busy machine may take for one thing; each is waited for until it is there."""


@contextlib.contextmanager
def serving(
    run: Path, systems: list[str], examples: int | None = None, host: str = "127.0.0.1"
) -> Iterator[str]:
    """The pages of a run, served to this machine: their address."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listening:
        listening.bind((host, 0))
        server = uvicorn.Server(
            uvicorn.Config(ui.app(run, None, systems, examples), log_level="error")
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.05)
        name = f"[{host}]" if ":" in host else host
        yield f"http://{name}:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def opened(chromium: Any, url: str, **options: Any) -> tuple[Any, list[str]]:
    """A page in a browser profile of its own, and all it complains of or asks other machines
    for.
    """
    page, wrong = chromium.new_context(**options).new_page(), []
    page.set_default_timeout(SLOW)
    page.on(
        "console",
        lambda said: (
            wrong.append(f"{said.text} {said.location['url']}") if said.type == "error" else None
        ),
    )
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request",
        lambda asked: (
            None if asked.url.startswith((url[:16], "data:", "blob:")) else wrong.append(asked.url)
        ),
    )
    page.goto(url)
    return page, wrong


def wait_for(page: Any, selector: str, text: str) -> None:
    page.wait_for_function(
        "([s, t]) => document.querySelector(s)?.textContent.includes(t)", arg=[selector, text]
    )


def value(page: Any, id_: str) -> str:
    return page.locator(f"#{id_} textarea").input_value()
