"""Who may ask, how much, and how many at once: checked before a request reaches its route."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sgt_modules.service.metrics import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

ROUTES = ("/predict", "/v1/chat/completions", "/v1/models", "/metrics", "/openapi.json", "/health")
OPEN = "/health"
"""What needs no key."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that a service takes: bytes of a request, requests at once, and seconds for a request to arrive."""

    body_bytes: int = 2**20
    at_once: int = 32
    arriving_seconds: float = 30.0


class Guard:
    """An ASGI application around another one. Errors are written as OpenAI writes them.

    `keys` are those that a request must bring one of (`Authorization: Bearer <key>`); without any, everybody may ask.
    They are compared in constant time, all of them, by their hashes.
    """

    def __init__(self, app: App, *, keys: Collection[str], limits: Limits, metrics: Metrics) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics
        self._keys = [sha256(key.encode()).digest() for key in keys]
        self._under_way = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route, began, status = _route(scope["path"]), time.perf_counter(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._under_way += 1
        self._metrics.under_way.inc()
        try:
            await self._guarded(scope, receive, counted)
        finally:
            self._under_way -= 1
            self._metrics.under_way.dec()
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - began)

    async def _guarded(self, scope: Message, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["path"] == OPEN:
            await self._app(scope, receive, send)
        elif self._keys and not self._known(headers.get("authorization", "")):
            await refuse(send, 401, "Expected a key of this service as Authorization: Bearer <key>.", "invalid_api_key")
        elif self._under_way > self._limits.at_once:
            said = f"{self._limits.at_once} requests are under way, the most at once. Try again in a moment."
            await refuse(send, 429, said, "rate_limit_exceeded", {"retry-after": "1"})
        else:
            try:
                async with asyncio.timeout(self._limits.arriving_seconds):
                    body = await self._body(headers, receive)
            except TimeoutError:
                await refuse(send, 408, f"The request took over {self._limits.arriving_seconds:g} s.", "timeout")
                return
            if body is None:
                said = f"Expected a request of at most {self._limits.body_bytes:,} bytes."
                await refuse(send, 413, said, "request_too_large")
            else:
                await self._app(scope, _replayed(body, receive), send)

    def _known(self, authorization: str) -> bool:
        kind, _, key = authorization.partition(" ")
        brought = sha256(key.strip().encode("latin-1")).digest()  # the header's own bytes
        same = [hmac.compare_digest(brought, each) for each in self._keys]
        return kind.lower() == "bearer" and any(same)

    async def _body(self, headers: dict[str, str], receive: Receive) -> bytes | None:
        """The request's body; None where it is larger than it may be."""
        most, told = self._limits.body_bytes, headers.get("content-length", "0")
        if told.isdigit() and int(told) > most:
            return None
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message["type"] == "http.request" and message.get("more_body", False)
            if size > most:
                return None
        return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """What hands out the body once, and then waits for whatever comes."""
    left = [body]

    async def replayed() -> Message:
        return {"type": "http.request", "body": left.pop(), "more_body": False} if left else await receive()

    return replayed


def _route(path: str) -> str:
    return path if path in ROUTES else "other"


def error_content(message: str, code: str) -> dict[str, object]:
    """An error as OpenAI's clients read it."""
    return {"error": {"message": message, "type": code, "param": None, "code": code}}


async def refuse(send: Send, status: int, message: str, code: str, headers: dict[str, str] | None = None) -> None:
    """Answer with an error."""
    body = json.dumps(error_content(message, code)).encode()
    told = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in told.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
