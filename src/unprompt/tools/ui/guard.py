"""Who comes in, and what the browser may fetch: a token in the link and then in a cookie, and
nothing from outside, nor for a page from elsewhere.
"""

from __future__ import annotations

import contextlib
import ipaddress
import secrets
from collections.abc import MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

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


def loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """ASGI application around another. A page of another origin gets nothing.

    Args:
        inner: What is guarded.
        token: None: whoever asks for this machine by a name of its own comes in.
    """

    def __init__(self, inner: Any, token: str | None) -> None:
        self._inner, self._token = inner, token

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Let a request in, send it on with a cookie, or refuse it."""

        async def sent(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        refused = None if scope["type"] == "lifespan" else self._refused(scope)
        if refused and scope["type"] == "http":
            await _respond(sent, refused[0], [(b"content-type", b"text/plain")], refused[1])
        elif refused:
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "lifespan" or self._token is None or self._is(self._cookie(scope)):
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

    def _refused(self, scope: MutableMapping[str, Any]) -> tuple[int, bytes] | None:
        """Why a request is not for these pages, as a status and a text."""
        host, origin = (
            [v for n, v in scope["headers"] if n == name] for name in (b"host", b"origin")
        )
        asked = _netloc(b"//" + host[0]) if len(host) == 1 else None
        if asked is None or (self._token is None and not loopback(asked[0])):
            return 400, b"This page answers to this machine's own names only."
        if any(_netloc(each) != asked for each in origin):
            return 403, b"This page answers to its own pages only."
        return None

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


def _netloc(url: bytes) -> tuple[str, int | None] | None:
    """Host (of IPv6 without brackets) and port of an address; None if it has none."""
    try:
        parts = urlsplit(url.decode("latin-1"))
        return (parts.hostname, parts.port) if parts.hostname else None
    except ValueError:
        return None


async def _respond(send: Any, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    headers = [*headers, (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
