"""A server that speaks OpenAI's chat completions for a generator of this process: real HTTP, real tokens and cuts.

Every fifth reply is one that a model of another family might write: untagged, thoughts only, a lost bracket, a NUL.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from socket import socket
from typing import Any

import httpx
from scripted_server import ScriptedServer

from sgt_modules.generator import SupplementGenerator
from sgt_modules.samples import Sample, SampleRequest

ODD = (
    "",
    "<think>Which table?</think>",
    "Mind the units.",
    "[Cot]: Think\0 first. [cot] Think first.",
    "<thinking>Which",
    "background] A term may have its own rule.",
    "[none]",
)


class EmbeddedServer(ScriptedServer):
    """Samples at temperature 1, with a seed of its own for each request, or greedily; remembers what it wrote."""

    def __init__(self, generator: SupplementGenerator, *, temperature: float = 1.0, odd: bool = True) -> None:
        super().__init__(lambda text: text)
        self.generator, self.temperature, self.odd = generator, temperature, odd
        self.written: list[tuple[str, Sample]] = []
        self._numbers = itertools.count()

    def answered(self, route: str, body: dict[str, Any], headers: Mapping[str, str]) -> tuple[int, object]:
        """The completion for a chat of one user's message."""
        number, prompt = next(self._numbers), body["messages"][-1]["content"]
        self.requests.append(body)
        if self.odd and number % 5 == 0:
            sample = Sample(ODD[number // 5 % len(ODD)], 1, 1, cut=number % 10 == 0)
        else:
            limit = body.get("max_tokens")
            asked = SampleRequest(prompt, number, temperature=self.temperature, max_new_tokens=limit)
            sample = self.generator.engine.ask(asked)
        self.written.append((prompt, sample))
        choice = {
            "index": 0,
            "finish_reason": "length" if sample.cut else "stop",
            "message": {"role": "assistant", "content": sample.text},
        }
        usage = {"prompt_tokens": sample.prompt_tokens, "completion_tokens": sample.tokens, "total_tokens": 0}
        about = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
        return 200, {**about, "choices": [choice], "usage": usage}


@contextmanager
def transformers_serving(log: Path) -> Iterator[str]:
    """The address of `transformers serve` in a process of its own, which ends with the block."""
    with closing(socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", "--host", "127.0.0.1", "--port", str(port)]
    with (
        log.open("wb") as out,
        subprocess.Popen([*command, "--device", "cpu", "--model-timeout", "-1"], stdout=out, stderr=out) as server,
    ):
        try:
            until = time.monotonic() + 120
            while not _is_up(f"http://127.0.0.1:{port}/health"):
                if time.monotonic() > until or server.poll() is not None:
                    raise RuntimeError(f"transformers serve did not start: {log.read_text()[-2000:]}")
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.kill()


def _is_up(health: str) -> bool:
    try:
        return httpx.get(health).is_success
    except httpx.TransportError:
        return False
