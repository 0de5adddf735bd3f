"""Plain lines for a pipe or a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TextIO

from optimizers.observe.live.progress_state import Clock
from optimizers.observe.live.snapshot import Snapshot, StageView
from optimizers.observe.live.texts import ended, working
from optimizers.observe.live.view import View

LOOKS = 0.1
"""Seconds between two looks at what is under way."""


class LineScreen:
    """Prints lines; of each stage under way one at most every `every` seconds, if anything came or a model works."""

    def __init__(self, out: TextIO | None, every: float) -> None:
        self._out, self._every = out or sys.stderr, every
        self._printed: dict[str, StageView] = {}
        self._loads = ""

    def show(self, snapshot: Snapshot) -> None:
        """Print what it is time for; that a model is being loaded, once and soon."""
        loads = next((working(each)[0] for each in snapshot.works if each.phase == "loading"), "")
        if loads and loads != self._loads and snapshot.underway:
            self.say([f"{snapshot.underway[-1].name}: {loads}"])
        self._loads = loads
        works = [", ".join(working(each)) for each in snapshot.works if each.rows]
        begun = {each.name: StageView(each.name) for each in snapshot.underway}
        self._printed = {name: self._printed.get(name, stage) for name, stage in begun.items()}
        for stage in snapshot.underway:
            before = self._printed[stage.name]
            if stage.seconds - before.seconds >= self._every and (works or stage.done != before.done):
                self._printed[stage.name] = stage
                left = "" if stage.left is None else f", {stage.left:.0f} s left"
                self.say(["; ".join([ended(stage) + left, *works])])

    def say(self, lines: Sequence[str]) -> None:
        """Print lines."""
        for line in lines:
            print(line, file=self._out, flush=True)

    def close(self, snapshot: Snapshot) -> None:
        """Do nothing: the last lines are printed."""


class Lines(View):
    """Plain lines for a pipe or a log: at most every `every` seconds of a stage, at its end, and at the run's.

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
        super().__init__(LineScreen(out, every), every=LOOKS, clock=clock)
