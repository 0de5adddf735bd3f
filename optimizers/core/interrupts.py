"""Handles Ctrl-C: the first ends a run in good order, the second ends it at once.

A batch or a training step of a model in this process may take minutes and costs nothing, so it is abandoned.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from sgt_modules.local.activity import is_loading
from sgt_modules.local.cancellation import WorkCancelled, cancel_when

INTERRUPT = "Ctrl-C was pressed"

_CALLS: list[None] = []
"""One entry for each call under way that Ctrl-C gives up."""


@contextmanager
def stop_on_interrupt(stop: Callable[[str], None], say: Callable[[str], None]) -> Iterator[None]:
    """In this context the first Ctrl-C calls `stop` with a reason and `say` with what happens next.

    The second one raises `KeyboardInterrupt`. Only the main thread receives Ctrl-C. At the first one, models of this
    process abandon their work with `WorkCancelled`. While a model is loading, and in `give_up_on_interrupt`,
    `WorkCancelled` is raised in the main thread.
    """

    def first() -> None:
        stop(INTERRUPT)
        with suppress(RuntimeError):  # the signal came while another line was printed
            say(
                "Stopping: calls under way are finished and saved, a batch of a model on this machine is given up. "
                "Press Ctrl-C again to stop at once."
            )
        if _CALLS or is_loading():
            raise WorkCancelled(INTERRUPT)

    with _on_first_interrupt(first):
        yield


@contextmanager
def give_up_on_interrupt() -> Iterator[None]:
    """In this context of the main thread, the first Ctrl-C raises `WorkCancelled` at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = len(_CALLS)
    try:
        _CALLS.append(None)
        yield
    finally:
        del _CALLS[before:]


@contextmanager
def exit_on_interrupt(say: Callable[[str], None]) -> Iterator[None]:
    """In this context Ctrl-C calls `say` with what is saved and raises `KeyboardInterrupt`.

    Models of this process abandon their work at once, so that no thread has to be waited for. Only the main thread
    receives Ctrl-C. For work that saves every paid answer, such as a comparison. A `stop_on_interrupt` inside wins.
    """

    def first() -> None:
        with suppress(RuntimeError):  # the signal came while another line was printed
            say("Stopping: every answer that was paid for is kept. Run the same again to go on.")
        raise KeyboardInterrupt

    try:
        with _on_first_interrupt(first):
            yield
    except WorkCancelled:
        if threading.current_thread() is not threading.main_thread():
            raise
        raise KeyboardInterrupt from None


@contextmanager
def _on_first_interrupt(first: Callable[[], None]) -> Iterator[None]:
    """In this context the main thread calls `first` at the first Ctrl-C and raises `KeyboardInterrupt` at the second.

    From the first one on, models of this process abandon their work. In another thread this context does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed = ""

    def press(_number: int, _frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = INTERRUPT
        first()

    before = signal.signal(signal.SIGINT, press)
    try:
        with cancel_when(lambda: pressed):
            yield
    finally:
        signal.signal(signal.SIGINT, before)
