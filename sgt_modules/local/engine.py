"""LocalEngine: a model in this process behind DSPy's engine contract; it serves many callers together.

    many threads -> complete(), ask() -> one queue -> one worker -> Decoder -> the base's weights (torch)
    one caller   -> sample() ---------------------------------------^   (shared; one batch at a time)

Torch is imported when the model is first loaded, not before.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from dspy.lm15 import Request, Response, response_to_events

from sgt_modules.backend import answer, chat, sampling_of
from sgt_modules.errors import SetupError
from sgt_modules.local.activity import loading
from sgt_modules.local.batching import ROOM, Share, TokenRequest
from sgt_modules.local.chat_template import Reader
from sgt_modules.local.encoding import Encoder, choose_likeliest
from sgt_modules.local.engine_state import EngineSettings, EngineState, LocalReference
from sgt_modules.local.load_checks import check_runnable
from sgt_modules.local.request_queue import LARGE, Queue, QueuedRequest, begin, most_rows
from sgt_modules.samples import Sample, SampleRequest
from sgt_modules.saving.weights import ADAPTER, Weights, located

if TYPE_CHECKING:
    from dspy._vendor.lm15.types import StreamEvent
    from transformers import PreTrainedTokenizerBase

    from sgt_modules.local.decoding import Decoder

FIRST = 64
"""How many requests `samples` decodes before it yields the first sample; each time twice as many follow."""

FIRST_OF_LARGE = 256
"""The same for a large model, where a batch's last few rows take as long as many."""

_WAITING = 16 * ROOM
"""Tokens of requests that are taken from the queue together, where the device decides the size of a batch."""

_INT8 = "int8"

_REFUSED = (
    "Expected a bare frozen model for dtype='int8', got {}: 8 bits can't be trained or take an adapter. Use "
    "dtype='auto', or merge the adapter into a model and pass its folder."
)


