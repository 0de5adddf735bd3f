"""Threads that share their creator's `dspy.context`: maps, generators read ahead, work in the background."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import NamedTuple, TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_context(work: Callable[[], None], name: str) -> threading.Thread:
    """Returns a daemon thread, not started yet, that calls `work` under the caller's `dspy.context`."""
    return threading.Thread(target=contextvars.copy_context().run, args=(work,), name=name, daemon=True)


def map_in_threads(work: Callable[[_Item], _Result], items: Iterable[_Item], *, threads: int) -> list[_Result]:
    """Calls `work` for each item under the caller's `dspy.context`; returns results in the items' order.

    The first error is raised once the calls that have begun are done; the others are left out.

    >>> map_in_threads(lambda number: number * 10, [0, 1, 2], threads=2)
    [0, 10, 20]
    """
    with ThreadPoolExecutor(max(1, threads)) as pool:
        calls = [pool.submit(contextvars.copy_context().run, work, item) for item in items]
        try:
            return [call.result() for call in calls]
        finally:
            pool.shutdown(cancel_futures=True)


class Background:
    """Work that another thread does while the caller goes on with its own."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._problem: BaseException | None = None
        self._work = work
        self._thread = in_context(self._do, "sgt-background")
        self._thread.start()

    def _do(self) -> None:
        try:
            self._work()
        except BaseException as problem:  # noqa: BLE001 - raised in the caller's thread
            self._problem = problem

    def check(self) -> None:
        """Raise the error that ended the work, if one has."""
        if self._problem is not None:
            raise self._problem

    def wait(self) -> None:
        """Wait until the work has ended."""
        self._thread.join()


@contextmanager
def in_background(work: Callable[[], None]) -> Iterator[Background]:
    """Does the work in another thread under the caller's `dspy.context`, and waits for it at the end of the block.

    An error of the block is raised first, else one of the work; either waits until the other has ended.

    >>> done = []
    >>> with in_background(lambda: done.append("actor")):
    ...     training = "trainer"
    >>> [training, *done]
    ['trainer', 'actor']
    """
    background = Background(work)
    try:
        yield background
    finally:
        background.wait()
    background.check()


class _End(NamedTuple):
    """Follows the last item in the queue; `problem` is the exception that ended the generator, if one did."""

    problem: BaseException | None


@contextmanager
def prefetch(items: Generator[_Item]) -> Iterator[Iterator[_Item]]:
    """Prefetches a generator's items, in order, in a background thread under the caller's `dspy.context`.

    An exception of the generator is raised in the reader, after the items before it. Leaving the context early closes
    the generator after the item that it is making.

    >>> with prefetch(number * number for number in range(3)) as squares:
    ...     list(squares)
    [0, 1, 4]
    """
    queue = SimpleQueue[_Item | _End]()
    stop = threading.Event()

    def fill() -> None:
        problem: BaseException | None = None
        try:
            for item in items:
                queue.put(item)
                if stop.is_set():
                    break
            items.close()
        except BaseException as error:  # noqa: BLE001 - raised again below, in the reader's thread
            problem = error
        queue.put(_End(problem))

    in_context(fill, "sgt-prefetch").start()
    try:
        yield _read(queue)
    finally:
        stop.set()


def _read(queue: SimpleQueue[_Item | _End]) -> Iterator[_Item]:
    while not isinstance(item := queue.get(), _End):
        yield item
    if item.problem is not None:
        raise item.problem
