"""A queue and its worker thread, which decodes the requests of many threads together, as batches."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING
from weakref import ReferenceType, finalize

from dspy.lm15 import LM15Error, ProviderError

from sgt_modules.errors import SGTError
from sgt_modules.local.cancellation import WorkCancelled

if TYPE_CHECKING:
    from sgt_modules.local.batching import TokenRequest
    from sgt_modules.samples import Sample

GAP = 0.002, 1 / 10
"""A batch is closed after so long without a new request: the larger of these seconds and this share of the last batch's
seconds. Threads that got their answers together ask again at about the same time."""

PATIENCE = 0.02, 1 / 2
"""The longest that a batch waits for more requests, in the same two numbers."""

SINGLE = 1 / 10
"""The share of both that a request waits which comes to an idle model after a batch of one request: it is probably
alone again, but may be the first of many."""

LARGE_MODEL_BYTES = 64 * 2**20
"""Bytes of weights of a large model: one that spends most of a token's time on reading the weights."""

LARGE_MODEL_SECONDS = 1.0
"""How long the first batch of a large model is expected to take, at least."""

_MAX_ROWS = 32
"""The most requests of a batch on a CPU. More rows save no time for each row. With 64 callers, one half runs its own
code, or waits for another model, while the other half's requests are decoded."""

_MAX_ROWS_OF_LARGE = 128
"""The same for a large model: the rows of a batch share the reading of their common prefix."""


@dataclass(frozen=True, slots=True)
class QueuedRequest:
    """A request, and the future sample that its caller waits for."""

    request: TokenRequest
    sample: Future[Sample]


_Queue = SimpleQueue[QueuedRequest | None]
"""Requests; None ends the worker."""

Decode = Callable[[Sequence["TokenRequest"]], Mapping["TokenRequest", "Sample"]]

Load = Callable[[], Decode]
"""Loads the model, unless it is loaded."""


def choose_max_rows(weight_bytes: int, *, cpu: bool) -> int:
    """The most requests of a batch from the queue.

    >>> choose_max_rows(2**20, cpu=True), choose_max_rows(2**30, cpu=True)
    (32, 128)
    """
    if not cpu:
        return sys.maxsize
    return _MAX_ROWS if weight_bytes < LARGE_MODEL_BYTES else _MAX_ROWS_OF_LARGE


class RequestQueue:
    """The queue and its worker thread, which ends when this object is garbage-collected."""

    def __init__(self, load: ReferenceType[Load], max_tokens: int, max_rows: int, expected: float = 0.0) -> None:
        """Start the worker; the numbers as in `_serve_queue`."""
        self._queue: _Queue = SimpleQueue()
        arguments = self._queue, load, max_tokens, max_rows, expected
        threading.Thread(target=_serve_queue, args=arguments, name="sgt-engine", daemon=True).start()
        finalize(self, self._queue.put, None)

    def submit(self, request: TokenRequest) -> Future[Sample]:
        """Put a request in the queue; return its future sample."""
        queued = QueuedRequest(request, Future())
        self._queue.put(queued)
        return queued.sample


def _serve_queue(queue: _Queue, load: ReferenceType[Load], max_tokens: int, max_rows: int, expected: float) -> None:
    """Decode batches of up to `max_rows` requests, or about `max_tokens` tokens, until None is in the queue.

    The first batch is expected to take `expected` seconds. A batch is closed after the model is loaded, so that the
    requests of that time belong to it. The worker refers to the model only while it loads and decodes, so that an
    unused engine is garbage-collected.
    """
    seconds, single = expected, False
    while True:
        idle = queue.empty()
        first = queue.get()
        if first is None:
            return
        decode = _load(load())
        share = SINGLE if idle and single else 1.0
        batch, is_open = _collect_batch(queue, first, max_tokens, max_rows, seconds, share)
        single = len(batch) == 1
        began = time.monotonic()
        _answer_batch(batch, decode)
        seconds = time.monotonic() - began
        del first, batch, decode
        if not is_open:
            return


def _load(load: Load | None) -> Decode | BaseException:
    """The loaded model's function, or the error that its callers are to raise."""
    if load is None:
        return ProviderError("The engine was collected while a request waited; keep a reference to it.")
    try:
        return load()
    except (Exception, WorkCancelled) as error:  # noqa: BLE001 - the callers raise it; this thread goes on
        return error


def _collect_batch(
    queue: _Queue, first: QueuedRequest, max_tokens: int, max_rows: int, seconds: float, share: float
) -> tuple[list[QueuedRequest], bool]:
    """The requests in the queue and those that keep arriving, and whether the queue is still open.

    `seconds` is how long the last batch took; `share` says how much of `GAP` and `PATIENCE` to wait.
    """
    batch = [first]
    gap, patience = (share * max(least, part * seconds) for least, part in (GAP, PATIENCE))
    until = time.monotonic() + patience
    tokens = _count_tokens(first)
    while tokens < max_tokens and len(batch) < max_rows:
        left = min(gap, until - time.monotonic())
        try:
            more = queue.get(timeout=left) if left > 0 else queue.get_nowait()
        except Empty:
            break
        if more is None:
            return batch, False
        batch.append(more)
        tokens += _count_tokens(more)
    return batch, True


def _count_tokens(queued: QueuedRequest) -> int:
    return len(queued.request.ids) + queued.request.limit


def _answer_batch(batch: list[QueuedRequest], decode: Decode | BaseException) -> None:
    """Decode a batch and set its futures: to the samples, or all of them to the error."""
    waiting = [each for each in batch if each.sample.set_running_or_notify_cancel()]
    try:
        if isinstance(decode, BaseException):
            raise decode
        samples = decode([each.request for each in waiting])
    except (Exception, WorkCancelled) as error:  # noqa: BLE001 - as in `_load`
        expected = isinstance(error, LM15Error | SGTError | WorkCancelled)
        failure = error if expected else ProviderError(f"{type(error).__name__}: {error}")
        failure.__cause__ = None if failure is error else error
        for each in waiting:
            each.sample.set_exception(failure)
        return
    for each in waiting:
        each.sample.set_result(samples[each.request])
