"""LocalEngine: a Hugging Face model in this process, as an engine for `dspy.LM`. It serves many callers together.

    many threads -> complete(), ask() -> one queue -> one worker -> Decoder -> the base's weights (torch)
    one caller   -> sample() ---------------------------------------^   (shared; one batch at a time)

Torch is imported when the model is first loaded.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args
from weakref import WeakMethod

from dspy.lm15 import Request, Response, response_to_events

from sgt_modules.backend import answer, chat, sampling_of
from sgt_modules.errors import SetupError
from sgt_modules.local.activity import track_loading
from sgt_modules.local.batching import BATCH_TOKENS, Share, TokenRequest
from sgt_modules.local.chat_template import ChatTokenizer
from sgt_modules.local.encoding import Encoder, choose_likeliest
from sgt_modules.local.engine_state import EngineSettings, EngineState, LocalReference
from sgt_modules.local.load_checks import check_loadable
from sgt_modules.local.request_queue import (
    LARGE_MODEL_BYTES,
    LARGE_MODEL_SECONDS,
    Decode,
    RequestQueue,
    choose_max_rows,
)
from sgt_modules.samples import Sample, SampleRequest
from sgt_modules.saving.weights import ADAPTER, Weights, locate
from sgt_modules.sharing import SharedByCopies

if TYPE_CHECKING:
    from dspy._vendor.lm15.types import StreamEvent
    from transformers import PreTrainedTokenizerBase

    from sgt_modules.local.decoding import Decoder

FIRST_REQUESTS = 64
"""How many requests `samples` decodes before it yields the first sample; each further group is twice as large."""

FIRST_REQUESTS_OF_LARGE = 256
"""The same for a large model, where a step takes as long for a batch's last few rows as for many."""

_QUEUE_TOKENS = 16 * BATCH_TOKENS
"""Tokens of requests that are taken from the queue together, without a `max_batch_tokens`."""

_INT8 = "int8"

_INT8_REFUSAL = (
    "Expected a bare frozen model for dtype='int8', got {}: 8 bits can't be trained or take an adapter. Use "
    "dtype='auto', or merge the adapter into a model and pass its folder."
)


