"""A server that speaks OpenAI's chat completions and vLLM's LoRA routes by script: real HTTP, no model."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, TypeVar

import dspy

Answer = str | tuple[int, Mapping[str, Any]]
"""What is said to a prompt: a text, or an HTTP status with its error."""

Manner = Literal["continues", "always continues", "continues only", "opens a turn", "refuses", "tells no usage"]
"""What becomes of a final assistant message and of the fields `continue_final_message`, `add_generation_prompt`:

- `continues`: vLLM and SGLang, as the fields say;
- `always continues`: llama.cpp, whatever they say;
- `continues only`: a message that has ended is refused, as vLLM's Mistral tokenizer does;
- `opens a turn`: the fields are ignored, and the model writes a message of its own behind the last one;
- `refuses`: unknown fields are an error;
- `tells no usage`: as `continues`, but how many tokens were read stays unknown.
"""

CONTINUING = ("continue_final_message", "add_generation_prompt")


class ScriptedServer:
    """What the server was asked for, and how it answers; safe from many threads.

    `going_on` is what the model writes behind an opening where a message is continued, or behind the text of a text
    completion. The template takes one token for an opening, one for a message's end and two for the next one's head.

    `scores`: a log-probability for each word of a reply, where the server tells any. A reply is cut at the request's
    token limit, a word being a token; `tells_why` says whether the server tells that the limit ended it.
    """

    def __init__(
        self,
        script: Callable[[str], Answer],
        *,
        scores: float | None = None,
        tells_why: bool = True,
        manner: Manner = "opens a turn",
        going_on: Callable[[str], Answer] | None = None,
    ) -> None:
        self.script, self.scores, self.tells_why = script, scores, tells_why
        self.manner: Manner = manner
        self.going_on = going_on or script
        self.requests: list[dict[str, Any]] = []
        self.adapters: dict[str, str] = {}
        self.headers: list[Mapping[str, str]] = []
        self.most_at_once = 0
        self.address = ""
        self._lock = threading.Lock()
        self._at_once = 0

    def lm(self, model: str = "openai/base", **settings: Any) -> dspy.LM:
        """An LM that asks this server; it retries nothing if not told to."""
        return dspy.LM(model, **{"api_base": self.address, "api_key": "secret-key", "num_retries": 0, **settings})

    def answered(self, route: str, body: dict[str, Any], headers: Mapping[str, str]) -> tuple[int, object]:
        """The status and content for a request."""
        self.headers.append(dict(headers))
        if route.endswith("/load_lora_adapter"):
            return self._loaded(body)
        with self._lock:
            self.requests.append(body)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            read, said = self._text(body) if route.endswith("/v1/completions") else self._turn(body)
        finally:
            with self._lock:
                self._at_once -= 1
        return (200, self._completion(body, read, said)) if isinstance(said, str) else (said[0], {"error": said[1]})

    @property
    def opened(self) -> list[dict[str, Any]]:
        """The requests for replies that go on with an opening, without those of a single token that find out."""
        return [each for each in self.asked if each.get("continue_final_message") or "prompt" in each]

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The requests for more than a single token."""
        return [each for each in self.requests if (each.get("max_completion_tokens") or each.get("max_tokens")) != 1]

    def _text(self, body: Mapping[str, Any]) -> tuple[int, Answer]:
        if self.manner == "refuses" and (unknown := {"chat_template_kwargs", *CONTINUING} & body.keys()):
            return 0, (422, {"message": f"Unexpected fields: {sorted(unknown)}"})
        return len(body["prompt"].split()), self.going_on(body["prompt"])

    def _turn(self, body: Mapping[str, Any]) -> tuple[int, Answer]:
        """How many tokens the chat template makes of the messages, and what the model says to them."""
        ends = [message["content"] for message in body["messages"] if message["role"] != "system"]
        opening = ends[-1:] if body["messages"][-1]["role"] == "assistant" else []
        user = ends[-2] if opening else ends[-1]
        read, fields = len(user.split()), [body.get(name) for name in CONTINUING]
        if self.manner == "refuses" and fields != [None, None]:
            return 0, (400, {"message": f"Extra inputs are not permitted: {CONTINUING}"})
        if not opening:
            return read, self.script(user)
        goes_on = fields[0] and self.manner in ("continues", "continues only", "tells no usage")
        if goes_on or self.manner == "always continues":
            return read + 1, self.going_on(opening[0])
        if self.manner == "continues only":
            return 0, (400, {"message": "Expected last role User or Tool (or Assistant with prefix True)."})
        head = 0 if self.manner == "continues" and fields[1] is False else 2
        return read + 2 + head, self.script(user)

    def _completion(self, body: Mapping[str, Any], read: int, text: str) -> object:
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or len(text)
        cut = len(text.split()) > limit
        text = " ".join(text.split()[:limit]) if cut else text
        words = text.split()
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": ("length" if cut else "stop") if self.tells_why else None,
        }
        choice |= {"text": text} if "prompt" in body else {"message": {"role": "assistant", "content": text}}
        if self.scores is not None and body.get("logprobs"):
            choice["logprobs"] = {
                "content": [{"token": each, "logprob": self.scores, "top_logprobs": []} for each in words]
            }
        kind = "text_completion" if "prompt" in body else "chat.completion"
        about = {"id": "1", "object": kind, "created": 0, "model": body["model"], "choices": [choice]}
        usage = {"prompt_tokens": read, "completion_tokens": len(words), "total_tokens": read + len(words)}
        return about if self.manner == "tells no usage" else {**about, "usage": usage}

    def _loaded(self, body: Mapping[str, str]) -> tuple[int, object]:
        """As vLLM: a name is taken once, and a path must hold an adapter."""
        name, path = body["lora_name"], body["lora_path"]
        if name in self.adapters:
            return 400, {"error": {"message": f"The lora adapter '{name}' has already been loaded."}}
        if not (Path(path) / "adapter_config.json").is_file():
            return 404, {"error": {"message": f"No adapter found for {path}"}}
        self.adapters[name] = path
        return 200, f"Success: LoRA adapter '{name}' added successfully."


