"""Threads that see their maker's `dspy.context`, and keep nothing from ending."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable


def in_context(work: Callable[[], None], name: str) -> threading.Thread:
    """A daemon thread of that name, not started yet, which does `work` under the caller's context."""
    return threading.Thread(target=contextvars.copy_context().run, args=(work,), name=name, daemon=True)
