"""Loads trained adapters into a server that holds them next to its base model: vLLM and SGLang.

The server reads the weights from the same path as this process, or from a shared folder or URL (`share`). Only `slots`
adapters are loaded at a time; the one that was asked least recently is unloaded first, and loaded again when it is
asked. A server that has started again gets back what it is asked for.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit, urlunsplit

import dspy
from dspy.utils.exceptions import LMError, LMInvalidRequestError, LMServerError, LMTransportError

from sgt_modules.errors import EndpointError, SetupError
from sgt_modules.remote.publishing import name_of_weights
from sgt_modules.saving.redaction import redact, remove_user
from sgt_modules.saving.weights import ADAPTER, ADAPTER_WEIGHTS, check_adapter

if TYPE_CHECKING:
    import httpx

SLOTS = 2
"""Adapters loaded at a time by default: that of the stage that is asked, and one more."""

_LOADED = re.compile(r"already (been )?loaded|already exists", re.I)
_FULL = re.compile(r"maximum number of|no free lora|unload some|max_(cpu_|loaded_)?loras", re.I)
_GONE = re.compile(r"not loaded|not found|cannot be found", re.I)
_MISFIT = re.compile(r"mismatch|shape|rank|target.modules|base model|not supported|unexpected", re.I)
_PAUSE = 0.5
"""Seconds between two requests to a server that is starting."""


@dataclass(frozen=True, slots=True)
class _Facts:
    """What differs between the servers.

    Args:
        name: The server's name.
        routes: The path of the routes for adapters, in place of the API's own.
        starts_with: What its command line and environment need.
        full: The setting for more adapters at a time.
    """

    name: str
    routes: str | None
    starts_with: str
    full: str


class AdapterServer:
    """A server that holds LoRA adapters; `VLLMLoRA` and `SGLangLoRA` are the two. Safe from many threads.

    Args:
        lm: The LM of the base model, which names the server.
        slots: The most adapters that this object keeps loaded, at least 1.
        share: A folder, or a URL that fsspec knows such as `s3://bucket/adapters`, to which weights are copied. By
            default the server reads them where they are.
        seen_as: The name of `share` on the server, if it has another one there.
        timeout: The most seconds for one request to load an adapter.
        wait: The most seconds to wait for a server that is starting.

    Raises:
        SetupError: The LM has no server address, or there is no slot.
    """

    _facts: _Facts

    def __init__(
        self,
        lm: dspy.LM,
        *,
        slots: int = SLOTS,
        share: str | Path | None = None,
        seen_as: str | None = None,
        timeout: float = 300.0,
        wait: float = 120.0,
    ) -> None:
        address = lm.kwargs.get("api_base") or lm.kwargs.get("base_url")
        if address is None:
            raise SetupError(
                f"Expected an LM that names its server, got {lm.model!r} without one. Write dspy.LM('openai/...', "
                "api_base='http://localhost:8000/v1')."
            )
        if slots < 1:
            raise SetupError(f"Expected slots of at least 1, got {slots}. Give the number of adapters to keep loaded.")
        if seen_as is not None and share is None:
            raise SetupError(
                f"Expected share= with seen_as={seen_as!r}, got none. Pass the folder that both sides see."
            )
        self._lm, self._slots, self._timeout, self._wait = lm, slots, timeout, wait
        self._share = None if share is None else str(share).rstrip("/")
        self._seen_as = self._share if seen_as is None else seen_as.rstrip("/")
        self._api = str(address).rstrip("/")
        self._routes = self._api if self._facts.routes is None else _replace_path(self._api, self._facts.routes)
        key = lm.kwargs.get("api_key")
        self._headers = {"Authorization": f"Bearer {key}"} if isinstance(key, str) else {}
        self._loaded: OrderedDict[str, float] = OrderedDict()  # names and when they were loaded, the least used first
        self._lock = threading.RLock()

    def __call__(self, path: Path) -> str:
        """Load the adapter in a folder, unless the server has it already, and return the model's name there.

        Raises `GeneratorNotFoundError` for a folder without an adapter, `EndpointError` if the server refuses it.
        """
        check_adapter(path)
        self.ensure(path)
        return self._model_name(name_of_weights(path))

    def ensure(self, path: Path) -> None:
        """Load the adapter in a folder unless this object has loaded it; it is now the one used last.

        Raises `EndpointError` if the server refuses it.
        """
        name = name_of_weights(path)
        with self._lock:
            if name in self._loaded:
                self._loaded.move_to_end(name)
            else:
                self._load(name, path)

    def restore(self, path: Path, error: LMError, asked_at: float) -> bool:
        """Load an adapter again if the server has lost it or is starting; whether to repeat the request.

        `error` is that of a request sent at `asked_at` (`time.monotonic()`). Its text may say nothing, so the server
        is asked to load the adapter: one that has it refuses that.
        """
        is_down = isinstance(error, LMServerError | LMTransportError)
        if not is_down and not isinstance(error, LMInvalidRequestError):
            return False
        name = name_of_weights(path)
        with self._lock:
            if self._loaded.get(name, 0.0) > asked_at:  # another thread has loaded it meanwhile
                return True
            self._loaded.pop(name, None)
            try:
                return self._load(name, path) or is_down
            except EndpointError:
                if is_down:
                    return False  # the request's own error says more
                raise

    def _model_name(self, adapter: str) -> str:
        """The model's name for an adapter."""
        raise NotImplementedError

    def _load(self, name: str, path: Path) -> bool:
        """Load an adapter; whether the server did not have it."""
        import httpx  # here, as it brings a command line of its own

        while len(self._loaded) >= self._slots:
            self._unload(next(iter(self._loaded)))
        body, until = {"lora_name": name, "lora_path": self._place(name, path)}, time.monotonic() + self._wait
        while True:
            try:
                response = self._post("load_lora_adapter", body)
            except httpx.ConnectError as error:
                if time.monotonic() < until:
                    time.sleep(_PAUSE)
                    continue
                raise self._failure(body, error) from None  # its text may contain the key
            except httpx.HTTPError as error:
                raise self._failure(body, error) from None  # its text may contain the key
            has_it = response.status_code == 409 or _LOADED.search(response.text) is not None
            if has_it or not response.is_error:
                self._loaded[name] = time.monotonic()
                return not has_it
            if _FULL.search(response.text) and self._loaded:
                self._unload(next(iter(self._loaded)))
            elif response.status_code == 503 and time.monotonic() < until:
                time.sleep(_PAUSE)
            else:
                raise self._refusal(body, response)

    def _unload(self, name: str) -> None:
        """Unload an adapter. A server that no longer has it, or does not answer, refuses the next one if it is full."""
        import httpx

        del self._loaded[name]
        try:
            response = self._post("unload_lora_adapter", {"lora_name": name})
        except httpx.HTTPError as error:
            said = type(error).__name__
        else:
            said = f"{response.status_code}: {response.text[:200]}" if response.is_error else ""
        if said and not _GONE.search(said):
            said = redact(said, [self._lm])
            logging.getLogger(__name__).warning("%s did not unload the adapter %s: %s", self._facts.name, name, said)

    def _post(self, route: str, body: dict[str, str]) -> httpx.Response:
        import httpx

        return httpx.post(f"{self._routes}/{route}", json=body, headers=self._headers, timeout=self._timeout)

    def _place(self, name: str, path: Path) -> str:
        """The adapter's path as the server sees it; with `share` the weights are copied there once."""
        if self._share is None:
            return str(path.resolve())
        import fsspec  # here, as only this needs it

        core = cast("Any", fsspec).core
        files, root = core.url_to_fs(self._share)
        folder = f"{root}/{name}"
        if not files.exists(f"{folder}/{ADAPTER}"):
            files.makedirs(folder, exist_ok=True)
            for file in (ADAPTER_WEIGHTS, ADAPTER):  # the configuration last: where it is, all is there
                files.put_file(str(path / file), f"{folder}/{file}")
        return f"{self._seen_as}/{name}"

    def _failure(self, body: dict[str, str], error: httpx.HTTPError) -> EndpointError:
        import httpx

        advice = "Start the server again; the run goes on with the same log_dir."
        if isinstance(error, httpx.TimeoutException):
            advice = f"It did not answer within timeout={self._timeout:g} seconds. {advice}"
        return self._error(body, f"{type(error).__name__}: {error}", advice)

    def _refusal(self, body: dict[str, str], response: httpx.Response) -> EndpointError:
        """The error for a refusal, with what to do about it."""
        facts, text = self._facts, response.text[:500]
        if response.status_code in (401, 403):
            advice = "The server refuses the LM's api_key. Correct it."
        elif _FULL.search(text):
            advice = f"Its slots hold other adapters. {facts.full}, or unload some."
        elif response.status_code == 503:
            advice = f"It was still starting after wait={self._wait:g} seconds. Raise wait."
        elif _MISFIT.search(text) and response.status_code != 404:
            advice = (
                f"The adapter must be trained on the base that {facts.name} serves, with a rank and layers that it "
                f"admits. It needs {facts.starts_with}."
            )
        else:
            advice = f"It needs {facts.starts_with}, and must see that path."
        return self._error(body, f"{response.status_code}: {text}", advice)

    def _error(self, body: dict[str, str], said: str, advice: str) -> EndpointError:
        where = remove_user(f"{self._routes}/load_lora_adapter")
        said = redact(said, [self._lm])
        return EndpointError(
            f"Expected {self._facts.name} at {where!r} to load {body['lora_path']!r}, got {said}. {advice}"
        )