def streamed_answer(content: Any) -> bytes:
    """A completion as server-sent events, a word each."""
    about = {name: content[name] for name in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    words = content["choices"][0]["message"]["content"].split(" ")
    deltas: list[dict[str, str]] = [{"content": word if n == 0 else f" {word}"} for n, word in enumerate(words)]
    ends = [None] * len(deltas) + ["stop"]
    events = [
        {**about, "choices": [{"index": 0, "delta": delta, "finish_reason": end}]}
        for delta, end in zip([*deltas, {}], ends, strict=True)
    ]
    return b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in events) + b"data: [DONE]\n\n"


_Server = TypeVar("_Server", bound=ScriptedServer)


@contextmanager
def serving(server: _Server, *, port: int = 0) -> Iterator[_Server]:
    """Inside, the server answers at its `address`; a port of 0 is any that is free."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, content = server.answered(self.path, body, self.headers)
            streamed = status == 200 and bool(body.get("stream"))
            raw = streamed_answer(content) if streamed else json.dumps(content).encode()
            self.answer(status, raw, "text/event-stream" if streamed else "application/json")

        def do_GET(self) -> None:
            models = {"object": "list", "data": [{"id": "base", "object": "model", "created": 0, "owned_by": "test"}]}
            self.answer(200, json.dumps(models).encode(), "application/json")

        def answer(self, status: int, raw: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(raw)))
            self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *args: object) -> None:
            """Nothing."""

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that hangs up is no failure of the server's."""

    with Quiet(("127.0.0.1", port), Handler) as http:
        threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
        server.address = f"http://127.0.0.1:{http.server_address[1]}/v1"
        try:
            yield server
        finally:
            http.shutdown()
