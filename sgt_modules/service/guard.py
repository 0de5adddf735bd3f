"""Check a request's key, size and time, and the number of requests at once, before it reaches its route."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from starlette.responses import JSONResponse

from sgt_modules.service.error_answers import error_content
from sgt_modules.service.metrics import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

ROUTES = ("/", "/docs", "/predict", "/v1/chat/completions", "/v1/models", "/metrics", "/openapi.json", "/health")
OPEN = "/health"
"""The route that needs no key."""

PAGES = ("/", "/docs")
"""The routes that a browser opens; it asks its user for the key as the password."""

access = logging.getLogger("sgt_modules.service.access")
"""Logs a line for each request: client, route, status, seconds. No query, header or body."""


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """The limits of a service: bytes of a request, requests at once, and seconds until a request has arrived."""

    body_bytes: int = 2**20
    at_once: int = 32
    arriving_seconds: float = 30.0


class Guard:
    """An ASGI application around another one. Errors are written as OpenAI writes them.

    A request must bring one of the `keys` (`Authorization: Bearer <key>`); without keys, every request is accepted. The
    hashes of all keys are compared in constant time. A page also accepts a key as the password of a browser's login
    (Basic), and refuses a form that another site sends.
    """

    def __init__(self, app: App, *, keys: Collection[str], limits: RequestLimits, metrics: Metrics) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics
        self._keys = [sha256(key.encode()).digest() for key in keys]
        self._under_way = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in ROUTES else "other"
        client = scope.get("client")
        began, status = time.perf_counter(), 500

        async def send_and_note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._under_way += 1
        self._metrics.under_way.inc()
        try:
            await self._handle(scope, receive, send_and_note_status)
        finally:
            self._under_way -= 1
            self._metrics.under_way.dec()
            self._metrics.requests.labels(route, str(status)).inc()
            took = time.perf_counter() - began
            self._metrics.seconds.labels(route).observe(took)
            address, path = client[0] if client else "-", printable(scope["path"])
            access.info("%s %s %s %d %.3f s", address, scope["method"], path, status, took)

    async def _handle(self, scope: Message, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["path"] == OPEN:
            await self._app(scope, receive, send)
        elif self._keys and not self._has_key(headers.get("authorization", ""), page=scope["path"] in PAGES):
            message = "Expected a key of this service as Authorization: Bearer <key>."
            login = {"www-authenticate": 'Basic realm="a key of this service is the password", charset="UTF-8"'}
            refused = refusal(401, message, "invalid_api_key", login if scope["path"] in PAGES else None)
            await refused(scope, receive, send)
        elif scope["path"] in PAGES and _is_cross_site(headers):
            message = "Expected the form of this service's own page, not another site's."
            await refusal(403, message, "forbidden")(scope, receive, send)
        elif self._under_way > self._limits.at_once:
            message = f"{self._limits.at_once} requests are under way, the most at once. Try again in a moment."
            await refusal(429, message, "rate_limit_exceeded", {"retry-after": "1"})(scope, receive, send)
        else:
            try:
                async with asyncio.timeout(self._limits.arriving_seconds):
                    body = await self._read_body(headers, receive)
            except TimeoutError:
                message = f"The request took over {self._limits.arriving_seconds:g} s."
                await refusal(408, message, "timeout")(scope, receive, send)
                return
            if body is None:
                message = f"Expected a request of at most {self._limits.body_bytes:,} bytes."
                await refusal(413, message, "request_too_large")(scope, receive, send)
            else:
                await self._app(scope, _replay(body, receive), send)

    def _has_key(self, authorization: str, *, page: bool) -> bool:
        kind, _, text = authorization.partition(" ")
        key = text.strip().encode("latin-1")  # the header's own bytes
        if page and kind.lower() == "basic":
            kind, key = "bearer", _password(key)
        brought = sha256(key).digest()
        same = [hmac.compare_digest(brought, each) for each in self._keys]
        return kind.lower() == "bearer" and any(same)

    async def _read_body(self, headers: dict[str, str], receive: Receive) -> bytes | None:
        """Read the request's body; None if it is too large."""
        most, length = self._limits.body_bytes, headers.get("content-length", "0")
        if length.isdigit() and int(length) > most:
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


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body once, and then passes on what comes."""
    left = [body]

    async def replayed() -> Message:
        return {"type": "http.request", "body": left.pop(), "more_body": False} if left else await receive()

    return replayed


def _password(login: bytes) -> bytes:
    try:
        return base64.b64decode(login, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


def _is_cross_site(headers: dict[str, str]) -> bool:
    """Whether a page of another site sends the request, as its browser says."""
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2] != headers.get("host")


def printable(text: str, most: int = 120) -> str:
    """Clean a text from outside for a log line: shorten it, and replace control characters.

    >>> printable("/a\\nGET /b\\x1b[2J")
    '/a?GET /b?[2J'
    """
    return "".join(each if each.isprintable() else "?" for each in text[:most])


def refusal(status: int, message: str, code: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return a response with an error."""
    return JSONResponse(error_content(message, code), status, headers)
