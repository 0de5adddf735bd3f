"""Plain lines for a pipe or a log."""

from __future__ import annotations

import sys
import threading
import time
from typing import TextIO

from optimizers.core.concurrency import in_context
from optimizers.core.events import (
    Event,
    Note,
    Progress,
    RolloutDone,
    RunEnded,
    RunStarted,
    WorkEnded,
    WorkStarted,
)
from optimizers.core.records import Rollout
from optimizers.observe.live.progress_state import Clock, ProgressState, StageCount
from optimizers.observe.live.snapshot import StageView
from optimizers.observe.live.texts import closing, ended, outcome, working, worth_a_line
from sgt_modules.local.activity import list_activities

LOOKS = 0.1
"""Seconds between two looks at what models do."""


class Lines:
    """Plain lines for a pipe or a log: at most every `every` seconds of a stage, at its end, and at the run's.

    While a model of this process works, of which nothing comes for minutes, a thread says how far that is.

    >>> import io
    >>> from optimizers.core.events import EventBus
    >>> out = io.StringIO()
    >>> with EventBus([Lines(out)]).work("sampling", 2) as work:
    ...     work.advance()
    ...     work.advance()
    >>> out.getvalue().startswith("sampling: 2/2")
    True
    """

    def __init__(self, out: TextIO | None = None, every: float = 10.0, *, clock: Clock = time.monotonic) -> None:
        self._out = out or sys.stderr
        self.every, self.clock = every, clock
        self._state = ProgressState(clock)
        self._works: dict[int, _WorkLines] = {}

    def on_event(self, event: Event) -> None:
        """Count the event; print a line where it is time for one."""
        match event:
            case RolloutDone(work, rollout):
                self._works[work].add(rollout)
            case Progress(work, done, total):
                self._works[work].move_to(done, total)
            case WorkStarted(work, name, total):
                self._works[work] = _WorkLines(self._state, self._state.begin(name, total), self)
            case WorkEnded(work):
                over = self._works.pop(work).end()
                if worth_a_line(over):
                    self.say(ended(over))
            case RunStarted():
                self._state.plan(event.plan, event.spend)
            case RunEnded():
                self._state.over()
                for line in [*closing(self._state.snapshot()), *outcome(event)]:
                    self.say(line)
            case Note(text):
                self.say(text)
            case _:
                pass

    def say(self, text: str) -> None:
        """Print one line."""
        print(text, file=self._out, flush=True)


class _WorkLines:
    """A work under way, of which a line is printed now and then."""

    def __init__(self, state: ProgressState, stage: StageCount, lines: Lines) -> None:
        self._state, self._stage, self._lines = state, stage, lines
        self._said, self._closed = lines.clock(), threading.Event()
        in_context(self._keep_saying, "sgt-lines").start()

    def add(self, rollout: Rollout) -> None:
        """Count one more rollout."""
        self._state.advance(self._stage, rollout)
        self._maybe_say()

    def move_to(self, done: int, total: int) -> None:
        """Set how many units are done, and of how many."""
        self._state.move(self._stage, done, total)
        self._maybe_say()

    def end(self) -> StageView:
        """End the thread and the count; what the work came to."""
        self._closed.set()
        return self._state.end(self._stage)

    def _keep_saying(self) -> None:
        """Until the end, say what a model does; that one is being loaded, once and soon."""
        before = ""
        while not self._closed.wait(LOOKS):
            works = list_activities()
            loads = next((" ".join(working(each)[:1]) for each in works if each.phase == "loading"), "")
            if loads and loads != before:
                self._lines.say(f"{self._stage.name}: {loads}")
            before = loads
            if works and not loads:
                self._maybe_say()

    def _maybe_say(self) -> None:
        now = self._lines.clock()
        if now - self._said >= self._lines.every:
            self._said = now
            stage = self._state.view(self._stage)
            left = "" if stage.left is None else f", {stage.left:.0f} s left"
            works = [", ".join(working(each)) for each in list_activities() if each.rows]
            self._lines.say("; ".join([ended(stage) + left, *works]))
