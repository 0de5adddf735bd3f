"""What a run spends besides the actor's calls: seconds by work, kept on disk as they pass."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

from optimizers.core.result import Spent
from optimizers.core.run_folder import RunFolder

Work = Literal["sampling", "acting", "training"]


CLOCK = "clock.json"
"""Seconds of all sessions of a run's folder: in `total`, and by work."""

SCORING = "scoring.json"
"""Seconds that scoring a finished run took, in all sessions."""

KEPT_EVERY = 0.25
"""Seconds between two writes of a folder's clock, at least."""


class Spending:
    """Counts as the run goes, from what the sessions `before` counted; safe from many threads.

    >>> spending = Spending()
    >>> with spending.timed("acting"):
    ...     pass
    >>> spending.so_far.acting > 0
    True
    """

    def __init__(self, before: Spent | None = None) -> None:
        self._ended = before or Spent()
        self._running: dict[int, tuple[Work, float]] = {}
        self._number = itertools.count()
        self._lock = threading.Lock()

    @property
    def so_far(self) -> Spent:
        """What is counted until now, work under way included."""
        with self._lock:
            now, spent = time.perf_counter(), self._ended
            for what, began in self._running.values():
                spent = _longer(spent, what, now - began)
            return spent

    @contextmanager
    def timed(self, what: Work) -> Iterator[None]:
        """The seconds inside count as this work; of work that overlaps, each counts its own."""
        with self._lock:
            number = next(self._number)
            self._running[number] = (what, time.perf_counter())
        try:
            yield
        finally:
            with self._lock:
                _, began = self._running.pop(number)
                self._ended = _longer(self._ended, what, time.perf_counter() - began)


def _longer(spent: Spent, what: Work, seconds: float) -> Spent:
    return replace(spent, **{what: getattr(spent, what) + seconds})


class Clock:
    """Writes a run's seconds to its folder, at most every `KEPT_EVERY` seconds; safe from many threads.

    A process that is killed loses the seconds since the last rollout or sample that it wrote, and that time at most.
    """

    def __init__(self, folder: RunFolder, seconds: Callable[[], Mapping[str, float]], file: str = CLOCK) -> None:
        self._folder, self._seconds, self._file = folder, seconds, file
        self._lock, self._next = threading.Lock(), 0.0

    @staticmethod
    def before(folder: RunFolder) -> Spent:
        """The seconds of the sessions before; of a folder without a clock, those at the end of its last stage."""
        known = folder.read(CLOCK)
        spent = Spent.read(folder.read("spent.json") or {} if known is None else known)
        return Spent(sampling=spent.sampling, acting=spent.acting, training=spent.training, total=spent.total)

    @classmethod
    def of_scoring(cls, folder: RunFolder) -> tuple[Clock, Callable[[], float]]:
        """A clock of what follows a compile, in `scoring.json`, and the seconds of it in all sessions."""
        before, began = Spent.read(folder.read(SCORING) or {}).total, time.perf_counter()

        def seconds() -> float:
            return before + time.perf_counter() - began

        return cls(folder, lambda: {"total": seconds()}, SCORING), seconds

    def tick(self) -> None:
        """Write the seconds, unless they were written a moment ago or another thread is about to."""
        if time.monotonic() >= self._next and self._lock.acquire(blocking=False):
            try:
                self._write()
            finally:
                self._lock.release()

    def stop(self) -> None:
        """Write the seconds as they are now."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        self._folder.write(self._file, self._seconds())
        self._next = time.monotonic() + KEPT_EVERY
