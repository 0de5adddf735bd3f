"""Endpoint: a generator's model behind any `dspy.LM`, for example one that vLLM serves with a LoRA adapter.

The LM is the user's: its address, key, retries, timeout and other settings are used as they are. No model runs here.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict, cast
from urllib.parse import urlsplit

import dspy
from dspy.lm15 import ContextLengthError
from dspy.utils.exceptions import LMError

from sgt_modules.errors import EndpointError, GeneratorNotFoundError, SavedStateError, SetupError
from sgt_modules.remote.adapter_servers import AdapterServer, PublishedWeights
from sgt_modules.remote.lm_calls import (
    LIMITS,
    ChatRenderer,
    ContinuationTest,
    LMCall,
    acomplete,
    complete,
    make_completion_call,
    make_continuation_call,
    make_prompt_call,
)
from sgt_modules.samples import Sample, SampleRequest
from sgt_modules.saving.redaction import ADDRESSES, SECRET, redact, remove_user
from sgt_modules.saving.state_checks import check_mapping
from sgt_modules.saving.weights import fingerprint_of
from sgt_modules.sharing import SharedByCopies

Publish = Callable[[Path], str]
"""Publishes the weights in a folder to the server, and returns the name of the model on the server.

Each process calls it once for each checkpoint. Different weights must have different names. See `VLLMLoRA`,
`SGLangLoRA`, `ServedFolder`.
"""

_ATTEMPTS = 3
"""How often a request is sent to a server that loses its adapter; the adapter is loaded again in between."""


class EndpointReference(TypedDict):
    """The endpoint of a saved generator: the LM's state without keys, and the sha256 of its adapter."""

    lm: dict[str, Any]
    adapter_sha256: str | None


