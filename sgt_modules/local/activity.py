"""The models of this process that work at this moment, for a view of the run.

    Decoder, LocalEngine ──> track_work(Work) <── list_activities() <── a view, at any time

The view reads and the model never calls it, so a view can neither slow a model nor break it.
"""

from __future__ import annotations

import atexit
import ctypes
import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sgt_modules.local.cancellation import PROCESS_ENDS, WorkCancelled
from sgt_modules.local.work_progress import Activity, Work

_SECONDS_AT_EXIT = 10.0
"""The most seconds that the end of the interpreter waits for models at work."""

_NUMBERS = itertools.count()
_WORKS: dict[int, Work] = {}
_LOADING_SECONDS = [0.0]
"""The seconds that the finished loads took."""


@contextmanager
def track_work(work: Work) -> Iterator[Work]:
    """Inside, `list_activities` includes the work."""
    number = next(_NUMBERS)
    _WORKS[number] = work
    try:
        yield work
    finally:
        del _WORKS[number]


@contextmanager
def track_loading(model: str) -> Iterator[None]:
    """Inside, the model is being loaded. Raises `WorkCancelled` before or after, if a caller cancelled.

    >>> with track_loading("some-model"):
    ...     [(each.model, each.phase) for each in list_activities()]
    [('some-model', 'loading')]
    """
    work = Work(model, phase="loading")
    work.check()
    try:
        with track_work(work):
            yield
    finally:
        _LOADING_SECONDS[0] += work.view().seconds
    work.check()


def list_activities() -> list[Activity]:
    """The state of each model at work; empty if none works.

    >>> list_activities()
    []
    """
    return [each.view() for each in _list_works()]


def sum_loading_seconds() -> float:
    """The seconds that this process has spent on loading models, until this moment."""
    return _LOADING_SECONDS[0] + sum(each.view().seconds for each in _list_works() if each.phase == "loading")


def is_loading() -> bool:
    """Whether a model is being loaded, which makes no checks and so cannot be cancelled. Takes no lock."""
    return any(each.phase == "loading" for each in _list_works())


def _list_works() -> list[Work]:
    while True:
        try:
            return list(_WORKS.values())
        except RuntimeError:  # another thread added or removed one meanwhile
            continue


@atexit.register
def _wait_for_daemon_threads() -> None:
    """Wait until no daemon thread computes in PyTorch.

    The interpreter kills such a thread at its end, and inside PyTorch that aborts the process with an exit code of its
    own. A load makes no checks, so `WorkCancelled` is raised in its thread from here.
    """
    PROCESS_ENDS.set()
    for each in _list_works():
        if each.phase == "loading":
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(each.thread), ctypes.py_object(WorkCancelled))
    until = time.monotonic() + _SECONDS_AT_EXIT
    while not all(each.is_paused for each in _list_works()) and time.monotonic() < until:
        time.sleep(0.01)
