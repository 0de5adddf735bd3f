"""How a run says how far it is: to a live view on a terminal or in a notebook, as plain lines, or to nobody."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable

from optimizers.core.records import Rollout
from optimizers.observe.live.lines import Lines
from optimizers.observe.live.notebook import Notebook, in_notebook
from optimizers.observe.live.snapshot import Plan, Snapshot, Spend
from optimizers.observe.live.terminal import Live
from optimizers.observe.live.view import Told, View
from sgt_modules.errors import SetupError

__all__ = ["Display", "Lines", "Live", "Notebook", "Reporter", "Silent", "Stage", "reporter"]


class Stage(Protocol):
    """One stage under way."""

    def advance(self, rollout: Rollout | None = None) -> None:
        """One more unit is done; a rollout among them counts towards the success rate."""

    def move_to(self, done: int, total: int) -> None:
        """`done` of `total` units are done."""

    def expect(self, total: int) -> None:
        """There are `total` units after all."""


@runtime_checkable
class Reporter(Protocol):
    """Where a run says how far it is. Its methods may be called from any thread."""

    def run(self, plan: Plan | None = None, spend: Callable[[], Spend] | None = None) -> AbstractContextManager[None]:
        """A context manager for several stages; `spend` tells at any time what was spent, where somebody counts."""
        ...

    def stage(self, name: str, total: int) -> AbstractContextManager[Stage]:
        """A context manager for one stage of `total` units; two stages may be under way at once."""
        ...

    def say(self, text: str) -> None:
        """One line about the run."""


Display = bool | None | Reporter | Callable[[Snapshot], object]
"""What a user may ask for: False is silence, None or True the view that fits, a `Reporter` one's own view of every
event, a function one that is called with a `Snapshot` at most four times a second."""


class Silent:
    """Says nothing."""

    @contextmanager
    def run(self, plan: Plan | None = None, spend: Callable[[], Spend] | None = None) -> Iterator[None]:
        """Count nothing."""
        yield

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


def reporter(display: Display = None) -> Reporter:
    """The view that was asked for, or else the one that fits: a notebook's, a terminal's, lines elsewhere.

    Raises `SetupError` for anything that is no view.

    >>> type(reporter(False)).__name__, type(reporter(print)).__name__
    ('Silent', 'View')
    """
    if isinstance(display, bool) or display is None:
        return Silent() if display is False else _fitting()
    if isinstance(display, Reporter):
        return display
    if callable(display):
        return View(Told(display))
    raise SetupError(f"Expected display_progress True, False, a function of a Snapshot or a Reporter, got {display!r}.")


def _fitting() -> Reporter:
    if in_notebook():
        return Notebook()
    return Live() if sys.stderr.isatty() and not _dumb() else Lines()


def _dumb() -> bool:
    """Whether the terminal cannot move its cursor."""
    return os.environ.get("TERM", "").lower() in ("dumb", "unknown")
