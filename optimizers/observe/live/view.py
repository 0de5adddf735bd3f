"""A view over any screen: events are counted at once and shown a few times a second, by a thread."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from optimizers.core.concurrency import in_context
from optimizers.core.events import Event, Note, Progress, RolloutDone, RunEnded, RunStarted, WorkEnded, WorkStarted
from optimizers.observe.live.progress_state import Clock, ProgressState, StageCount
from optimizers.observe.live.snapshot import Snapshot
from optimizers.observe.live.texts import closing, ended, outcome, worth_a_line


class Screen(Protocol):
    """What a view is shown on. Its methods are called by one thread at a time."""

    def show(self, snapshot: Snapshot) -> None:
        """Show a run as it is now."""

    def say(self, lines: Sequence[str]) -> None:
        """Lines that stay: what the run said, and stages that ended."""

    def close(self, snapshot: Snapshot) -> None:
        """Show how the run ended; it may be shown again."""


class View:
    """An observer whose screen is drawn at most once in `every` seconds, however much happens.

    The screen is open while a run or a work is. A screen that fails is not drawn again, and the run goes on.
    """

    def __init__(self, screen: Screen, *, every: float = 0.25, clock: Clock = time.monotonic) -> None:
        self._screen, self._every, self._clock = screen, every, clock
        self._state = ProgressState(clock)
        self._works: dict[int, StageCount] = {}
        self._drawing = threading.RLock()
        self._open = 0
        self._closed = threading.Event()
        self._drawn = -every
        self._lines: deque[str] = deque()
        self._broken = False

    def on_event(self, event: Event) -> None:
        """Count the event; open the screen at the first begin, close it at the last end."""
        match event:
            case RolloutDone(work, rollout):
                self._state.advance(self._works[work], rollout)
            case Progress(work, done, total):
                self._state.move(self._works[work], done, total)
            case WorkStarted(work, name, total, stage, kind, is_limit):
                self._begin()
                self._works[work] = self._state.begin(name, total, stage, kind, is_limit=is_limit)
            case WorkEnded(work):
                over = self._state.end(self._works.pop(work))
                self._lines.extend([ended(over)] if worth_a_line(over) else [])
                self._end()
            case RunStarted():
                self._state.plan(event.plan, event.spend)
                self._begin()
            case RunEnded():
                self._state.over()
                self._lines.extend(closing(self._state.snapshot()))
                for line in outcome(event):
                    self._say(line)
                self._end()
            case Note(text):
                self._say(text)
            case _:
                pass

    def _say(self, text: str) -> None:
        """One line about the run. Takes no lock while the screen is open, so that a signal's handler may emit it."""
        self._state.said.append(text)
        self._lines.append(text)
        if not self._open:
            self._guarded(self._flush)

    def _begin(self) -> None:
        self._open += 1
        if self._open == 1:
            self._closed = closed = threading.Event()
            in_context(lambda: self._keep_drawing(closed), "sgt-view").start()

    def _end(self) -> None:
        self._open -= 1
        if not self._open:
            self._closed.set()
            self._guarded(self._close)

    def tick(self) -> None:
        """Draw, if the last time is long enough ago."""
        with self._drawing:
            if self._clock() - self._drawn >= self._every:
                self._drawn = self._clock()
                self._guarded(self._draw)

    def _keep_drawing(self, closed: threading.Event) -> None:
        while not closed.wait(self._every):
            self.tick()

    def _draw(self) -> None:
        if self._open:
            self._flush()
            self._screen.show(self._state.snapshot())

    def _close(self) -> None:
        self._screen.close(self._state.snapshot())
        self._flush()

    def _flush(self) -> None:
        lines: list[str] = []
        with suppress(IndexError):
            while True:
                lines.append(self._lines.popleft())
        if lines:
            self._screen.say(lines)

    def _guarded(self, draw: Callable[[], None]) -> None:
        """Draw; a failure is printed once, and never stops the run."""
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


class FunctionScreen:
    """A screen that is a user's own function, called with each snapshot."""

    def __init__(self, show: Callable[[Snapshot], object]) -> None:
        self._show = show

    def show(self, snapshot: Snapshot) -> None:
        """Call the function."""
        self._show(snapshot)

    def say(self, lines: Sequence[str]) -> None:
        """Do nothing: the snapshots have the lines."""

    def close(self, snapshot: Snapshot) -> None:
        """Call the function a last time."""
        self._show(snapshot)