class LocalEngine:
    """A causal LM (hub id or folder, safetensors only) with an optional PEFT adapter, for `dspy.LM(engine=...)`.

    It loads at first use and raises `GeneratorNotFoundError` then. Equal (prompt, seed, temperature) give equal
    replies, whatever else is in the batch; exactly equal in `float64`. `max_batch_tokens` bounds rows x (longest prompt
    + new tokens) of a batch, by default to 16,384 tokens, or on a GPU to what half of its free memory holds;
    `max_new_tokens` bounds a reply. With `sha256` or `adapter_sha256`, weights of another fingerprint are refused; with
    a `revision`, `model` is a hub id. `dtype` and `device` are by default a GPU's bfloat16, else Apple's float16, else
    a CPU's float32. Engines of one base, dtype and device share its weights in memory. A model's own code runs with
    `trust_remote_code` only.

    Prompt tokens that several prompts of a batch begin with are read once. With `share="batch"` only those that all of
    them begin with are; the replies are the same.

    `dtype="int8"` rounds a frozen actor's linear layers to 8 bits, on a CPU: another actor, of its own name and
    fingerprint, several times faster. It takes no adapter and is not trained.

        engine = LocalEngine("Qwen/Qwen3-1.7B")
        lm = dspy.LM(engine.model_name, engine=engine, async_engine=engine.asynchronous())

    >>> LocalEngine("some/model").model
    'some/model'
    """

    in_process = True
    """Whether the model runs on this process's own cores or GPU."""

    def __init__(
        self,
        model: str | Path,
        *,
        adapter: str | Path | None = None,
        dtype: str = "auto",
        device: str = "auto",
        trust_remote_code: bool = False,
        max_batch_tokens: int | None = None,
        max_new_tokens: int = 512,
        share: Share = "prefix",
        revision: str | None = None,
        sha256: str | None = None,
        adapter_sha256: str | None = None,
    ) -> None:
        if share not in get_args(Share):
            raise ValueError(f"Expected share to be one of {get_args(Share)}, got {share!r}. Leave it out if unsure.")
        if (max_batch_tokens is not None and max_batch_tokens < 1) or max_new_tokens < 1:
            raise ValueError(f"Expected positive token limits, got {max_batch_tokens=} and {max_new_tokens=}.")
        if dtype == _INT8 and adapter is not None:
            raise SetupError(_REFUSED.format(f"an adapter ({str(adapter)!r})"))
        self.weights = Weights(
            model,
            adapter,
            revision=revision,
            sha256=sha256,
            adapter_sha256=adapter_sha256,
            code=trust_remote_code,
        )
        self.dtype, self.device, self.trust_remote_code = dtype, device, trust_remote_code
        self.max_batch_tokens, self.max_new_tokens = max_batch_tokens, max_new_tokens
        self.share: Share = share
        self._loading = threading.RLock()
        self._reader = Reader(trust_remote_code=trust_remote_code)
        self._decoder: Decoder | None = None
        self._unseeded: Counter[tuple[int, ...]] = Counter()
        self._queue: Queue | None = None

    def sample(self, requests: Sequence[SampleRequest]) -> list[Sample]:
        """One sample for each request, in order, all decoded together; equal requests once.

        A prompt that is too long gets an empty sample, and a warning.
        """
        encoded = self.encoder.encode_requests(requests)
        samples = self._decode([each for of_one in encoded for each in of_one])
        return [
            choose_likeliest([samples[each] for each in of_one], request.among)
            for request, of_one in zip(requests, encoded, strict=True)
        ]

    def samples(self, requests: Sequence[SampleRequest], *, at_once: int = 1024) -> Iterator[Sample]:
        """As `sample`, some requests after the others: few at first, so that a sample comes soon, then up to `at_once`,
        as more fill batches of a like length.
        """
        first, size = 0, min(FIRST if self.weights.bytes < LARGE else FIRST_OF_LARGE, at_once)
        while first < len(requests):
            yield from self.sample(requests[first : first + size])
            first, size = first + size, min(2 * size, at_once)

    def ask(self, request: SampleRequest) -> Sample:
        """One sample, decoded together with whatever other threads ask at that moment.

        Raises `dspy.lm15.ContextLengthError` if the prompt is too long.
        """
        waiting = [self._submit(each) for each in self.encoder.encode_request(request)]
        return choose_likeliest([each.result() for each in waiting], request.among)

    async def aask(self, request: SampleRequest) -> Sample:
        """As `ask`, for coroutines."""
        return await asyncio.to_thread(self.ask, request)

    @property
    def encoder(self) -> Encoder:
        """Turns requests and chats into token ids that fit the model's context."""
        return Encoder(self.weights, self._reader, self.max_new_tokens, self.name)

    @property
    def context(self) -> int:
        """The most tokens of a prompt and its reply together."""
        return self.weights.context

    def count(self, prompt: str) -> int:
        """How many tokens a prompt (the user message's text) has as the model reads it."""
        return len(self._reader.encode(self.weights.folders[0], [{"role": "user", "content": prompt}]))

    def complete(self, request: Request) -> Response:
        """DSPy's engine contract; many threads at once are served together.

        Honours temperature (default 0), top_p, max_tokens (default `max_new_tokens`), seed and stop. Without a seed the
        k-th request of the same prompt draws the k-th sample. Raises `dspy.lm15` errors.
        """
        return answer(request, self._submit(self._token_request(request)).result())

    def stream(self, request: Request) -> Iterator[StreamEvent]:
        """The whole reply as a stream's events."""
        return iter(response_to_events(self.complete(request)))

    def close(self) -> None:
        """Do nothing: the worker ends with the engine, and the engine with its last user."""

    def asynchronous(self) -> AsyncLocalEngine:
        """The same model for `dspy.LM(async_engine=...)`; both share one queue."""
        return AsyncLocalEngine(self)

    def with_adapter(self, path: str | Path | None) -> LocalEngine:
        """The same base and settings with another adapter, or with none; it takes the adapter's memory and no more."""
        trusting = self.trust_remote_code
        if self.dtype == _INT8 and path is not None:
            raise SetupError(_REFUSED.format(f"an adapter ({str(path)!r})"))
        engine = LocalEngine(self.model, trust_remote_code=trusting, **self._settings())
        engine.weights, engine._reader = self.weights.with_adapter(path), self._reader
        return engine

    def with_model(self, path: str | Path) -> LocalEngine:
        """The same settings with another model, and no adapter."""
        return LocalEngine(path, trust_remote_code=self.trust_remote_code, **self._settings())

    def with_checkpoint(self, path: Path) -> LocalEngine:
        """The same engine with trained weights: a PEFT adapter's folder, or a whole model's."""
        return self.with_adapter(path) if (path / ADAPTER).is_file() else self.with_model(path)

    @property
    def name(self) -> str:
        """The base model's short name, then the adapter folder's if there is one."""
        base = f"{Path(self.model).name}{self._mark}"
        return base if self.adapter is None else f"{base}+{self.adapter.name}"

    @property
    def identity(self) -> str:
        """The model's name in `run.json`."""
        return self.name

    @property
    def model(self) -> str:
        """The hub id or path, as passed in."""
        return self.weights.model

    @property
    def adapter(self) -> Path | None:
        """The adapter's folder."""
        return self.weights.adapter

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of the weight files, adapter included; another one in 8 bits, which make another actor."""
        exact = self.weights.fingerprint
        return hashlib.sha256(f"{exact} {_INT8}".encode()).hexdigest() if self.dtype == _INT8 else exact

    @property
    def model_name(self) -> str:
        """The name for `dspy.LM`, with the fingerprint, as DSPy's cache distinguishes models by name only."""
        return f"sgt/{Path(self.model).resolve().name}{self._mark}-{self.fingerprint[:12]}"

    @property
    def tokens_read(self) -> int:
        """How many prompt tokens the model has read so far; tokens that several prompts share count once."""
        return 0 if self._decoder is None else self._decoder.tokens_read

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer, loaded at first use."""
        return self._reader.tokenizer(self.weights.folders[0])

    def check(self) -> None:
        """Raise `GeneratorNotFoundError` where the model cannot be used.

        Its files are missing, cut or not those that were saved; they cannot be loaded here as a model that continues
        text; or the model always thinks before it answers.
        """
        self.weights.check()
        check_runnable(self.weights.folders[0], trust_remote_code=self.trust_remote_code)
        self._reader.check(self.weights.folders[0])

    def check_trainable(self) -> None:
        """Raise `SetupError` for 8 bits; other weights can be trained."""
        if self.dtype == _INT8:
            raise SetupError(_REFUSED.format("a generator that is to be trained"))

    def reference(self) -> LocalReference:
        """What a saved generator keeps: where the weights are, and the precision they run in."""
        return LocalReference(**self.weights.reference(), dtype=self.dtype)

    def dump_state(self) -> EngineState:
        """A reference for a saved program; no weights."""
        return EngineState(**self.weights.reference(), **self._settings())

    @classmethod
    def load_state(cls, state: EngineState, *, trust_remote_code: bool = False) -> LocalEngine:
        """The engine of a saved state; loads nothing yet. Raises `SavedStateError` for an adapter outside the folder.

        Trust is no part of a state: a file that someone else wrote cannot ask for it.
        """
        model, adapter = located(state["model"], state["adapter"])
        followed: EngineState = {**state, "model": model, "adapter": adapter}
        return cls(**followed, trust_remote_code=trust_remote_code)

    def __copy__(self) -> LocalEngine:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> LocalEngine:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return _restored, (self.dump_state(), self.trust_remote_code)

    def __repr__(self) -> str:
        return f"LocalEngine({self.model!r}, adapter={None if self.adapter is None else str(self.adapter)!r})"

    @property
    def _mark(self) -> str:
        """The part of a name for a precision that makes another actor of the same weights."""
        return f"-{_INT8}" if self.dtype == _INT8 else ""

    def _settings(self) -> EngineSettings:
        return EngineSettings(
            dtype=self.dtype,
            device=self.device,
            max_batch_tokens=self.max_batch_tokens,
            max_new_tokens=self.max_new_tokens,
            share=self.share,
        )

    def _token_request(self, request: Request) -> TokenRequest:
        """DSPy's request as token ids; without a seed the k-th request of one prompt gets the seed k."""
        ids, sampling = self.encoder.encode(chat(request)), sampling_of(request)
        if request.config.seed is None and sampling.temperature > 0:
            with self._loading:
                sampling = replace(sampling, seed=self._unseeded[ids])
                self._unseeded[ids] += 1
        return self.encoder.drawn(ids, sampling)

    def _submit(self, request: TokenRequest) -> Future[Sample]:
        """Put a request in the queue; the first one starts the worker."""
        with self._loading:
            if self._queue is None:
                from sgt_modules.local.loading import on_cpu

                rows = most_rows(self.weights.bytes, cpu=on_cpu(self.device, self.dtype))
                self._queue = begin(weakref.WeakMethod(self._serve), self.max_batch_tokens or _WAITING, rows)
                weakref.finalize(self, self._queue.put, None)
            queued = QueuedRequest(request, Future())
            self._queue.put(queued)
        return queued.sample

    def _decode(self, requests: Iterable[TokenRequest]) -> Mapping[TokenRequest, Sample]:
        return self._loaded().decode(requests, self.max_batch_tokens)

    def _serve(self, requests: Sequence[TokenRequest]) -> Mapping[TokenRequest, Sample]:
        """As `_decode`, for the queue: the callers' threads have work of their own meanwhile."""
        return self._loaded().decode(requests, self.max_batch_tokens, sparing=len(requests) > 1, direct=False)

    def _loaded(self) -> Decoder:
        with self._loading:
            if self._decoder is None:
                with loading(self.name):
                    self._decoder = self._load()
            return self._decoder

    def _load(self) -> Decoder:
        from sgt_modules.local.decoding import Decoder
        from sgt_modules.local.loading import Loaded

        self.check()
        trusting = self.trust_remote_code
        loaded = Loaded(self.weights.folders, device=self.device, dtype=self.dtype, trust_remote_code=trusting)
        return Decoder(loaded, self.tokenizer, share=self.share, name=self.name)


