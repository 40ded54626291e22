"""What stands before the application: who may ask, how much, and how many at once.

Everything is refused as early as it can be: a stranger by the headers, a large body by its announced length, a request
too many before its body is read. A refusal is one JSON object {"error": one line}, and the rest of a refused body is
read and thrown away for a moment, since a client still sending would otherwise meet a closed connection, no answer.
"""

from __future__ import annotations

import asyncio
import hmac
import random
from collections.abc import Callable, Collection, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson

Scope = MutableMapping[str, Any]
Application = Callable[..., Any]
HEALTH = "/health"
_HELD = (0.2, 0.5)
"""Seconds, drawn at random, that a refusal for want of room is held back: clients that ask again at once would else
take the processor from those inside, and all at one moment."""
_HELD_AT_ONCE = 256
"""More are refused at once and their connection is closed: of ten times the load a thousand would be held."""
_THROWN_AWAY, _PATIENCE = 1 << 26, 2.0  # bytes and seconds of a refused body


@dataclass(frozen=True)
class Limits:
    body: int = 1 << 24
    """bytes"""
    inside: int = 128
    """requests being read, waiting or embedded"""
    memory: int = 1 << 28
    """bytes of bodies being read or decoded"""
    seconds: float = 20.0
    """in which a body must have arrived"""


class Gate:
    """An ASGI application around another.

    token: what `Authorization: Bearer` must say, except at /health; None: anyone, but only under one of the names
    `hosts` of this machine, so that no page in a browser reaches the service under a name of its own. retry_after:
    the seconds that a refused client is told to wait.
    """

    def __init__(self, inner: Application, *, token: str | None, hosts: Collection[str], limits: Limits,
                 retry_after: Callable[[], int]) -> None:
        self._inner, self._limits, self._retry_after = inner, limits, retry_after
        self._wanted = None if token is None else f"Bearer {token}".encode()
        self._hosts = frozenset(hosts)
        self.inside = self.answered = self.refused = self._bytes = self._held = 0

    async def __call__(self, scope: Scope, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._inner(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if (stranger := self._stranger(scope["path"], headers)) is not None:
            return await self._refuse(receive, send, headers, *stranger)
        if scope["method"] != "POST":
            return await self._guarded(scope, receive, send)
        length = _length(headers)
        if length is None:
            return await self._refuse(receive, send, headers, 400, "Content-Length must be a number")
        if length > self._limits.body:
            return await self._refuse(receive, send, headers, 413, self._too_large())
        # without a length it may be as large as any
        reserved = length if b"content-length" in headers else self._limits.body
        if self.inside >= self._limits.inside or (self.inside and self._bytes + reserved > self._limits.memory):
            return await self._no_room(receive, send, headers)
        self.inside += 1
        self._bytes += reserved
        try:
            await self._admit(scope, receive, send, headers)
        finally:
            self.inside -= 1
            self._bytes -= reserved

    async def _no_room(self, receive: Callable, send: Callable, headers: dict[bytes, bytes]) -> None:
        more = [(b"connection", b"close")]
        if self._held < _HELD_AT_ONCE:
            self._held += 1
            try:
                await asyncio.sleep(random.uniform(*_HELD))
            finally:
                self._held -= 1
            more = []
        seconds = self._retry_after()
        await self._refuse(receive, send, headers, 503, f"too many requests wait; try again in {seconds} s",
                           (b"retry-after", str(seconds).encode()), *more)

    def _stranger(self, path: str, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        if self._wanted is None:
            host = headers.get(b"host", b"").decode("latin-1")
            name = host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
            if name not in self._hosts or headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
                return 403, "this service answers under this machine's own names alone, and no other page's scripts"
            return None
        if path == HEALTH or hmac.compare_digest(headers.get(b"authorization", b""), self._wanted):
            return None
        return 401, "send the token as `Authorization: Bearer TOKEN`"

    async def _admit(self, scope: Scope, receive: Callable, send: Callable, headers: dict[bytes, bytes]) -> None:
        try:
            async with asyncio.timeout(self._limits.seconds):
                body = await self._body(receive)
        except TimeoutError:
            return await self._refuse(receive, send, {}, 408, f"the body did not arrive in {self._limits.seconds:g} s")
        if body is None:
            return  # the client has gone
        if len(body) > self._limits.body:
            return await self._refuse(receive, send, headers, 413, self._too_large())
        whole = [{"type": "http.request", "body": body, "more_body": False}]
        await self._guarded(scope, lambda: _replayed(whole, receive), send)
        self.answered += 1

    async def _body(self, receive: Callable) -> bytes | None:
        """All of it, or the first bytes past the limit."""
        chunks, total = [], 0
        while total <= self._limits.body:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunks.append(message.get("body", b""))
            total += len(chunks[-1])
            if not message.get("more_body"):
                break
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _guarded(self, scope: Scope, receive: Callable, send: Callable) -> None:
        """The inner application. What it did not foresee it has answered and logged in one line, and raises again for
        a server to print the trace."""
        with suppress(Exception):
            await self._inner(scope, receive, send)

    async def _refuse(self, receive: Callable, send: Callable, headers: dict[bytes, bytes], status: int, message: str,
                      *more: tuple[bytes, bytes]) -> None:
        self.refused += 1
        extra = (*more, (b"www-authenticate", b"Bearer")) if status == 401 else more
        await _begin(send, status, message, *extra)
        with suppress(TimeoutError):
            # a client that asks before it sends (curl, from 1 MiB on) sends nothing now
            if b"expect" not in headers:
                async with asyncio.timeout(_PATIENCE):
                    await _throw_away(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _too_large(self) -> str:
        return f"the body exceeds {self._limits.body:,} bytes; send fewer images at once"


def _length(headers: dict[bytes, bytes]) -> int | None:
    """The announced length of the body; 0 without one, None for what is no number."""
    text = headers.get(b"content-length", b"0")
    return int(text) if text.isdigit() and len(text) < 20 else None


async def _replayed(whole: list[dict[str, Any]], receive: Callable) -> dict[str, Any]:
    return whole.pop() if whole else await receive()


async def _throw_away(receive: Callable) -> None:
    seen = 0
    while seen < _THROWN_AWAY:
        message = await receive()
        seen += len(message.get("body", b""))
        if not message.get("more_body"):
            return


async def _begin(send: Callable, status: int, message: str, *more: tuple[bytes, bytes]) -> None:
    """An answer that has all its bytes but is not ended."""
    body = orjson.dumps({"error": message})
    await send({"type": "http.response.start", "status": status, "headers": [
        (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *more]})
    await send({"type": "http.response.body", "body": body, "more_body": True})
