"""Threads that see their maker's `dspy.context`, and keep nothing from ending."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def in_context(work: Callable[[], None], name: str) -> threading.Thread:
    """A daemon thread of that name, not started yet, which does `work` under the caller's context."""
    return threading.Thread(target=contextvars.copy_context().run, args=(work,), name=name, daemon=True)


def in_turns(work: Callable[[int], T], waiting: Iterator[Sequence[int]], *, threads: int) -> list[T]:
    """`work(position)` for every position, in the positions' order; the first exception stops the rest and is raised.

    `waiting` gives positions, each number from 0 once, some at a time. Each thread draws its next ones itself, does
    them one after the other, and sees the caller's `dspy.context`.

    >>> in_turns(lambda position: position * 10, iter([[0, 2], [1]]), threads=2)
    [0, 10, 20]
    """
    drawing, stop = threading.Lock(), threading.Event()
    done: dict[int, T] = {}
    problems: list[BaseException] = []

    def drain() -> None:
        try:
            while not stop.is_set():
                with drawing:
                    positions = next(waiting, ())
                if not positions:
                    return
                for position in positions:
                    done[position] = work(position)
        except BaseException as problem:  # noqa: BLE001 - raised again below, in the caller's thread
            problems.append(problem)
            stop.set()

    crew = [in_context(drain, "sgt-actor") for _ in range(threads)]
    try:
        for thread in crew:
            thread.start()
        for thread in crew:
            thread.join()
    finally:  # a second Ctrl-C leaves threads at work: they save what they have, and draw no more
        stop.set()
    if problems:
        raise problems[0]
    return [done[position] for position in range(len(done))]