class Endpoint(SharedByCopies):
    """A model that a `dspy.LM` asks, with the interface that `LocalEngine` has for a generator.

    Requests do not appear in the user's stream, history and cache. They have a temperature and a token limit. If DSPy
    knows that the provider supports them, they also have a seed (when sampling) and `logprobs`. Without seeds, equal
    requests may get different replies; without `logprobs`, a log-probability is 0.0.

    A reply can begin with the request's opening (`[mistakes]`) in two ways. vLLM and SGLang continue an assistant's
    message. With a `tokenizer`, the prompt is rendered here with the base's chat template, and `/v1/completions`
    continues the text. If the server can do neither, only the prompt asks for the opening.

    A server does not return the likelihood of a given reply, so `among` has no effect: `Menu.read` finds the choice in
    a reply.

    Set the LM so that the model does not think: `dspy.LM(..., extra_body={"chat_template_kwargs": {"enable_thinking":
    False}})` for Qwen3 behind vLLM. The LM also retries (`num_retries`).

    Args:
        lm: The LM to ask.
        publish: Sends trained weights to the server; training needs it.
        concurrency: How many requests of `samples` run at a time.
        adapter_sha256: The sha256 of the adapter that the server uses.
        continues: Whether the server continues an assistant's message; by default it is tested before the first reply
            with an opening.
        tokenizer: The base's hub id or folder.

    >>> Endpoint(dspy.LM("openai/qwen3", api_base="http://localhost:8000/v1")).name
    'qwen3@localhost:8000'
    """

    def __init__(
        self,
        lm: dspy.LM,
        *,
        publish: Publish | None = None,
        concurrency: int = 64,
        adapter_sha256: str | None = None,
        continues: bool | None = None,
        tokenizer: str | Path | None = None,
    ) -> None:
        if not isinstance(lm, dspy.LM):
            raise SetupError(f"Expected a dspy.LM, got {lm!r}. Write Endpoint(dspy.LM('provider/model', ...)).")
        if concurrency < 1:
            raise SetupError(f"Expected concurrency of at least 1, got {concurrency}.")
        self.lm, self.publish, self.concurrency = lm, publish, concurrency
        self.adapter_sha256 = adapter_sha256
        self._published: dict[tuple[Path, str], str] = {}
        self._weights: PublishedWeights | None = None
        self._continuation = ContinuationTest(continues)
        self._renderer = None if tokenizer is None else ChatRenderer(tokenizer)

    @property
    def continues(self) -> bool | None:
        """Whether the server continues an assistant's message; None before it is tested."""
        return self._continuation.continues

    @property
    def name(self) -> str:
        """The model's short name and its host; no actor's LM has the same name."""
        provider, _, model = self.lm.model.rpartition("/")
        host = "" if self.address is None else urlsplit(self.address).netloc.rpartition("@")[2]
        return f"{model}@{host or provider.partition('/')[0] or 'dspy'}"

    @property
    def address(self) -> str | None:
        """The server's base address; None if the LM has none."""
        address = self.lm.kwargs.get("api_base") or self.lm.kwargs.get("base_url")
        return None if address is None else str(address)

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of the model's name, the server's address and the adapter's sha256 or None."""
        return hashlib.sha256(json.dumps([self.lm.model, self.address, self.adapter_sha256]).encode()).hexdigest()

    @property
    def identity(self) -> str:
        """The model's short name and the fingerprint's first 16 digits, as a run's files contain no address."""
        return f"{self.lm.model.rpartition('/')[2]} {self.fingerprint[:16]}"

    def samples(self, requests: Sequence[SampleRequest], *, at_once: int = 1) -> Iterator[Sample]:
        """One sample for each request, in order, each yielded once it and all before it have arrived.

        `concurrency` requests run at a time; `at_once` has no effect. A prompt that is too long gets an empty sample
        and a warning. Raises `EndpointError` at the first reply that fails, and sends no more requests.
        """
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="sgt-endpoint")
        try:
            futures = [pool.submit(contextvars.copy_context().run, self.ask, request) for request in requests]
            for number, future in enumerate(futures):
                try:
                    yield future.result()
                except ContextLengthError as error:
                    message = redact(str(error), [self.lm])
                    logging.getLogger(__name__).warning(
                        "No reply to a prompt that does not fit %s: %s", self.name, message
                    )
                    yield Sample("")
                except LMError as error:
                    raise EndpointError(
                        f"Expected {len(requests)} replies of {self.name}, got {number} and then an error: "
                        f"{redact(str(error), [self.lm])}. "
                        "What an actor was paid for is saved. Look at the server and start again with the same "
                        "log_dir, or give the LM more num_retries."
                    ) from None  # its text may contain the key
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def ask(self, request: SampleRequest) -> Sample:
        """One sample. Raises `ContextLengthError`, and the `LMError` of DSPy's LM.

        A server that has lost the adapter, or that is starting again, gets it back (`AdapterServer`).
        """
        for attempt in range(1, _ATTEMPTS + 1):
            asked_at = self._prepare()
            try:
                return complete(self._make_call(request))
            except LMError as error:
                if attempt == _ATTEMPTS or not self._restore(error, asked_at):
                    raise
        raise AssertionError  # the last attempt returns or raises

    async def aask(self, request: SampleRequest) -> Sample:
        """As `ask`, through the LM's own coroutine."""
        if request.opening and self._renderer is not None:
            # litellm leaves a connection open after an asynchronous text completion
            return await asyncio.to_thread(self.ask, request)
        for attempt in range(1, _ATTEMPTS + 1):
            asked_at = self._prepare() if self._weights is None else await asyncio.to_thread(self._prepare)
            try:
                is_plain = not request.opening
                call = self._make_call(request) if is_plain else await asyncio.to_thread(self._make_call, request)
                return await acomplete(call)
            except LMError as error:
                if attempt == _ATTEMPTS or not await asyncio.to_thread(self._restore, error, asked_at):
                    raise
        raise AssertionError  # the last attempt returns or raises

    def with_checkpoint(self, path: Path) -> Endpoint:
        """Publish the weights in this folder; return the same endpoint with them.

        Raises `SetupError` without a `publish`, and `EndpointError` if the server refuses the weights.
        """
        self.check_trainable()
        publish = cast("Publish", self.publish)
        sha256 = fingerprint_of(path)
        if (path, sha256) not in self._published:
            self._published[path, sha256] = publish(path)
        provider, slash, _ = self.lm.model.partition("/")
        lm = self.lm.copy(model=f"{provider if slash else ''}{slash}{self._published[path, sha256]}")
        other = Endpoint(lm, publish=publish, concurrency=self.concurrency, adapter_sha256=sha256)
        other._published = self._published
        other._weights = PublishedWeights(publish, path) if isinstance(publish, AdapterServer) else None
        return other._open_replies_like(self)

    @property
    def published_folder(self) -> Path | None:
        """The folder of the weights that this process published and the server uses; None if it published none."""
        return next((path for path, sha256 in self._published if sha256 == self.adapter_sha256), None)

    def check(self) -> None:
        """Raise `GeneratorNotFoundError` for a wrong address, key or name, by asking for a single token.

        Also tests whether the server continues an assistant's message or, with a `tokenizer`, asks for a text
        completion of a single token.
        """
        try:
            without_retries = Endpoint(self.lm.copy(num_retries=0))._open_replies_like(self)
            for opening in ("", "["):
                without_retries.ask(SampleRequest("Hello.", max_new_tokens=1, opening=opening))
        except (LMError, ContextLengthError) as error:
            where = "" if self.address is None else f" at {remove_user(self.address)}"
            raise GeneratorNotFoundError(
                f"Expected a reply of the generator {self.lm.model!r}{where}, got an error: "
                f"{redact(str(error), [self.lm])}. Start its server, or correct the LM's model, api_base or api_key."
            ) from None  # its text may contain the key

    def check_trainable(self) -> None:
        """Raise `SetupError` unless trained weights can be published to the server."""
        if self.publish is None:
            raise SetupError(
                f"Expected a way to publish trained weights to the server of {self.name}, got none. Pass "
                "generator=Endpoint(lm, publish=...): VLLMLoRA(lm) for vLLM, SGLangLoRA(lm) for SGLang, "
                "ServedFolder(base) for a server that takes a folder as a model's name, or your own function from a "
                "checkpoint's folder to a model name."
            )

    def reference(self) -> EndpointReference:
        """The LM's state without keys and headers. Raises `SavedStateError` for a setting that cannot be JSON."""
        state = _remove_secrets(self.lm.dump_state())
        for name in ADDRESSES:
            if isinstance(state.get(name), str):
                state[name] = remove_user(state[name])
        try:
            return EndpointReference(lm=json.loads(json.dumps(state)), adapter_sha256=self.adapter_sha256)
        except TypeError as error:
            raise SavedStateError(
                f"Expected an LM whose settings can be written as JSON, got {self.lm.model!r} with one that cannot "
                f"({error}). Leave it out, and set it again on the LM that you load the program with."
            ) from error

    @classmethod
    def from_reference(cls, state: EndpointReference, *, like: object = None, trusted: bool = False) -> Endpoint:
        """The endpoint of a saved reference, without sending a request.

        Keys, headers and `publish` are taken from `like` if that is an endpoint at the same address, otherwise from the
        environment, as in any `dspy.LM`. Raises `SavedStateError` for another address unless the file is `trusted`, as
        the key would be sent there.
        """
        settings, sha256 = check_mapping(state["lm"], "an endpoint's LM"), state["adapter_sha256"]
        known = like if isinstance(like, Endpoint) else None
        if known is not None and known.reference() == state:
            return known
        if known is not None and _find_addresses(known.reference()["lm"]) != _find_addresses(settings):
            known = None
        if known is None and _find_addresses(settings) and not trusted:
            raise SavedStateError(
                f"Expected a generator at an address that the program uses already, got {_find_addresses(settings)} "
                "from a file. Load it into a program supplemented with Endpoint(dspy.LM(..., api_base=...)) of that "
                "address, or pass allow_unsafe_lm_state=True for a file that you trust: your key is sent there."
            )
        try:
            lm = dspy.BaseLM.load_state(dict(settings), allow_custom_lm_class=trusted)
        except (LMError, AttributeError, ImportError, KeyError, TypeError, ValueError) as error:
            raise SavedStateError(
                f"Expected the saved settings of a dspy.LM, got some that it does not take ({error}). Save the program "
                "again, or set the generator again."
            ) from error
        if not isinstance(lm, dspy.LM):
            raise SavedStateError(f"Expected a saved dspy.LM, got a {type(lm).__name__}. Set the generator again.")
        if known is None:
            return cls(lm, adapter_sha256=sha256)
        own = {name: value for name, value in known.lm.kwargs.items() if name in ADDRESSES or SECRET.search(name)}
        endpoint = cls(lm.copy(**own), publish=known.publish, concurrency=known.concurrency, adapter_sha256=sha256)
        return endpoint._open_replies_like(known)

    def __repr__(self) -> str:
        return f"Endpoint({self.lm.model!r})"

    @cached_property
    def _supported(self) -> set[str]:
        """The names of the settings that this LM's provider supports, according to DSPy."""
        return self.lm.supported_params

    @property
    def context(self) -> None:
        """None, as only the server knows the context."""
        return None

    def count(self, prompt: str) -> int:
        """An estimate of the prompt's tokens: three bytes a token."""
        return len(prompt.encode()) // 3

    def _make_options(self, request: SampleRequest) -> dict[str, Any]:
        """The settings to send with a request."""
        limit = LIMITS[0] if LIMITS[0] in self.lm.kwargs else LIMITS[1]
        options: dict[str, Any] = {"temperature": request.temperature}
        if request.temperature > 0 and request.top_p < 1:
            options["top_p"] = request.top_p
        if request.max_new_tokens is not None:
            options[limit] = request.max_new_tokens
        if request.temperature > 0 and "seed" in self._supported:
            options["seed"] = request.seed
        if "logprobs" in self._supported:
            options["logprobs"] = True
        return options

    def _prepare(self) -> float:
        """Have the server hold the weights; return the time, for `_restore`."""
        if self._weights is not None:
            self._weights.ensure()
        return time.monotonic()

    def _restore(self, error: LMError, asked_at: float) -> bool:
        """Whether the server had lost the weights and has them again."""
        return self._weights is not None and self._weights.restore(error, asked_at)

    def _open_replies_like(self, other: Endpoint) -> Endpoint:
        """Make replies begin with the opening in the way that `other` does; return this endpoint."""
        self._continuation, self._renderer = other._continuation, other._renderer
        return self

    def _make_call(self, request: SampleRequest) -> LMCall:
        """The call for a request. The reply begins with the opening if the server can do that."""
        prompt, opening, options = request.prompt, request.opening, self._make_options(request)
        if opening and self._renderer is not None:
            return make_completion_call(self.lm, self._renderer.render(prompt), opening, options)
        if opening and self._continuation.run(self.lm, self._make_options(SampleRequest("", max_new_tokens=1))):
            return make_continuation_call(self.lm, prompt, opening, options)
        return make_prompt_call(self.lm, prompt, options)


def _find_addresses(settings: Mapping[str, Any]) -> dict[str, object]:
    return {name: settings[name] for name in ADDRESSES if settings.get(name) is not None}


def _remove_secrets(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without those with the name of a secret, at any depth."""
    return {
        name: _remove_secrets(cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else value
        for name, value in settings.items()
        if not SECRET.search(str(name))
    }
