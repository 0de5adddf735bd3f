"""Plain lines for a pipe or a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from optimizers.core.budget import BudgetState
from optimizers.core.concurrency import in_context
from optimizers.core.events import Plan
from optimizers.core.records import Rollout
from optimizers.observe.live.progress_state import Board, Clock, Counting, StageCount
from optimizers.observe.live.texts import closing, ended, working, worth_a_line
from sgt_modules.local.activity import list_activities

LOOKS = 0.1
"""Seconds between two looks at what models are at."""


class Lines:
    """Plain lines for a pipe or a log: at most every `every` seconds of a stage, at its end, and at the run's.

    While a model of this process works, of which nothing comes for minutes, a thread says how far that is.

    >>> import io
    >>> out = io.StringIO()
    >>> reporter = Lines(out)
    >>> with reporter.stage("sampling", 2) as stage:
    ...     stage.advance()
    ...     stage.advance()
    >>> out.getvalue().startswith("sampling: 2/2")
    True
    """

    def __init__(self, out: TextIO | None = None, every: float = 10.0, *, clock: Clock = time.monotonic) -> None:
        self._out = out or sys.stderr
        self.every, self.clock = every, clock
        self._board = Board(clock)

    @contextmanager
    def run(self, plan: Plan | None = None, spend: Callable[[], BudgetState] | None = None) -> Iterator[None]:
        """A run of several stages, which ends with what was spent."""
        self._board.plan(plan, spend)
        try:
            yield
        finally:
            self._board.over()
            for line in closing(self._board.snapshot()):
                self.say(line)

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[_LineStage]:
        """A line now and then, and one at the end."""
        stage = self._board.begin(name, total)
        line, closed = _LineStage(self._board, stage, self), threading.Event()
        in_context(lambda: line.keep_saying(closed), "sgt-lines").start()
        try:
            yield line
        finally:
            closed.set()
            over = self._board.end(stage)
            if worth_a_line(over):
                self.say(ended(over))

    def say(self, text: str) -> None:
        """Print one line."""
        print(text, file=self._out, flush=True)


class _LineStage(Counting):
    """A stage under way that says a line now and then."""

    def __init__(self, board: Board, stage: StageCount, reporter: Lines) -> None:
        super().__init__(board, stage)
        self._reporter, self._said = reporter, reporter.clock()

    def advance(self, rollout: Rollout | None = None) -> None:
        super().advance(rollout)
        self._maybe_say()

    def move_to(self, done: int, total: int) -> None:
        super().move_to(done, total)
        self._maybe_say()

    def keep_saying(self, closed: threading.Event) -> None:
        """Until then, say what a model is at; that one is being loaded, once and soon."""
        known = ""
        while not closed.wait(LOOKS):
            works = list_activities()
            loads = next((" ".join(working(each)[:1]) for each in works if each.phase == "loading"), "")
            if loads and loads != known:
                self._reporter.say(f"{self._stage.name}: {loads}")
            known = loads
            if works and not loads:
                self._maybe_say()

    def _maybe_say(self) -> None:
        now = self._reporter.clock()
        if now - self._said >= self._reporter.every:
            self._said = now
            stage = self._board.view(self._stage)
            left = "" if stage.left is None else f", {stage.left:.0f} s left"
            works = [", ".join(working(each)) for each in list_activities() if each.rows]
            self._reporter.say("; ".join([ended(stage) + left, *works]))
