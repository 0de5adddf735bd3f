"""What a person sees while a run works: a live line a stage on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from optimizers.records import Rollout


class Stage(Protocol):
    """One stage under way."""

    def advance(self, rollout: Rollout | None = None) -> None:
        """One more unit is done; a rollout among them counts towards the success rate."""

    def move_to(self, done: int, total: int) -> None:
        """`done` of `total` units are done."""

    def expect(self, total: int) -> None:
        """There are `total` units after all."""


class Reporter(Protocol):
    """Where a run says how far it is."""

    def stage(self, name: str, total: int) -> AbstractContextManager[Stage]:
        """A context manager for one stage of `total` units; two stages may be under way at once."""
        ...

    def say(self, text: str) -> None:
        """One line about the run."""


class _Count:
    """Done, total and success rate of a stage, shared by both views."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.done, self.won, self.judged = name, total, 0, 0, 0
        self.began = time.monotonic()

    def add(self, rollout: Rollout | None) -> None:
        self.done += 1
        if rollout is not None and rollout.reward is not None:
            self.judged += 1
            self.won += rollout.won()

    @property
    def success(self) -> str:
        return f"{self.won / self.judged:.0%} won" if self.judged else ""

    @property
    def left(self) -> float:
        """Seconds left at the pace so far."""
        return (time.monotonic() - self.began) * (self.total - self.done) / max(1, self.done)


class Silent:
    """Says nothing."""

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Stage]:
        """Count nothing."""
        yield _SilentStage()

    def say(self, text: str) -> None:
        """Say nothing."""


class _SilentStage:
    def advance(self, rollout: Rollout | None = None) -> None:
        """Count nothing."""

    def move_to(self, done: int, total: int) -> None:
        """Count nothing."""

    def expect(self, total: int) -> None:
        """Count nothing."""


class Lines:
    """Plain lines for a pipe or a log: at the start, at most every `every` seconds, and at the end of a stage.

    >>> import io
    >>> out = io.StringIO()
    >>> reporter = Lines(out)
    >>> with reporter.stage("sampling", 2) as stage:
    ...     stage.advance()
    ...     stage.advance()
    >>> out.getvalue().startswith("sampling: 2/2")
    True
    """

    def __init__(self, out: TextIO | None = None, every: float = 10.0) -> None:
        self._out = out or sys.stderr
        self._every = every

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Stage]:
        """A line now and then, and one at the end."""
        view = _LineStage(_Count(name, total), self)
        yield view
        count = view.count
        self.say(
            f"{name}: {count.done}/{count.total}  {count.success}  {time.monotonic() - count.began:.0f} s".rstrip()
        )

    def say(self, text: str) -> None:
        """Print one line."""
        print(text, file=self._out, flush=True)

    @property
    def every(self) -> float:
        """Seconds between two lines of one stage."""
        return self._every


class _LineStage:
    def __init__(self, count: _Count, reporter: Lines) -> None:
        self.count, self._reporter, self._said = count, reporter, time.monotonic()

    def advance(self, rollout: Rollout | None = None) -> None:
        self.count.add(rollout)
        self._maybe_say()

    def move_to(self, done: int, total: int) -> None:
        self.count.done, self.count.total = done, total
        self._maybe_say()

    def expect(self, total: int) -> None:
        self.count.total = total

    def _maybe_say(self) -> None:
        if time.monotonic() - self._said >= self._reporter.every:
            self._said = time.monotonic()
            count = self.count
            text = f"{count.name}: {count.done}/{count.total}  {count.success}  {count.left:.0f} s left"
            self._reporter.say(text)


class Live:
    """A live line a stage on a terminal, redrawn at most four times a second; those under way stand together."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._lock = threading.Lock()
        self._bars: Progress | None = None
        self._open = 0

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Stage]:
        """A bar with its count, success rate and time left."""
        bars = self._opened()
        try:
            task = bars.add_task(f"{name:<22}", total=total, success="")
            count = _Count(name, total)
            yield _LiveStage(
                count, lambda: bars.update(task, completed=count.done, total=count.total, success=count.success)
            )
        finally:
            self._closed()

    def _opened(self) -> Progress:
        """The display of the stages under way, which the first of them starts."""
        with self._lock:
            if self._bars is None:
                columns = (
                    SpinnerColumn(),
                    TextColumn("{task.description}"),
                    BarColumn(bar_width=24),
                    MofNCompleteColumn(),
                    TextColumn("{task.fields[success]}"),
                    TimeRemainingColumn(elapsed_when_finished=True),
                )
                self._bars = Progress(*columns, console=self._console, refresh_per_second=4)
                self._bars.start()
            self._open += 1
            return self._bars

    def _closed(self) -> None:
        """The last stage to end ends the display; its lines stay."""
        with self._lock:
            self._open -= 1
            if self._bars is not None and not self._open:
                self._bars.stop()
                self._bars = None

    def say(self, text: str) -> None:
        """Print one line above the live ones."""
        self._console.print(text, highlight=False)


class _LiveStage:
    def __init__(self, count: _Count, redraw: Callable[[], None]) -> None:
        self.count, self._redraw = count, redraw

    def advance(self, rollout: Rollout | None = None) -> None:
        self.count.add(rollout)
        self._redraw()

    def move_to(self, done: int, total: int) -> None:
        self.count.done, self.count.total = done, total
        self._redraw()

    def expect(self, total: int) -> None:
        self.count.total = total
        self._redraw()


def reporter(display: bool | None = None) -> Reporter:
    """The view that fits: live on a terminal, lines elsewhere; `False` is silence."""
    if display is False:
        return Silent()
    return Live() if sys.stderr.isatty() else Lines()
