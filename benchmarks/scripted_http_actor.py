"""A scripted actor behind HTTP: a server in its own process that answers every chat completion after 200 ms.

Its answers are a script; benchmarks use it to measure the request and the response. `NUMBER` in the script becomes a
digit that depends on the request's text alone, so that a metric may tell right answers from wrong ones.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import dspy
import httpx
from aiohttp import web

LATENCY = 0.2
NUMBER = "NUMBER"
MODEL = "gpt-4.1-mini"
"""A name with a price in DSPy, like a paid actor's: for other names DSPy searches its whole list at each call."""


@contextmanager
def served(reply: str) -> Iterator[str]:
    """Run a server that answers every request with `reply` after `LATENCY` seconds; yield its base address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, __file__, str(port), reply])
    address = f"http://127.0.0.1:{port}/v1"
    try:
        while True:
            try:
                httpx.get(f"{address}/models").raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait()


def actor(address: str) -> dspy.LM:
    """Return the actor as a user would configure it, without DSPy's cache."""
    return dspy.LM(f"openai/{MODEL}", api_base=address, api_key="none", cache=False)


def main(port: int, reply: str) -> None:
    """Serve until terminated."""
    body = {
        "id": "scripted",
        "object": "chat.completion",
        "created": 0,
        "model": MODEL,
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }

    async def answer(request: web.Request) -> web.Response:
        digit = str(zlib.crc32(await request.read()) % 10)
        message = {"role": "assistant", "content": reply.replace(NUMBER, digit)}
        await asyncio.sleep(LATENCY)
        return web.json_response({**body, "choices": [{"index": 0, "finish_reason": "stop", "message": message}]})

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", answer), web.get("/v1/models", models)])
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
