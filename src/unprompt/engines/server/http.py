"""One endpoint over HTTP: asked again where that may help, with its key in no message."""

from __future__ import annotations

import asyncio
import email.utils
import json
import logging
import os
import random
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Self
from urllib.request import proxy_bypass

import httpx2

from unprompt.messages import UserError
from unprompt.recipe import Server
from unprompt.store.files import first_line

# its debug lines hold headers, which may hold the key
logging.getLogger("httpcore2").setLevel(logging.INFO)
_AGAIN = (408, 409, 429)
"""Refusals, beside 5xx, that may be another answer the next time."""
_LONGEST_WAIT = 60.0
_LONGEST_RETRY_AFTER = 600.0
"""Seconds; a server that wants to be left alone for longer ends the run."""
_LONGEST_REPLY = 2**26
"""Bytes."""


class Endpoint:
    """A server, while it is asked.

    Args:
        server: The recipe's section.
        where: Its key in the recipe.
        sleep: Waits so many seconds.

    Raises:
        UserError: The environment lacks the key.
    """

    def __init__(
        self, server: Server, where: str, sleep: Callable[[float], Awaitable[object]]
    ) -> None:
        self._server, self._where, self._sleep = server, where, sleep
        self._key = key(server, where)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx2.Limits(
            max_connections=server.concurrency, max_keepalive_connections=server.concurrency
        )
        try:  # what runs on this machine, or stands in NO_PROXY, is behind no proxy
            host = httpx2.URL(server.url).host
            here = host in ("localhost", "127.0.0.1", "::1") or proxy_bypass(host)
            self._client = httpx2.AsyncClient(
                timeout=server.timeout, headers=headers, limits=limits, trust_env=not here
            )
        except (ImportError, ValueError, httpx2.InvalidURL) as error:
            raise UserError(
                "the proxy that the environment names (ALL_PROXY, HTTPS_PROXY, HTTP_PROXY) can't be"
                f" used: {first_line(error)}",
                where=where,
                fix="for socks5:// install socksio, or put the server's host into NO_PROXY",
            ) from None

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._client.__aexit__(*error)

    async def post(self, body: dict[str, Any], where: str, halt: asyncio.Event) -> Any:
        """The reply's JSON, however often that takes; None if something else stopped the run
        meanwhile.
        """
        tries, last, wait = self._server.retries + 1, "", 0.0
        for attempt in range(tries):
            if attempt:
                await self._rest(wait, halt)
            if halt.is_set():
                return None
            wait = min(_LONGEST_WAIT, 2.0**attempt) * random.uniform(0.5, 1.0)
            try:
                return await self._reply(body, f"{self._where}, {where}")
            except _AnotherTime as trouble:
                last, wait = str(trouble), max(wait, trouble.seconds)
        raise UserError(
            f"no answer after {tries} {'try' if tries == 1 else 'tries'}; at last {last}",
            where=f"{self._where}, {where}",
            fix="check the server, then run again: what is answered is kept",
        )

    async def _rest(self, seconds: float, halt: asyncio.Event) -> None:
        """Wait, but no longer than until something else stops the run."""
        waits = [asyncio.ensure_future(self._sleep(seconds)), asyncio.ensure_future(halt.wait())]
        _, unfinished = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for future in unfinished:
            future.cancel()

    async def _reply(self, body: dict[str, Any], where: str) -> Any:
        """The reply's JSON, asked for once.

        Raises:
            _AnotherTime: There may be one the next time.
            UserError: There will be none.
        """
        path = "/chat/completions" if self._server.api == "chat" else "/completions"
        try:
            async with asyncio.timeout(self._server.timeout):
                status, headers, text = await self._sent(f"{self._server.url}{path}", body)
        except (TimeoutError, httpx2.TimeoutException):
            raise _AnotherTime(f"nothing within {self._server.timeout:g} s") from None
        except httpx2.HTTPError as error:
            raise _AnotherTime(self._redacted(f"{type(error).__name__}: {error}")[:200]) from None
        except httpx2.InvalidURL as error:
            raise UserError(
                f"no address: {error}",
                where=f"{self._where}.url",
                fix="write it as http://localhost:8000/v1",
            ) from None
        shown = self._redacted(text)
        if status in _AGAIN or status >= 500:
            seconds = _retry_after(headers.get("retry-after"), headers.get("date"), where)
            raise _AnotherTime(f"HTTP {status}: {shown[:200]}", seconds)
        if status != 200:
            closed = status in (401, 403)
            mend = "mend the prompt or server's settings; what is answered is kept"
            raise UserError(
                f"the server refused: HTTP {status}: {shown[:300]}",
                where=where,
                fix="check the key in the environment" if closed else mend,
            )
        try:
            reply = json.loads(text)
            # a letter can be written in several ways
            plain = text + json.dumps(reply, ensure_ascii=False) if self._key else ""
        except (ValueError, RecursionError):
            raise _AnotherTime(f"half an answer, or no JSON: {shown[:100]!r}") from None
        if self._key and self._key in plain:
            raise UserError(
                "the server's answer holds the API key", where=where, fix="do not use this server"
            )
        return {} if reply is None else reply

    async def _sent(self, url: str, body: dict[str, Any]) -> tuple[int, httpx2.Headers, str]:
        got = bytearray()
        async with self._client.stream("POST", url, json=body) as response:
            async for chunk in response.aiter_bytes():
                got += chunk
                if len(got) > _LONGEST_REPLY:
                    raise UserError(
                        f"the server's reply is over {_LONGEST_REPLY >> 20} MiB",
                        where=url,
                        fix="check the server",
                    )
        return response.status_code, response.headers, got.decode("utf-8", "replace")

    def _redacted(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


class _AnotherTime(Exception):
    """Trouble that may pass.

    Args:
        why: In words.
        seconds: That the server wants to be left alone.
    """

    def __init__(self, why: str, seconds: float = 0.0) -> None:
        super().__init__(why)
        self.seconds = seconds


def _retry_after(wanted: str | None, date: str | None, where: str) -> float:
    """Seconds that the server wants to be left alone: a number, or a date, which is held against
    the server's own clock if it tells it.
    """
    if not wanted:
        return 0.0
    if re.fullmatch(r"\d{1,9}(\.\d+)?", wanted.strip()):
        seconds = float(wanted)
    else:
        try:
            seconds = max(0.0, _moment(wanted) - (_moment(date) if date else time.time()))
        except (ValueError, TypeError, OverflowError):
            return 0.0
    if seconds > _LONGEST_RETRY_AFTER:
        raise UserError(
            f"the server wants to be asked again in {seconds:.0f} s",
            where=where,
            fix="run again then: what is answered is kept",
        )
    return seconds


def _moment(date: str) -> float:
    return email.utils.parsedate_to_datetime(date).timestamp()


def key(server: Server, where: str) -> str:
    """The API key out of the environment; empty if the recipe names none.

    Raises:
        UserError: The environment lacks it, or it is such as no HTTP header can carry.
    """
    if server.api_key_env is None:
        return ""
    value = os.environ.get(server.api_key_env, "").strip()
    if not value or not (value.isascii() and value.isprintable()):
        why = "holds letters that no key has" if value else "is not set"
        raise UserError(
            f"the environment variable {server.api_key_env} {why}",
            where=f"{where}.api_key_env",
            fix="set it to the server's key",
        )
    return value
