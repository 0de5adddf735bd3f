"""A reporter over any screen: what a run says is counted at once and shown a few times a second, by a thread."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

from optimizers.core.budget import BudgetState
from optimizers.core.concurrency import in_context
from optimizers.core.events import Plan
from optimizers.observe.live.progress_state import Board, Clock, Counting
from optimizers.observe.live.snapshot import Snapshot
from optimizers.observe.live.texts import closing, ended, worth_a_line


class Screen(Protocol):
    """What a view is shown on. Its methods are called by one thread at a time."""

    def show(self, snapshot: Snapshot) -> None:
        """Show a run as it is now."""

    def say(self, lines: Sequence[str]) -> None:
        """Lines that stay: what the run said, and stages that ended."""

    def close(self, snapshot: Snapshot) -> None:
        """Show how the run ended; it may be shown again."""


class View:
    """A reporter whose screen is drawn at most once in `every` seconds, however much happens.

    The screen is open while a run or a stage is. A screen that fails is not drawn again, and the run goes on.
    """

    def __init__(self, screen: Screen, *, every: float = 0.25, clock: Clock = time.monotonic) -> None:
        self._screen, self._every, self._clock = screen, every, clock
        self._board = Board(clock)
        self._opening, self._drawing = threading.Lock(), threading.RLock()
        self._open = 0
        self._closed = threading.Event()
        self._drawn = -every
        self._lines: deque[str] = deque()
        self._broken = False

    @contextmanager
    def run(self, plan: Plan | None = None, spend: Callable[[], BudgetState] | None = None) -> Iterator[None]:
        """A run of several stages: the screen stays open in between, and ends with what was spent."""
        self._board.plan(plan, spend)
        with self._shown():
            try:
                yield
            finally:
                self._board.over()
                self._lines.extend(closing(self._board.snapshot()))

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Counting]:
        """One stage of `total` units; others may be under way."""
        with self._shown():
            stage = self._board.begin(name, total)
            try:
                yield Counting(self._board, stage)
            finally:
                over = self._board.end(stage)
                self._lines.extend([ended(over)] if worth_a_line(over) else [])

    def say(self, text: str) -> None:
        """One line about the run. Takes no lock while the screen is open, so that a signal's handler may call it."""
        self._board.said.append(text)
        self._lines.append(text)
        if not self._open:
            self._guarded(self._flush)

    def tick(self) -> None:
        """Draw, if the last time is long enough ago."""
        with self._drawing:
            if self._clock() - self._drawn >= self._every:
                self._drawn = self._clock()
                self._guarded(self._draw)

    @contextmanager
    def _shown(self) -> Iterator[None]:
        with self._opening:
            self._open += 1
            if self._open == 1:
                self._closed = threading.Event()
                in_context(lambda closed=self._closed: self._keep_drawing(closed), "sgt-view").start()
        try:
            yield
        finally:
            with self._opening:
                self._open -= 1
                if not self._open:
                    self._closed.set()
                    self._guarded(self._close)

    def _keep_drawing(self, closed: threading.Event) -> None:
        while not closed.wait(self._every):
            self.tick()

    def _draw(self) -> None:
        if self._open:
            self._flush()
            self._screen.show(self._board.snapshot())

    def _close(self) -> None:
        self._screen.close(self._board.snapshot())
        self._flush()

    def _flush(self) -> None:
        lines: list[str] = []
        with suppress(IndexError):
            while True:
                lines.append(self._lines.popleft())
        if lines:
            self._screen.say(lines)

    def _guarded(self, draw: Callable[[], None]) -> None:
        """Draw; what goes wrong is told once, and never stops the run."""
        if self._broken:
            return
        try:
            with self._drawing:
                draw()
        except Exception as problem:  # noqa: BLE001 - a view is no reason to lose a paid run
            self._broken = True
            with suppress(OSError, ValueError):
                said = f"The view failed ({type(problem).__name__}: {problem}) and is not shown again; the run goes on."
                print(said, file=sys.stderr)


class Told:
    """A screen that is a function of one's own, called with each snapshot."""

    def __init__(self, tell: Callable[[Snapshot], object]) -> None:
        self._tell = tell

    def show(self, snapshot: Snapshot) -> None:
        """Call it."""
        self._tell(snapshot)

    def say(self, lines: Sequence[str]) -> None:
        """What a run says is in its snapshots."""

    def close(self, snapshot: Snapshot) -> None:
        """Call it a last time."""
        self._tell(snapshot)
