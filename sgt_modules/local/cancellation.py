"""Cancels the work of models in this process: a caller asks for it, the model raises `WorkCancelled` at its next check.

The functions that callers pass to `cancel_when` are called often and from any thread, so checking takes no lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

CancelReason = Callable[[], str]
"""Returns the reason to cancel, or an empty text to go on."""

PROCESS_ENDS = threading.Event()
"""Set when the interpreter ends."""


class WorkCancelled(BaseException):
    """A caller cancelled a model's work; the text is the caller's reason.

    It is no `Exception`, as `asyncio.CancelledError` is none: a program that handles its own errors must not handle
    this one.
    """


_REASONS: tuple[CancelReason, ...] = ()
_CHANGE = threading.Lock()


@contextmanager
def cancel_when(reason: CancelReason) -> Iterator[None]:
    """Inside, models of this process raise `WorkCancelled` once `reason()` returns a text.

    `reason` takes no lock and does not raise.

    >>> with cancel_when(lambda: "enough"):
    ...     try:
    ...         check_cancelled()
    ...     except WorkCancelled as error:
    ...         print(error)
    enough
    """
    global _REASONS  # noqa: PLW0603 - replaced as a whole, so that a model reads it without a lock
    with _CHANGE:
        _REASONS = (*_REASONS, reason)
    try:
        yield
    finally:
        with _CHANGE:
            place = _REASONS.index(reason)
            _REASONS = (*_REASONS[:place], *_REASONS[place + 1 :])


def current_reasons() -> tuple[CancelReason, ...]:
    """The functions of all `cancel_when` blocks at this moment."""
    return _REASONS


def check_cancelled(earlier: Sequence[CancelReason] = ()) -> None:
    """Raise `WorkCancelled` if a current reason, or one of the `earlier` ones, returns a text.

    >>> check_cancelled()
    """
    for reason in _REASONS if earlier is _REASONS else (*earlier, *_REASONS):
        if text := reason():
            raise WorkCancelled(text)
