"""A run's clock: seconds by kind of work over all sessions, written to the run's folder while they pass."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from optimizers.core.run_folder import RunFolder
from optimizers.core.usage import SPENT_FILE, WORKS, Work, WorkSeconds

CLOCK = "clock.json"
"""Seconds of all sessions of a run's folder: in `total`, and by work."""

SCORING = "scoring.json"
"""Seconds that scoring a finished run took, in all sessions."""

WRITE_INTERVAL = 0.25
"""Seconds between two writes of a clock, at least."""


class WorkClock:
    """Counts seconds in total and by kind of work, on top of `before`; safe from many threads.

    With a folder, `tick` writes the seconds to `file` at most every `WRITE_INTERVAL` seconds. A process that is killed
    loses the seconds since its last rollout or sample.

    >>> clock = WorkClock()
    >>> with clock.measure("acting"):
    ...     pass
    >>> clock.seconds.acting > 0
    True
    """

    def __init__(
        self,
        before: WorkSeconds | None = None,
        folder: RunFolder | None = None,
        *,
        file: str = CLOCK,
        works: Sequence[Work] = WORKS,
    ) -> None:
        self._finished, self._began = before or WorkSeconds(), time.perf_counter()
        self._running: dict[int, tuple[Work, float]] = {}
        self._number = itertools.count()
        self._lock = threading.Lock()
        self._folder, self._file, self._works = folder, file, works
        self._writing, self._next_write = threading.Lock(), 0.0

    @classmethod
    def of_run(cls, folder: RunFolder) -> WorkClock:
        """The clock of a run's folder: continues from the seconds of earlier sessions."""
        return cls(read_seconds(folder), folder)

    @classmethod
    def of_scoring(cls, folder: RunFolder) -> WorkClock:
        """The clock of the scoring after a compile: continues from `scoring.json`, which holds the total only."""
        before = WorkSeconds.read(folder.read(SCORING) or {}, folder.path / SCORING)
        return cls(before, folder, file=SCORING, works=())

    @property
    def seconds(self) -> WorkSeconds:
        """Seconds until now, including work that has not ended."""
        with self._lock:
            now, seconds = time.perf_counter(), self._finished
            for work, began in self._running.values():
                seconds = seconds.plus(work, now - began)
            return replace(seconds, total=seconds.total + now - self._began)

    @contextmanager
    def measure(self, work: Work) -> Iterator[None]:
        """Count the seconds inside as this kind of work; where work overlaps, each counts its own seconds."""
        with self._lock:
            number = next(self._number)
            self._running[number] = (work, time.perf_counter())
        try:
            yield
        finally:
            with self._lock:
                _, began = self._running.pop(number)
                self._finished = self._finished.plus(work, time.perf_counter() - began)

    def tick(self) -> None:
        """Write the seconds, unless the last write is recent or another thread is writing."""
        if time.monotonic() >= self._next_write and self._writing.acquire(blocking=False):
            try:
                self._write()
            finally:
                self._writing.release()

    def write(self) -> None:
        """Write the seconds as they are now."""
        with self._writing:
            self._write()

    def _write(self) -> None:
        if self._folder is not None:
            seconds = self.seconds
            by_work = {work: getattr(seconds, work) for work in self._works}
            self._folder.write(self._file, {**by_work, "total": seconds.total})
        self._next_write = time.monotonic() + WRITE_INTERVAL


def read_seconds(folder: RunFolder) -> WorkSeconds:
    """Read the seconds of a folder's earlier sessions: from `clock.json`, else from `spent.json`, its last stage's."""
    content, file = folder.read(CLOCK), CLOCK
    if content is None:
        content, file = folder.read(SPENT_FILE) or {}, SPENT_FILE
    return WorkSeconds.read(content, folder.path / file)
