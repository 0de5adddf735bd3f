"""A server that holds LoRA adapters as vLLM's and SGLang's documentation says, failures too: real HTTP.

What a model says comes from a function of its weights' folder, so a test may put a real engine behind it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from scripted_server import ScriptedServer

Dialect = Literal["vllm", "sglang"]

Writer = Callable[[Path | None, Mapping[str, Any]], str]
"""The text for a request's body, by the folder of the adapter that is asked; None is the base."""


class AdapterHolder(ScriptedServer):
    """Holds at most `slots` adapters; `most_loaded` is the most that it held, `loads` the names in order.

    `restart()` forgets all of them. `failures` are answers (status, content) to the next requests to load, `starting`
    is how many requests of any kind get 503 first. `root` is where the server sees paths that begin with `seen_as`.
    """

    def __init__(self, writer: Writer, *, dialect: Dialect = "vllm", slots: int = 100) -> None:
        super().__init__(lambda _: "")
        self.writer, self.dialect, self.slots = writer, dialect, slots
        self.loads: list[str] = []
        self.unloads: list[str] = []
        self.most_loaded = 0
        self.failures: list[tuple[int, object]] = []
        self.starting = 0
        self.seen_as, self.root = "", Path("/")
        self._guard = threading.Lock()

    def restart(self) -> None:
        """Forget every adapter, as a process that has started again."""
        with self._guard:
            self.adapters.clear()

    def answered(self, route: str, body: dict[str, Any], headers: Mapping[str, str]) -> tuple[int, object]:
        self.headers.append(dict(headers))
        home = "/v1/" if self.dialect == "vllm" else "/"
        with self._guard:
            if self.starting:
                self.starting -= 1
                return 503, {"error": {"message": "The model is loading."}}
            if route == f"{home}load_lora_adapter":
                return self.failures.pop(0) if self.failures else self._load(body)
            if route == f"{home}unload_lora_adapter":
                return self._drop(body["lora_name"])
            if not route.endswith("/chat/completions"):
                return 404, {"detail": "Not Found"}
            found, refusal = self._asked(body["model"])
            self.requests.append(body)
        return refusal or (200, self._completion(body, 1, self.writer(found, body)))

    def _asked(self, model: str) -> tuple[Path | None, tuple[int, object] | None]:
        if model == "base":
            return None, None
        name = model.removeprefix("base:") if self.dialect == "sglang" else model
        if name in self.adapters and (self.dialect == "vllm" or model != name):
            return Path(self.adapters[name]), None
        if self.dialect == "vllm":
            return None, (404, {"error": {"message": f"The model `{model}` does not exist.", "type": "NotFoundError"}})
        said = f"The following requested LoRA adapters are not loaded: {name}\nLoaded adapters: []."
        return None, (400, {"object": "error", "message": said, "type": "BadRequestError", "code": 400})

    def _load(self, body: Mapping[str, str]) -> tuple[int, object]:
        name, path = body["lora_name"], body["lora_path"]
        folder = self.root / path.removeprefix(self.seen_as).lstrip("/") if self.seen_as else Path(path)
        if name in self.adapters:
            return self._refused(400, f"The lora adapter '{name}' has already been loaded.")
        if not (folder / "adapter_config.json").is_file():
            return self._refused(404, f"No adapter found for {path}")
        if len(self.adapters) >= self.slots:
            full = {
                "vllm": "No free lora slots",
                "sglang": f"Cannot load LoRA adapter {name}. Maximum number of loaded LoRA adapters is {self.slots}.",
            }
            return self._refused(400, full[self.dialect])
        self.adapters[name] = str(folder)
        self.loads.append(name)
        self.most_loaded = max(self.most_loaded, len(self.adapters))
        if self.dialect == "vllm":
            return 200, f"Success: LoRA adapter '{name}' added successfully."
        return 200, {"success": True, "loaded_adapters": self.adapters}

    def _drop(self, name: str) -> tuple[int, object]:
        if name not in self.adapters:
            return self._refused(404, f"The lora adapter '{name}' cannot be found.")
        del self.adapters[name]
        self.unloads.append(name)
        return 200, {"success": True}

    def _refused(self, status: int, said: str) -> tuple[int, object]:
        if self.dialect == "vllm":
            return status, {"error": {"message": said, "type": "BadRequestError", "code": status}}
        return 400, {"success": False, "error_message": said, "loaded_adapters": self.adapters}
