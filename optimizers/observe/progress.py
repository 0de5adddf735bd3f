"""How a run says how far it is: to a live view on a terminal or in a notebook, as plain lines, or to nobody."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from optimizers.core.events import Reporter, Silent
from optimizers.observe.live.lines import Lines
from optimizers.observe.live.notebook import Notebook, in_notebook
from optimizers.observe.live.snapshot import Snapshot
from optimizers.observe.live.terminal import Live
from optimizers.observe.live.view import Told, View
from sgt_modules.errors import SetupError

__all__ = ["Display", "Lines", "Live", "Notebook", "reporter"]


Display = bool | None | Reporter | Callable[[Snapshot], object]
"""What a user may ask for: False is silence, None or True the view that fits, a `Reporter` one's own view of every
event, a function one that is called with a `Snapshot` at most four times a second."""


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
