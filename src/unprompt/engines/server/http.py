"""One endpoint over HTTP: asked again where that may help, with its key in no message."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import json
import logging
import os
import random
import re
import time
import zlib
from collections.abc import Awaitable, Callable
from typing import Any, Self, TypeVar
from urllib.request import proxy_bypass

import httpx2

from unprompt.engines.server import replies
from unprompt.engines.server.ledger import Attempt
from unprompt.engines.server.replies import Again
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
"""Bytes, whatever was asked."""
_OTHER_BYTES, _TOKEN_BYTES, _ENTRY_BYTES = 2**20, 1024, 512
"""What a reply may have in all, for each token, and for each alternative of a token."""
_TOGETHER = 2**28
"""Bytes of replies that come in at once; one that has more than its share comes in alone."""
_PERHAPS_BILLED = (200, 408, 502, 504, 520, 522, 524)
"""Statuses that don't say that nothing was done: a gateway heard nothing from what is behind it."""
_Read = TypeVar("_Read")


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
        headers = {"Accept-Encoding": "gzip, deflate"}
        headers |= {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._alone = asyncio.Lock()
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

    async def post(
        self,
        body: dict[str, Any],
        where: str,
        attempt: Callable[[], contextlib.AbstractAsyncContextManager[Attempt | None]],
        read: Callable[[Any, Attempt], _Read],
        halt: asyncio.Event,
    ) -> _Read | None:
        """What `read` makes of the reply's JSON, however often that takes; None if something else
        stopped the run meanwhile.

        Args:
            where: Whose prompt it is.
            attempt: Room in the budget for one request.
            read: Raises `Again` where the reply may be another one the next time.
        """
        tries, last, wait = self._server.retries + 1, "", 0.0
        for number in range(tries):
            if number:
                await self._rest(wait, halt)
            wait = min(_LONGEST_WAIT, 2.0**number) * random.uniform(0.5, 1.0)
            try:
                async with attempt() as sent:
                    if sent is None:
                        return None
                    return read(await self._reply(body, f"{self._where}, {where}", sent), sent)
            except Again as trouble:
                last, wait = trouble.what, max(wait, trouble.seconds)
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

    async def _reply(self, body: dict[str, Any], where: str, sent: Attempt) -> Any:
        """The reply's JSON, asked for once.

        Raises:
            Again: There may be one the next time.
            UserError: There will be none.
        """
        path = "/chat/completions" if self._server.api == "chat" else "/completions"
        try:
            async with asyncio.timeout(self._server.timeout):
                status, headers, raw = await self._sent(f"{self._server.url}{path}", body)
        except (TimeoutError, httpx2.TimeoutException) as error:
            if isinstance(error, httpx2.ConnectTimeout | httpx2.PoolTimeout):
                sent.refused()
            raise Again(f"nothing within {self._server.timeout:g} s") from None
        except httpx2.HTTPError as error:
            if isinstance(error, httpx2.ConnectError | httpx2.UnsupportedProtocol):
                sent.refused()
            raise Again(self._redacted(f"{type(error).__name__}: {error}")[:200]) from None
        except httpx2.InvalidURL as error:
            sent.refused()
            raise UserError(
                f"no address: {error}",
                where=f"{self._where}.url",
                fix="write it as http://localhost:8000/v1",
            ) from None
        text = raw.decode("utf-8", "replace")
        reply = self._parsed(raw, where) if status == 200 else None
        refused = replies.refusal(reply)
        if status == 200 and refused is None:
            return {} if reply is None else reply
        if refused:  # an error that came as an answer
            status, text = refused
        if status not in _PERHAPS_BILLED and not (refused and any(replies.used(reply))):
            sent.refused()
        shown = self._redacted(text)
        if status in _AGAIN or status >= 500:
            seconds = _retry_after(headers.get("retry-after"), headers.get("date"), where)
            raise Again(f"HTTP {status}: {shown[:200]}", seconds)
        closed = status in (401, 403)
        mend = "mend the prompt or server's settings; what is answered is kept"
        raise UserError(
            f"the server refused: HTTP {status}: {shown[:300]}",
            where=where,
            fix="check the key in the environment" if closed else mend,
        )

    def _parsed(self, raw: bytes, where: str) -> Any:
        """The JSON of an answer."""
        try:
            text = raw.decode()
            reply = json.loads(text)
            # a letter can be written in several ways
            plain = text + json.dumps(reply, ensure_ascii=False) if self._key else ""
        except UnicodeDecodeError:
            raise Again("the reply is not UTF-8") from None
        except (ValueError, RecursionError):
            shown = self._redacted(raw[:400].decode("utf-8", "replace"))
            raise Again(f"half an answer, or no JSON: {shown[:100]!r}") from None
        if self._key and self._key in plain:
            raise UserError(
                "the server's answer holds the API key", where=where, fix="do not use this server"
            )
        return reply

    async def _sent(self, url: str, body: dict[str, Any]) -> tuple[int, httpx2.Headers, bytes]:
        """Status, headers and unpacked body. A long reply comes in alone, so that those on their
        way together take little memory.
        """
        got, most = bytearray(), self._most(body)
        async with self._client.stream("POST", url, json=body) as response, _Held() as held:
            unpacked = _unpacked(response.headers.get("content-encoding", ""), url)
            async for chunk in response.aiter_raw():
                got += unpacked(chunk, most + 1 - len(got))
                if len(got) > most:
                    raise UserError(
                        f"the server's reply is over {most:,} bytes, for an answer of at most"
                        f" {self._longest(body)} tokens",
                        where=url,
                        fix="check the server",
                    )
                if len(got) > _TOGETHER // self._server.concurrency:
                    await held.take(self._alone)
        return response.status_code, response.headers, bytes(got)

    def _longest(self, body: dict[str, Any]) -> int:
        return body.get(self._server.limit, 0)

    def _most(self, body: dict[str, Any]) -> int:
        """Bytes that the reply to this may have."""
        top = body.get("top_logprobs") or body.get("logprobs") or 0
        token = _TOKEN_BYTES + _ENTRY_BYTES * (1 + top if top else 0)
        return min(_LONGEST_REPLY, _OTHER_BYTES + token * self._longest(body))

    def _redacted(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


class _Held:
    """A lock that may be taken on the way."""

    def __init__(self) -> None:
        self._lock: asyncio.Lock | None = None

    async def take(self, lock: asyncio.Lock) -> None:
        """Wait for it, once."""
        if self._lock is None:
            await lock.acquire()
            self._lock = lock

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._lock:
            self._lock.release()


def _unpacked(encoding: str, url: str) -> Callable[[bytes, int], bytes]:
    """Unpacks a piece of a body, to at most so many bytes: a few that were sent may be gigabytes.

    Raises:
        UserError: It is packed in a way that was not asked for.
    """
    if encoding.strip().lower() in ("", "identity"):
        return lambda chunk, most: chunk[:most]
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        raise UserError(
            f"the server packs its replies as {encoding[:40]!r}", where=url, fix="mend the server"
        )
    reader = zlib.decompressobj(zlib.MAX_WBITS | 32)

    def unpack(chunk: bytes, most: int) -> bytes:
        try:
            return reader.decompress(chunk, max(1, most))
        except zlib.error as error:
            raise Again(f"a broken reply: {first_line(error)}") from None

    return unpack


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
