"""Ctrl-C: the first lets a run end in good order, the second ends it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

INTERRUPT = "Ctrl-C was pressed"


@contextmanager
def stopping(stop: Callable[[str], None], say: Callable[[str], None]) -> Iterator[None]:
    """Inside, the first Ctrl-C calls `stop` with a reason and `say` with what happens next; a second one raises
    `KeyboardInterrupt`, as ever. Only in the main thread, which alone hears of it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed = False

    def press(_number: int, _frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True
        stop(INTERRUPT)
        with suppress(RuntimeError):  # where it came in the middle of another line
            say("Stopping: what is under way is finished and saved. Press Ctrl-C again to stop at once.")

    before = signal.signal(signal.SIGINT, press)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
