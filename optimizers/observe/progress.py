"""The observers of a run: the view that a user asks for, the files that the run leaves, and trackers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from optimizers.core.events import Observer
from optimizers.observe.live.lines import Lines
from optimizers.observe.live.notebook import Notebook, in_notebook
from optimizers.observe.live.snapshot import Snapshot
from optimizers.observe.live.terminal import Live
from optimizers.observe.live.view import FunctionScreen, View
from optimizers.observe.run_files import run_files
from optimizers.observe.tracking import ReportTo
from optimizers.observe.tracking.dispatcher import build_trackers
from sgt_modules.errors import SetupError

__all__ = ["Display", "Lines", "Live", "Notebook", "build_observers", "build_views"]


Display = bool | None | Observer | Callable[[Snapshot], object]
"""What a user may ask for: False is silence, None or True the view that fits, an `Observer` gets every event, a
function is called with a `Snapshot` at most four times a second."""


def build_observers(display: Display, report_to: ReportTo) -> list[Observer]:
    """The observers of a compile: the view first; the trackers last, as they send the files that the run leaves."""
    return [*build_views(display), *run_files(), *build_trackers(report_to)]


def build_views(display: Display = None) -> list[Observer]:
    """The view that was asked for, or else the one that fits: a notebook's, a terminal's, lines elsewhere.

    Raises `SetupError` for anything that is no view.

    >>> build_views(False), type(build_views(print)[0]).__name__
    ([], 'View')
    """
    if isinstance(display, bool) or display is None:
        return [] if display is False else [_fitting_view()]
    if isinstance(display, Observer):
        return [display]
    if callable(display):
        return [View(FunctionScreen(display))]
    raise SetupError(
        f"Expected display_progress True, False, a function of a Snapshot or an Observer, got {display!r}."
    )


def _fitting_view() -> Observer:
    if in_notebook():
        return Notebook()
    return Live() if sys.stderr.isatty() and not _dumb() else Lines()


def _dumb() -> bool:
    """Whether the terminal cannot move its cursor."""
    return os.environ.get("TERM", "").lower() in ("dumb", "unknown")
