"""`unprompt ui RUN`: two small pages in the browser, Try and Rate, served to this machine alone
unless told otherwise.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unprompt.messages import UserError, say
from unprompt.tools.ui.guard import Guard, loopback


def app(
    folder: Path, token: str | None, systems: Sequence[str] = (), examples: int | None = None
) -> Any:
    """Both pages as one ASGI application: Try under `/try`, Rate under `/rate`.

    Args:
        folder: A finished run's.
        token: Who comes without it is refused; None: nobody is, but only requests to this machine's
            own names are answered.
        systems: Whose answers are rated; all, if empty.
        examples: How many examples of each context are rated; see `chosen.choices`.

    Raises:
        UserError: Gradio is not installed, or there is no finished run. A run without written
            answers has no page Rate.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio as gr
    except ImportError:
        raise UserError(
            "the pages need Gradio", where="unprompt ui", fix="pip install 'unprompt[ui]'"
        ) from None
    from fastapi import FastAPI
    from fastapi.responses import RedirectResponse, Response
    from gradio import themes

    theme = themes.Base(
        primary_hue="blue",
        neutral_hue="slate",
        radius_size="sm",
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "Arial", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    how: dict[str, Any] = {"footer_links": [], "show_error": False, "ssr_mode": False}
    served = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    for path, page in _pages(folder, systems, examples).items():
        gr.mount_gradio_app(served, path=path, theme=theme, max_file_size=1, **page, **how)
    served.add_api_route("/favicon.ico", lambda: Response(status_code=204), include_in_schema=False)
    served.add_api_route("/", lambda: RedirectResponse("/try/"), include_in_schema=False)
    return Guard(served, token)


def _pages(folder: Path, systems: Sequence[str], examples: int | None) -> dict[str, dict[str, Any]]:
    """Path -> the page, and what stands in its head."""
    from unprompt import recipe
    from unprompt.store.folder import RunDir
    from unprompt.tools.live import Live
    from unprompt.tools.rating import chosen, rate, rubric
    from unprompt.tools.ui import rating, trying

    live = Live(folder)
    plan = recipe.load(RunDir(folder).recipe)
    try:
        key = rate.blinded(folder, systems, examples, *rubric.scale(plan))
    except UserError as error:
        if error.what != rate.NO_ANSWERS:
            raise
        say(f"note: no page Rate: {error.what}")
        return {"/try": {"blocks": trying.page(live, rated=False), "css": trying.CSS}}
    say(f"{len(key['rows'])} responses to rate{chosen.said(key)}")
    by = rubric.lines(plan, key["low"], key["high"])
    page = rating.page(live.name, key, folder / rate.BALLOTS, by)
    return {
        "/try": {"blocks": trying.page(live, rated=True), "css": trying.CSS},
        "/rate": {"blocks": page, "css": rating.CSS, "head": rating.KEYS},
    }


def serve(folder: Path, host: str, port: int, systems: Sequence[str], examples: int | None) -> None:
    """Serve both pages until stopped, and print their links. Whoever can reach more than this
    machine needs a token, made here.

    Raises:
        UserError: See `app`; or the port is taken.
    """
    token = None if loopback(host) else secrets.token_urlsafe(24)
    served = app(folder, token, systems, examples)
    import uvicorn

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            raise UserError(
                f"can't listen there: {error.strerror}",
                where=f"{host}:{port}",
                fix="choose another --port or --host (0 finds a free port)",
            ) from None
        name = f"[{host}]" if ":" in host else host
        if host in ("0.0.0.0", "::"):
            name = socket.gethostname()
        address = f"http://{name}:{listening.getsockname()[1]}"
        query = f"?token={token}" if token else ""
        say(f"{address}/try/{query}   ask the systems")
        say(f"{address}/rate/{query}   rate their answers, blinded")
        if token:
            say(
                "the token is the key to these pages: whoever has the link comes in. The connection"
                " is not encrypted."
            )
        ratings = folder / "ratings.sqlite"
        say(f"ratings are kept in {ratings}; then: unprompt rate {folder} --read {ratings}")
        uvicorn.Server(uvicorn.Config(served, log_level="warning")).run(sockets=[listening])
