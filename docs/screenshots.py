"""Pictures of the quickstart's report and of both pages, for these docs: `python
docs/screenshots.py RUN`, with Chromium and playwright at hand.

RUN is a finished run, `runs/quickstart` of `unprompt demo` say. The ratings shown are nobody's:
they go to a copy of the run's small files.
"""

from __future__ import annotations

import shutil
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import uvicorn
from playwright.sync_api import sync_playwright

from unprompt.tools import ui

HERE = Path(__file__).parent
PATIENCE = 300_000


def main(run: Path) -> None:
    chromium = next(
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    )
    with (
        tempfile.TemporaryDirectory() as temporary,
        socket.socket() as listening,
        sync_playwright() as playwright,
    ):
        copy = Path(temporary) / run.resolve().name
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoints", "rating*", ".lock"))
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(ui.app(copy, None, examples=20), log_level="error"))
        threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True).start()
        while not server.started:
            time.sleep(0.1)
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_context(
            color_scheme="light", viewport={"width": 1120, "height": 780}
        ).new_page()
        page.set_default_timeout(PATIENCE)
        if (copy / "report.html").is_file():
            page.goto((copy / "report.html").as_uri())
            page.screenshot(
                path=HERE / "report.png",
                clip={"x": 0, "y": 0, "width": 1120, "height": 1100},
                full_page=True,
            )
        page.goto(f"{address}/try/")
        take_try(page)
        page.goto(f"{address}/rate/")
        page.locator("#name input, #name textarea").fill("Ann")
        page.locator("#start").click()
        for done, key in enumerate("4524"):
            wait_for(page, "#progress", f"{done} of ")
            page.keyboard.press(key)
        wait_for(page, "#progress", "4 of ")
        page.screenshot(path=HERE / "ui_rate.png")
        server.should_exit = True


def take_try(page: Any) -> None:
    """The first held-out example, asked of every system."""
    page.locator("#example input").click()
    page.get_by_role("option").first.click()
    page.wait_for_function("document.querySelector('#field-0 textarea').value != ''")
    page.locator("#ask").click()
    page.wait_for_function(
        "[...document.querySelectorAll('.figures')].every(e => e.textContent.includes('written'))"
    )
    page.screenshot(path=HERE / "ui_try.png")


def wait_for(page: Any, selector: str, text: str) -> None:
    page.wait_for_function(
        "([s, t]) => document.querySelector(s)?.textContent.includes(t)", arg=[selector, text]
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