class VLLMLoRA(AdapterServer):
    """Loads each adapter into a running vLLM, with a name that includes the weights' sha256.

    Start the server with `--enable-lora`, a `--max-lora-rank` of at least the training's rank, and
    `VLLM_ALLOW_RUNTIME_LORA_UPDATING=True` in its environment. The arguments are those of `AdapterServer`. A saved
    program does not know where its weights are: name them in the server's `--lora-modules`.

    Source: https://docs.vllm.ai/en/latest/features/lora/ (dynamically serving LoRA adapters).

    >>> from sgt_modules import Endpoint
    >>> lm = dspy.LM("openai/Qwen/Qwen3-1.7B", api_base="http://localhost:8000/v1", api_key="none")
    >>> generator = Endpoint(lm, publish=VLLMLoRA(lm))
    """

    _facts = _Facts(
        "vLLM",
        None,
        "--enable-lora, --max-lora-rank of the adapter's rank, and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its "
        "environment",
        "Start vLLM with a higher --max-loras and --max-cpu-loras",
    )

    def _model_name(self, adapter: str) -> str:
        return adapter


class SGLangLoRA(AdapterServer):
    """Loads each adapter into a running SGLang; the model's name there is `base:adapter`.

    Start the server with `--enable-lora`, a `--max-lora-rank` of at least the training's rank and
    `--lora-target-modules all`. The arguments are those of `AdapterServer`; the routes for adapters are next to
    `/v1`. A saved program does not know where its weights are: name them in the server's `--lora-paths`.

    Source: https://docs.sglang.io/docs/advanced_features/lora (dynamic LoRA loading).

    >>> from sgt_modules import Endpoint
    >>> lm = dspy.LM("openai/Qwen/Qwen3-1.7B", api_base="http://localhost:30000/v1", api_key="none")
    >>> generator = Endpoint(lm, publish=SGLangLoRA(lm))
    """

    _facts = _Facts(
        "SGLang",
        "",
        "--enable-lora, --max-lora-rank of the adapter's rank, and --lora-target-modules all",
        "Start SGLang with a higher --max-loaded-loras",
    )

    def _model_name(self, adapter: str) -> str:
        return f"{self._lm.model.partition('/')[2] or self._lm.model}:{adapter}"


@dataclass(frozen=True, slots=True)
class PublishedWeights:
    """The weights in a folder, on a server that may lose them."""

    server: AdapterServer
    path: Path

    def ensure(self) -> None:
        """Load them unless they are loaded."""
        self.server.ensure(self.path)

    def restore(self, error: LMError, asked_at: float) -> bool:
        """Load them again if the error says that they are gone; whether to repeat the request."""
        return self.server.restore(self.path, error, asked_at)


def _replace_path(address: str, path: str) -> str:
    """The address with another path.

    >>> _replace_path("http://localhost:30000/v1", "")
    'http://localhost:30000'
    """
    return urlunsplit(urlsplit(address)._replace(path=path))
