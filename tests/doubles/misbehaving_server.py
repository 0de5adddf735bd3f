"""A server of OpenAI's chat completions that misbehaves on purpose, down to the bytes: cut, hang, nonsense, refusal."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import dspy
from scripted import reply

KEY = "sk-test-0123456789abcdefghij"
"""The key that every LM of these tests sends."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What comes back over the wire: a status, headers and a body, of which no more than `sent` bytes arrive.

    `hangs`: nothing comes back, and the connection stays open.
    """

    status: int = 200
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    sent: int | None = None
    hangs: bool = False

    def wire(self) -> bytes:
        """The whole answer as HTTP/1.1 has it."""
        about = {
            "Content-Type": "application/json",
            "Content-Length": str(len(self.body.encode())),
            "Connection": "close",
        }
        lines = [
            f"HTTP/1.1 {self.status} -",
            *(f"{name}: {value}" for name, value in {**about, **self.headers}.items()),
        ]
        return "\r\n".join([*lines, "", self.body]).encode()


def completion(content: str | None, **more: Any) -> str:
    """A chat completion's JSON; `more` overrides its choice (`finish_reason`) and its message (`refusal`)."""
    choice = {"index": 0, "finish_reason": more.pop("finish_reason", "stop")}
    message = {"role": "assistant", "content": content, **more}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    about = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "usage": usage}
    return json.dumps({**about, "choices": [{**choice, "message": message}]})


def error(message: str, code: str | None = None, kind: str = "invalid_request_error") -> str:
    """OpenAI's way to say that something went wrong."""
    return json.dumps({"error": {"message": message, "type": kind, "code": code, "param": None}})


NOTHING = {"prompt_tokens": 3, "completion_tokens": 0, "total_tokens": 3}
NOW = {"Retry-After": "0"}
ANSWER = completion(reply(answer="4"))

FAULTS: Mapping[str, Fault] = {
    "429 with Retry-After": Fault(429, error("Rate limit reached.", "rate_limit_exceeded"), NOW),
    "429 without Retry-After": Fault(429, error("Rate limit reached.", "rate_limit_exceeded")),
    "429, quota used up": Fault(429, error("You exceeded your current quota.", "insufficient_quota")),
    "500": Fault(500, error("The server had an error.", kind="server_error")),
    "503": Fault(503, "<html>Service Unavailable</html>"),
    "cut before the body": Fault(200, ANSWER, sent=0),
    "cut in the middle of the body": Fault(200, ANSWER, sent=180),
    "no JSON": Fault(200, "<html>Welcome to the proxy</html>"),
    "JSON of the wrong shape": Fault(200, '{"hello": ["world"]}'),
    "a JSON list": Fault(200, "[1, 2, 3]"),
    "no choices": Fault(200, json.dumps({**json.loads(ANSWER), "choices": [], "usage": NOTHING})),
    "an error with status 200": Fault(200, error("Upstream is down.", "502")),
    "nothing written": Fault(200, json.dumps({**json.loads(completion("")), "usage": NOTHING})),
    "refusal": Fault(200, completion(None, refusal="I cannot help with that.")),
    "content filter": Fault(200, completion(None, finish_reason="content_filter")),
    "empty answer": Fault(200, completion("")),
    "null answer": Fault(200, completion(None)),
    "an answer without its fields": Fault(200, completion("I would rather talk about the weather.")),
    "hang": Fault(hangs=True),
    "wrong key": Fault(401, error(f"Incorrect API key provided: {KEY}.", "invalid_api_key")),
    "no access": Fault(403, error("You may not use this model.", "permission_denied")),
    "no such model": Fault(404, error("The model `m` does not exist.", "model_not_found")),
    "prompt too long": Fault(400, error("This model's maximum context length is 8 tokens.", "context_length_exceeded")),
    "bad request": Fault(400, error("Unrecognized request argument: colour.")),
}
"""Every way in which the server knows to misbehave."""

Script = Callable[[str, int], Fault | str]
"""What is answered to a prompt (its last message) at its n-th attempt, from 1: a fault, or a text."""


class MisbehavingServer:
    """What the server was asked, and the script by which it answers; safe from many threads."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: list[str] = []
        self.address = ""
        self.closing = threading.Event()
        self._attempts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def lm(self, engine: str = "lm15", **settings: Any) -> dspy.LM:
        """An LM that asks this server over one of DSPy's two routes; it retries and caches nothing if not told to."""
        defaults = {"api_base": self.address, "api_key": KEY, "num_retries": 0, "cache": False}
        return dspy.LM("openai/m", engine=engine, **{**defaults, **settings})

    def answer(self, prompt: str) -> Fault:
        """What comes back for a prompt."""
        with self._lock:
            self.asked.append(prompt)
            self._attempts[prompt] += 1
            attempt = self._attempts[prompt]
        said = self.script(prompt, attempt)
        return Fault(200, completion(said)) if isinstance(said, str) else said

    def serve(self, client: socket.socket) -> None:
        """Read one request and answer it, or do what the fault says."""
        with client, suppress(OSError):
            request = client.makefile("rb")
            length = 0
            while line := request.readline().strip():
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            if not length:
                return
            fault = self.answer(json.loads(request.read(length))["messages"][-1]["content"])
            if fault.hangs:
                self.closing.wait()
                return
            head, _, body = fault.wire().partition(b"\r\n\r\n")
            client.sendall(b"".join([head, b"\r\n\r\n", body[: fault.sent]]) if fault.sent != 0 else b"")
            if fault.sent is not None:  # a reset, not a polite end
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextmanager
def misbehaving(script: Script | Fault) -> Iterator[MisbehavingServer]:
    """Inside, the server answers at its `address`: by the script, or the same fault to everything."""
    server = MisbehavingServer((lambda _prompt, _attempt: script) if isinstance(script, Fault) else script)

    def accept(listener: socket.socket) -> None:
        while not server.closing.is_set():
            with suppress(TimeoutError):
                client, _ = listener.accept()
                client.settimeout(None)
                threading.Thread(target=server.serve, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        listener.settimeout(0.05)
        server.address = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        acceptor = threading.Thread(target=accept, args=(listener,), daemon=True)
        acceptor.start()
        try:
            yield server
        finally:
            server.closing.set()
            acceptor.join()