class LocalEngine(SharedByCopies):
    """A causal LM (hub id or folder, safetensors only) with an optional PEFT adapter, for `dspy.LM(engine=...)`.

    The model is loaded at first use, which raises `GeneratorNotFoundError` if it does not exist. Equal (prompt, seed,
    temperature) give equal replies, whatever else is in the batch; in `float64` they are exactly equal. Engines with
    the same base, dtype and device share its weights in memory.

    Prompt tokens that several prompts of a batch begin with are read once. With `share="batch"`, only the tokens that
    all of them begin with are read once; the replies are the same.

    `dtype="int8"` rounds a frozen actor's linear layers to 8 bits, on a CPU: a different actor, several times faster,
    with a name and a fingerprint of its own. It takes no adapter and cannot be trained.

        engine = LocalEngine("Qwen/Qwen3-1.7B")
        lm = dspy.LM(engine.model_name, engine=engine, async_engine=engine.asynchronous())

    Args:
        model: A hub id, or a folder of `save_pretrained()`.
        adapter: The folder of a PEFT adapter.
        dtype: By default bfloat16 on a GPU, float16 on Apple's, float32 on a CPU.
        device: By default a GPU if there is one.
        trust_remote_code: Whether a model's own code may run.
        max_batch_tokens: The most rows x (longest prompt + new tokens) of a batch; by default at least 16,384, on a
            GPU what half of its free memory holds.
        max_new_tokens: The most tokens of a reply.
        share: Which shared prompt tokens are read once, see above.
        revision: The commit or branch of a hub id.
        sha256: The fingerprint that the model's weights must have.
        adapter_sha256: The fingerprint that the adapter's weights must have.

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
            raise SetupError(_INT8_REFUSAL.format(f"an adapter ({str(adapter)!r})"))
        self.weights = Weights(
            model, adapter, revision=revision, sha256=sha256, adapter_sha256=adapter_sha256, code=trust_remote_code
        )
        self.dtype, self.device, self.trust_remote_code = dtype, device, trust_remote_code
        self.max_batch_tokens, self.max_new_tokens = max_batch_tokens, max_new_tokens
        self.share: Share = share
        self._lock = threading.RLock()
        self._tokenizer = ChatTokenizer(trust_remote_code=trust_remote_code)
        self._decoder: Decoder | None = None
        self._unseeded_counts: Counter[tuple[int, ...]] = Counter()
        self._queue: RequestQueue | None = None

    def sample(self, requests: Sequence[SampleRequest]) -> list[Sample]:
        """One sample for each request, in order, all decoded together; equal requests are decoded once.

        A prompt that is too long gets an empty sample and a warning.
        """
        encoded = self.encoder.encode_requests(requests)
        samples = self._decode([each for of_one in encoded for each in of_one])
        return [
            choose_likeliest([samples[each] for each in of_one], request.among)
            for request, of_one in zip(requests, encoded, strict=True)
        ]

    def samples(self, requests: Sequence[SampleRequest], *, at_once: int = 1024) -> Iterator[Sample]:
        """As `sample`, but decodes groups of requests one after the other, and yields the samples of each group.

        The first groups are small, so that a sample comes soon; later ones have up to `at_once` requests, as batches of
        similar length can be cut from many.
        """
        large = self.weights.bytes >= LARGE_MODEL_BYTES
        start, size = 0, min(FIRST_REQUESTS_OF_LARGE if large else FIRST_REQUESTS, at_once)
        while start < len(requests):
            yield from self.sample(requests[start : start + size])
            start, size = start + size, min(2 * size, at_once)

    def ask(self, request: SampleRequest) -> Sample:
        """One sample, decoded together with the requests of other threads at that moment.

        Raises `dspy.lm15.ContextLengthError` if the prompt is too long.
        """
        futures = [self._submit(each) for each in self.encoder.encode_request(request)]
        return choose_likeliest([each.result() for each in futures], request.among)

    async def aask(self, request: SampleRequest) -> Sample:
        """As `ask`, for coroutines."""
        return await asyncio.to_thread(self.ask, request)

    @property
    def encoder(self) -> Encoder:
        """Encodes requests and chats as token ids that fit the model's context."""
        return Encoder(self.weights, self._tokenizer, self.max_new_tokens, self.name)

    @property
    def context(self) -> int:
        """The most tokens of a prompt and its reply together."""
        return self.weights.context

    def count(self, prompt: str) -> int:
        """How many tokens the model reads for a prompt, which is the text of a user message."""
        return len(self._tokenizer.encode(self.weights.folders[0], [{"role": "user", "content": prompt}]))

    def complete(self, request: Request) -> Response:
        """Reply to a request of DSPy; requests of several threads are decoded together.

        Supports temperature (default 0), top_p, max_tokens (default `max_new_tokens`), seed and stop. Without a seed
        the k-th request of a prompt gets the seed k, from 0. Raises `dspy.lm15` errors.
        """
        return answer(request, self._submit(self._make_token_request(request)).result())

    def stream(self, request: Request) -> Iterator[StreamEvent]:
        """The whole reply as a stream's events."""
        return iter(response_to_events(self.complete(request)))

    def close(self) -> None:
        """Do nothing: the worker ends when the engine is garbage-collected."""

    def asynchronous(self) -> AsyncLocalEngine:
        """The same model for `dspy.LM(async_engine=...)`, with the same queue."""
        return AsyncLocalEngine(self)

    def with_adapter(self, path: str | Path | None) -> LocalEngine:
        """The same base and settings with another adapter, or with none; only the adapter needs more memory."""
        if self.dtype == _INT8 and path is not None:
            raise SetupError(_INT8_REFUSAL.format(f"an adapter ({str(path)!r})"))
        engine = LocalEngine(self.model, trust_remote_code=self.trust_remote_code, **self._make_settings())
        engine.weights, engine._tokenizer = self.weights.with_adapter(path), self._tokenizer
        return engine

    def with_model(self, path: str | Path) -> LocalEngine:
        """The same settings with another model, and no adapter."""
        return LocalEngine(path, trust_remote_code=self.trust_remote_code, **self._make_settings())

    def with_checkpoint(self, path: Path) -> LocalEngine:
        """The same engine with trained weights: a PEFT adapter's folder, or a whole model's."""
        return self.with_adapter(path) if (path / ADAPTER).is_file() else self.with_model(path)

    @property
    def name(self) -> str:
        """The base model's short name, then the adapter folder's if there is one."""
        base = f"{Path(self.model).name}{self._name_suffix}"
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
        """sha256 (hex) of the weight files, adapter included; with int8 a different one, as the actor differs."""
        exact = self.weights.fingerprint
        return hashlib.sha256(f"{exact} {_INT8}".encode()).hexdigest() if self.dtype == _INT8 else exact

    @property
    def model_name(self) -> str:
        """The name for `dspy.LM`. It includes the fingerprint, as DSPy's cache distinguishes models by name only."""
        return f"sgt/{Path(self.model).resolve().name}{self._name_suffix}-{self.fingerprint[:12]}"

    @property
    def tokens_read(self) -> int:
        """The number of prompt tokens read so far; tokens that are read once for several prompts count once."""
        return 0 if self._decoder is None else self._decoder.tokens_read

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer, loaded at first use."""
        return self._tokenizer.load(self.weights.folders[0])

    def check(self) -> None:
        """Raise `GeneratorNotFoundError` if the model cannot be used.

        The reasons: its files are missing, incomplete or not those that were saved; this machine cannot load them as a
        causal language model; or the model always thinks before it answers.
        """
        self.weights.check()
        check_loadable(self.weights.folders[0], trust_remote_code=self.trust_remote_code)
        self._tokenizer.check_thinking_off(self.weights.folders[0])

    def check_trainable(self) -> None:
        """Raise `SetupError` for int8; weights of any other precision can be trained."""
        if self.dtype == _INT8:
            raise SetupError(_INT8_REFUSAL.format("a generator that is to be trained"))

    def reference(self) -> LocalReference:
        """The state of a saved generator: the location of the weights, and their precision."""
        return LocalReference(**self.weights.reference(), dtype=self.dtype)

    def dump_state(self) -> EngineState:
        """The state of a saved program: the location of the weights, and the engine's settings."""
        return EngineState(**self.weights.reference(), **self._make_settings())

    @classmethod
    def load_state(cls, state: EngineState, *, trust_remote_code: bool = False) -> LocalEngine:
        """The engine of a saved state, whose model is not loaded yet.

        `trust_remote_code` is no part of a state, so that a file from someone else cannot switch it on. Raises
        `SavedStateError` for an adapter outside the folder.
        """
        model, adapter = locate(state["model"], state["adapter"])
        located_state: EngineState = {**state, "model": model, "adapter": adapter}
        return cls(**located_state, trust_remote_code=trust_remote_code)

    def __reduce__(self) -> tuple[object, ...]:
        return _restore_engine, (self.dump_state(), self.trust_remote_code)

    def __repr__(self) -> str:
        return f"LocalEngine({self.model!r}, adapter={None if self.adapter is None else str(self.adapter)!r})"

    @property
    def _name_suffix(self) -> str:
        """The end of the base's name: int8 makes a different actor of the same weights."""
        return f"-{_INT8}" if self.dtype == _INT8 else ""

    def _make_settings(self) -> EngineSettings:
        return EngineSettings(
            dtype=self.dtype,
            device=self.device,
            max_batch_tokens=self.max_batch_tokens,
            max_new_tokens=self.max_new_tokens,
            share=self.share,
        )

    def _make_token_request(self, request: Request) -> TokenRequest:
        """A request of DSPy as token ids; see `complete` for the seed."""
        ids, sampling = self.encoder.encode(chat(request)), sampling_of(request)
        if request.config.seed is None and sampling.temperature > 0:
            with self._lock:
                sampling = replace(sampling, seed=self._unseeded_counts[ids])
                self._unseeded_counts[ids] += 1
        return self.encoder.make_token_request(ids, sampling)

    def _submit(self, request: TokenRequest) -> Future[Sample]:
        """Put a request in the queue; the first one starts the worker."""
        with self._lock:
            if self._queue is None:
                from sgt_modules.local.devices import runs_on_cpu

                max_rows = choose_max_rows(self.weights.bytes, cpu=runs_on_cpu(self.device, self.dtype))
                max_tokens = self.max_batch_tokens or _QUEUE_TOKENS
                expected = LARGE_MODEL_SECONDS if self.weights.bytes >= LARGE_MODEL_BYTES else 0.0
                self._queue = RequestQueue(WeakMethod(self._load_queued), max_tokens, max_rows, expected)
            return self._queue.submit(request)

    def _decode(self, requests: Iterable[TokenRequest]) -> Mapping[TokenRequest, Sample]:
        return self._get_decoder().decode(requests, self.max_batch_tokens)

    def _load_queued(self) -> Decode:
        """Load the model; return `_decode` for the queue, which leaves cores to the threads of several callers."""
        decoder, limit = self._get_decoder(), self.max_batch_tokens
        return lambda requests: decoder.decode(requests, limit, one_core=len(requests) > 1, direct=False)

    def _get_decoder(self) -> Decoder:
        """The decoder, whose model is loaded at the first call."""
        with self._lock:
            if self._decoder is None:
                with track_loading(self.name):
                    self._decoder = self._load_decoder()
            return self._decoder

    def _load_decoder(self) -> Decoder:
        from sgt_modules.local.decoding import Decoder
        from sgt_modules.local.loading import LoadedModel

        self.check()
        model = LoadedModel(
            self.weights.folders, device=self.device, dtype=self.dtype, trust_remote_code=self.trust_remote_code
        )
        return Decoder(model, self.tokenizer, share=self.share, name=self.name)


class AsyncLocalEngine(SharedByCopies):
    """A `LocalEngine` for `dspy.LM(async_engine=...)`: coroutines wait in the same queue as threads.

    >>> AsyncLocalEngine(LocalEngine("some/model")).engine.model
    'some/model'
    """

    def __init__(self, engine: LocalEngine) -> None:
        self.engine = engine

    async def complete(self, request: Request) -> Response:
        """As `LocalEngine.complete`."""
        token_request = await asyncio.to_thread(self.engine._make_token_request, request)
        return answer(request, await asyncio.wrap_future(self.engine._submit(token_request)))

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


def _restore_engine(state: EngineState, trust_remote_code: bool = False) -> LocalEngine:
    """Unpickle an engine. A function, as cloudpickle would copy a method with all that it refers to."""
    return LocalEngine.load_state(state, trust_remote_code=trust_remote_code)
