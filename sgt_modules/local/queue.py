"""One worker that answers many threads together: what waits in the queue is decoded as one batch."""

from __future__ import annotations

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
    from sgt_modules.local.batching import Decoded, Job

GAP = 0.002, 1 / 10
"""A batch is closed after this many seconds without a new request, or after this share of the last batch's seconds:
threads that were answered together come back together, but not at once."""

PATIENCE = 0.02, 1 / 2
"""A batch waits no longer than this for company, in the same two units."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A job, and where its caller waits for the answer."""

    job: Job
    answer: Future[Decoded]


Queue = SimpleQueue[Asked | None]
"""Requests; None ends the worker."""

Decode = Callable[[Sequence["Job"]], Mapping["Job", "Decoded"]]


def begin(decode: ReferenceType[Decode], full: int, rows: int) -> Queue:
    """The queue of a new worker, which does as `serve` until None is put there."""
    queue: Queue = SimpleQueue()
    threading.Thread(target=serve, args=(queue, decode, full, rows), name="sgt-engine", daemon=True).start()
    return queue


def serve(queue: Queue, decode: ReferenceType[Decode], full: int, rows: int) -> None:
    """Answer until the queue says None or the model is gone; `rows` requests, or `full` tokens, wait for no more.

    A caller who comes to an idle model, and had the last batch to himself, does not wait for company. Holds the model
    only while it decodes, so that an engine nobody uses can be collected.
    """
    took, single = 0.0, False
    while True:
        idle = queue.empty()
        first = queue.get()
        if first is None:
            return
        asked, open_ = _gather(queue, first, took, full, rows, waits=not (idle and single))
        single = len(asked) == 1
        began = time.monotonic()
        _answer(asked, decode())
        took = time.monotonic() - began
        del first, asked
        if not open_:
            return


def _gather(queue: Queue, first: Asked, took: float, full: int, rows: int, *, waits: bool) -> tuple[list[Asked], bool]:
    """All that is there and, if it `waits`, what keeps arriving; and whether the queue is still open."""
    asked = [first]
    gap, patience = (max(least, share * took) for least, share in (GAP, PATIENCE))
    until = time.monotonic() + (patience if waits else 0.0)
    tokens = _tokens(first)
    while tokens < full and len(asked) < rows:
        left = min(gap, until - time.monotonic())
        try:
            more = queue.get(timeout=left) if left > 0 else queue.get_nowait()
        except Empty:
            break
        if more is None:
            return asked, False
        asked.append(more)
        tokens += _tokens(more)
    return asked, True


def _tokens(asked: Asked) -> int:
    return len(asked.job.ids) + asked.job.limit


def _answer(asked: list[Asked], decode: Decode | None) -> None:
    waiting = [each for each in asked if each.answer.set_running_or_notify_cancel()]
    try:
        if decode is None:
            raise ProviderError("The engine was collected while a request waited; keep a reference to it.")
        decoded = decode([each.job for each in waiting])
    except (Exception, Abandoned) as error:  # noqa: BLE001 - whatever it is belongs to the callers, not to this thread
        ours = isinstance(error, LM15Error | SGTError | Abandoned)
        failure = error if ours else ProviderError(f"{type(error).__name__}: {error}")
        failure.__cause__ = None if failure is error else error
        for each in waiting:
            each.answer.set_exception(failure)
        return
    for each in waiting:
        each.answer.set_result(decoded[each.job])
