"""Who comes in, and what the browser may fetch: a token in the link and then in a cookie, and
nothing from outside.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

_COOKIE = "unprompt_token"
_POLICY = (
    b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' data: blob:;"
    b" frame-ancestors 'none'; form-action 'self'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


class Guard:
    """ASGI application around another.

    Args:
        inner: What is guarded.
        token: None: everybody comes in.
    """

    def __init__(self, inner: Any, token: str | None) -> None:
        self._inner, self._token = inner, token

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Let a request in, send it on with a cookie, or refuse it."""

        async def sent(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        if scope["type"] == "lifespan" or self._token is None or self._is(self._cookie(scope)):
            await self._inner(scope, receive, sent)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif self._is(parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]):
            cookie = f"{_COOKIE}={self._token}; Path=/; HttpOnly; SameSite=Lax".encode()
            here = (
                b"/" if scope["path"].startswith("//") else scope["path"].encode("ascii", "replace")
            )
            await _respond(sent, 303, [(b"location", here), (b"set-cookie", cookie)], b"")
        else:
            text = b"This page needs the whole link, with its token."
            await _respond(sent, 403, [(b"content-type", b"text/plain")], text)

    def _is(self, given: str) -> bool:
        assert self._token is not None
        return secrets.compare_digest(given.encode(), self._token.encode())

    @staticmethod
    def _cookie(scope: MutableMapping[str, Any]) -> str:
        cookies: SimpleCookie = SimpleCookie()
        for name, value in scope["headers"]:
            if name == b"cookie":
                with contextlib.suppress(CookieError):
                    cookies.load(value.decode("latin-1"))
        return cookies[_COOKIE].value if _COOKIE in cookies else ""


async def _respond(send: Any, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    headers = [*headers, (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