class AsyncLocalEngine:
    """A `LocalEngine` for `dspy.LM(async_engine=...)`: coroutines wait in the same queue as threads.

    >>> AsyncLocalEngine(LocalEngine("some/model")).engine.model
    'some/model'
    """

    def __init__(self, engine: LocalEngine) -> None:
        self.engine = engine

    async def complete(self, request: Request) -> Response:
        """As `LocalEngine.complete`."""
        encoded = await asyncio.to_thread(self.engine._token_request, request)
        return answer(request, await asyncio.wrap_future(self.engine._submit(encoded)))

    async def stream(self, request: Request) -> AsyncIterator[StreamEvent]:
        """The whole reply as a stream's events."""
        for event in response_to_events(await self.complete(request)):
            yield event

    async def aclose(self) -> None:
        """Do nothing."""

    def dump_state(self) -> EngineState:
        """As `LocalEngine.dump_state`."""
        return self.engine.dump_state()

    @classmethod
    def load_state(cls, state: EngineState) -> AsyncLocalEngine:
        """As `LocalEngine.load_state`."""
        return cls(LocalEngine.load_state(state))

    def __deepcopy__(self, memo: dict[int, object]) -> AsyncLocalEngine:
        return self


def _restored(state: EngineState, trust_remote_code: bool = False) -> LocalEngine:
    """The engine of a pickle; a function, as cloudpickle would copy a method with all that it refers to."""
    return LocalEngine.load_state(state, trust_remote_code=trust_remote_code)
