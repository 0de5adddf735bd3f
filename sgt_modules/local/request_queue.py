"""One worker that answers many threads together: what waits in the queue is decoded as one batch."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING
from weakref import ReferenceType

from dspy.lm15 import LM15Error, ProviderError

from sgt_modules.errors import SGTError
from sgt_modules.local.activity import Abandoned

if TYPE_CHECKING:
    from sgt_modules.local.batching import TokenRequest
    from sgt_modules.samples import Sample

GAP = 0.002, 1 / 10
"""A batch is closed after this many seconds without a new request, or after this share of the last batch's seconds:
threads that were answered together come back together, but not at once."""

PATIENCE = 0.02, 1 / 2
"""The longest that a batch waits for more requests, in the same two units."""

LARGE = 64 * 2**20
"""Bytes of weights from which on reading the weights is what a token costs."""

_ROWS = 32
"""Requests that are taken from the queue together on a CPU: more take as long for each row, and of 64 callers one half
runs its own code, or has another model decode, while the other half is answered."""

_ROWS_OF_LARGE = 128
"""The same for a large model: the rows of a batch read once what they share."""


@dataclass(frozen=True, slots=True)
class QueuedRequest:
    """A request, and where its caller waits for the sample."""

    request: TokenRequest
    sample: Future[Sample]


Queue = SimpleQueue[QueuedRequest | None]
"""Requests; None ends the worker."""

Decode = Callable[[Sequence["TokenRequest"]], Mapping["TokenRequest", "Sample"]]


def most_rows(weights: int, *, cpu: bool) -> int:
    """The most requests of a batch from the queue, for a model of so many bytes of weights.

    >>> most_rows(2**20, cpu=True), most_rows(2**30, cpu=True)
    (32, 128)
    """
    if not cpu:
        return sys.maxsize
    return _ROWS if weights < LARGE else _ROWS_OF_LARGE


def begin(decode: ReferenceType[Decode], full: int, rows: int) -> Queue:
    """The queue of a new worker, which runs `serve` until None is put there."""
    queue: Queue = SimpleQueue()
    threading.Thread(target=serve, args=(queue, decode, full, rows), name="sgt-engine", daemon=True).start()
    return queue


def serve(queue: Queue, decode: ReferenceType[Decode], full: int, rows: int) -> None:
    """Answer until the queue gives None or the model is gone; `rows` requests, or `full` tokens, close a batch.

    A caller that finds an idle model, and was alone in the last batch, does not wait for others. The worker holds the
    model only while it decodes, so that an engine that nobody uses can be collected.
    """
    took, single = 0.0, False
    while True:
        idle = queue.empty()
        first = queue.get()
        if first is None:
            return
        batch, open_ = _gather(queue, first, took, full, rows, waits=not (idle and single))
        single = len(batch) == 1
        began = time.monotonic()
        _answer(batch, decode())
        took = time.monotonic() - began
        del first, batch
        if not open_:
            return


def _gather(
    queue: Queue, first: QueuedRequest, took: float, full: int, rows: int, *, waits: bool
) -> tuple[list[QueuedRequest], bool]:
    """All that is in the queue and, if it `waits`, what keeps arriving; and whether the queue is still open."""
    batch = [first]
    gap, patience = (max(least, share * took) for least, share in (GAP, PATIENCE))
    until = time.monotonic() + (patience if waits else 0.0)
    tokens = _tokens(first)
    while tokens < full and len(batch) < rows:
        left = min(gap, until - time.monotonic())
        try:
            more = queue.get(timeout=left) if left > 0 else queue.get_nowait()
        except Empty:
            break
        if more is None:
            return batch, False
        batch.append(more)
        tokens += _tokens(more)
    return batch, True


def _tokens(queued: QueuedRequest) -> int:
    return len(queued.request.ids) + queued.request.limit


def _answer(batch: list[QueuedRequest], decode: Decode | None) -> None:
    waiting = [each for each in batch if each.sample.set_running_or_notify_cancel()]
    try:
        if decode is None:
            raise ProviderError("The engine was collected while a request waited; keep a reference to it.")
        samples = decode([each.request for each in waiting])
    except (Exception, Abandoned) as error:  # noqa: BLE001 - whatever it is belongs to the callers, not to this thread
        ours = isinstance(error, LM15Error | SGTError | Abandoned)
        failure = error if ours else ProviderError(f"{type(error).__name__}: {error}")
        failure.__cause__ = None if failure is error else error
        for each in waiting:
            each.sample.set_exception(failure)
        return
    for each in waiting:
        each.sample.set_result(samples[each.request])
