"""What models of this process are at, for whoever shows it; and how their work is abandoned in the middle.

    Decoder, LocalEngine, trainer ──> Work (counts itself, takes no lock) <── underway() <── a view, at any time
                                        └── check() raises Abandoned <── abandoned_when(asked)

Nobody is called from here but the functions given to `abandoned_when`, so a view can neither slow a model nor break it.
"""

from __future__ import annotations

import atexit
import ctypes
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

Doing = Literal["loading", "reading", "writing"]
Clock = Callable[[], float]
Stop = Callable[[], str]

WRITING_COSTS = 3.0
"""Times the seconds of a token read that one written takes, while a model has not shown it: on a CPU, in batches."""

FEW = 1.0
"""Seconds over which a rate is measured at least."""

_AT_EXIT = 10.0
"""Seconds that the end of the interpreter waits for models at work."""


class Abandoned(BaseException):
    """A model's work was abandoned as it was asked to; the text says by whom. No `Exception`, as `CancelledError` is
    none: a program that makes something of its errors must not make something of this one."""


@dataclass(frozen=True, slots=True)
class Activity:
    """What one model is at: `rows` prompts asked for, of which `done` are answered; `share` of the work, in [0, 1].

    `rate` is tokens a second of late: read while it reads, written while it writes. `left` are the seconds to go, None
    while they cannot be told; `at_most` where they hold only if every reply takes all tokens that it may. `direct`
    tells one caller's prompts from those that wait in an engine's queue.
    """

    model: str
    doing: Doing
    rows: int = 0
    done: float = 0.0
    share: float = 0.0
    rate: float = 0.0
    left: float | None = None
    at_most: bool = False
    seconds: float = 0.0
    direct: bool = True


class Pace:
    """What a model's ended batches took, for the next one's time: seconds a prompt token and a token that may come.

    >>> pace = Pace()
    >>> pace.expects(prompt=10, most=10) is None
    True
    >>> pace.ended(prompt=100, most=50, reading=1.0, writing=2.0)
    >>> pace.expects(prompt=10, most=10)
    (0.1, 0.4)
    """

    def __init__(self) -> None:
        self._prompt = self._most = 0
        self._reading = self._writing = 0.0

    def ended(self, *, prompt: int, most: int, reading: float, writing: float) -> None:
        """Count a batch; of those before it, half as much as it counted then."""
        self._prompt = self._prompt // 2 + prompt
        self._most = self._most // 2 + most
        self._reading = self._reading / 2 + reading
        self._writing = self._writing / 2 + writing

    def expects(self, *, prompt: int, most: int) -> tuple[float, float] | None:
        """The seconds of reading and of writing so much; None before a batch has ended."""
        if not self._prompt or not self._most:
            return None
        return self._reading / self._prompt * prompt, self._writing / self._most * most


class Work:
    """One call's prompts at a model, batch by batch. Counted by the thread that computes, looked at by any."""

    def __init__(
        self,
        model: str,
        rows: int = 0,
        prompt: int = 0,
        most: int = 0,
        *,
        pace: Pace | None = None,
        direct: bool = True,
        doing: Doing = "reading",
        clock: Clock = time.monotonic,
    ) -> None:
        """`rows` prompts of `prompt` tokens together, whose replies take at most `most` tokens together."""
        self.model, self.direct = model, direct
        self.doing: Doing = doing
        self._rows, self._prompt, self._most = rows, prompt, most
        self._pace, self._clock, self._began = pace or Pace(), clock, clock()
        self._stops = _STOPS
        self._done = self._prompt_done = self._most_done = 0
        self._batch = _Batch(0, 0, 0, self._began)
        self._shown = 0.0
        self.ended = False
        self.thread = threading.get_ident()

    def check(self) -> None:
        """Raise `Abandoned` where somebody wants this work to end. A daemon thread stays here once the process ends."""
        if _ENDING.is_set() and threading.current_thread().daemon:
            self._stay()
        check(self._stops)

    @contextmanager
    def batch(self, rows: int, prompt: int, most: int) -> Iterator[None]:
        """Some of the prompts, as many tokens long, are decoded together inside."""
        self.check()
        self.doing = "reading"
        batch = self._batch = _Batch(rows, prompt, most, self._clock())
        yield
        now = self._clock()
        self._pace.ended(prompt=prompt, most=most, reading=batch.reading(now), writing=batch.writing(now))
        self._done, self._prompt_done = self._done + rows, self._prompt_done + prompt
        self._most_done += most
        self._batch = _Batch(0, 0, 0, now)

    def passing(self, rows: int, width: int) -> None:
        """So many rows go into the model, `width` tokens of each: one is a token that was written, more are read."""
        if width == 1:
            if self.doing != "writing":
                self._batch.turns(self._clock())
            self.doing = "writing"
        else:
            self.doing = "reading"  # a run of one token that several prompts share looks as if it were written
        self._batch.goes_in(rows, width)

    def passes(self, share: float) -> None:
        """That share of the model's layers has them behind it."""
        self._batch.share = share

    def passed(self) -> None:
        """They are through."""
        self._batch.comes_out(self._clock())

    def view(self) -> Activity:
        """The work at this moment."""
        now, batch = self._clock(), self._batch
        if self.doing == "loading" or not self._rows:
            return Activity(self.model, self.doing, seconds=now - self._began, direct=self.direct)
        left, at_most = self._left(now, batch)
        spent = now - self._began
        share = self._share(batch) if left is None else spent / (spent + left) if spent + left else 0.0
        self._shown = max(
            self._shown, min(1.0, share)
        )  # an estimate of the rest may grow, what is done does not shrink
        return Activity(
            self.model,
            self.doing,
            self._rows,
            self._done + batch.rows * batch.done(now, self.doing, self._pace),
            self._shown,
            batch.rate(now, self.doing),
            left,
            at_most,
            spent,
            self.direct,
        )

    def _stay(self) -> None:
        self.ended = True
        while True:
            time.sleep(3600.0)

    def _left(self, now: float, batch: _Batch) -> tuple[float | None, bool]:
        """The seconds to go, and whether they hold only if nothing ends before it must."""
        known = self._pace.expects(prompt=batch.prompt, most=batch.most)
        rest = self._prompt - self._prompt_done - batch.prompt, self._most - self._most_done - batch.most
        own, at_most = batch.left(now, self.doing, known)
        if own is None:
            return None, False
        if not any(rest):
            return own, at_most
        later = self._pace.expects(prompt=rest[0], most=rest[1])
        if later is None and (whole := batch.seconds(now) + own) and batch.cost:
            return own + whole * (rest[0] + WRITING_COSTS * rest[1]) / batch.cost, at_most
        return (None, False) if later is None else (own + sum(later), at_most)

    def _share(self, batch: _Batch) -> float:
        """By tokens, each that may come counted as one that does."""
        whole = self._prompt + WRITING_COSTS * self._most
        before = self._prompt_done + WRITING_COSTS * self._most_done
        return (before + batch.cost * batch.passed(self.doing)) / whole if whole else 0.0


class _Batch:
    """Rows that are decoded together: what went through the model, and when."""

    def __init__(self, rows: int, prompt: int, most: int, began: float) -> None:
        self.rows, self.prompt, self.most = rows, prompt, most
        self.cost = prompt + WRITING_COSTS * most
        self.share = 0.0
        self._began, self._turned = began, math.inf
        self._read = self._written = self._steps = 0
        self._going, self._inside = rows, (0, 0)
        self._marks = [(began, 0)]

    def goes_in(self, rows: int, width: int) -> None:
        self._inside, self.share = (rows, width), 0.0
        if width == 1:
            self._going = rows

    def comes_out(self, now: float) -> None:
        rows, width = self._inside
        if width == 1:
            self._written, self._steps = self._written + rows, self._steps + 1
            if now - self._marks[-1][0] >= FEW:
                self._marks = [*self._marks[-4:], (now, self._written)]
        else:
            self._read += rows * width
        self._inside = 0, 0

    def turns(self, now: float) -> None:
        """All is read, and writing begins."""
        self._turned, self._marks = now, [(now, 0)]

    def seconds(self, now: float) -> float:
        return now - self._began

    def reading(self, now: float) -> float:
        return min(now, self._turned) - self._began

    def writing(self, now: float) -> float:
        return max(0.0, now - self._turned)

    def rate(self, now: float, doing: Doing) -> float:
        """Tokens a second of late."""
        if doing == "writing":
            since, before = self._marks[0]
            tokens = self._written - before
        else:
            since, tokens = self._began, self._read_by_now
        return tokens / (now - since) if now - since > 0.05 else 0.0

    @property
    def _read_by_now(self) -> float:
        rows, width = self._inside
        return self._read + self.share * rows * width if width > 1 else self._read

    def done(self, now: float, doing: Doing, pace: Pace) -> float:
        """The share of the batch's time that is over, in [0, 1)."""
        left, _ = self.left(now, doing, pace.expects(prompt=self.prompt, most=self.most))
        took = self.seconds(now)
        return self.passed(doing) if left is None or not took else min(0.99, took / (took + left))

    def passed(self, doing: Doing) -> float:
        """The share of the batch's tokens, in [0, 1), if every reply takes all that it may."""
        if not self.cost:
            return 0.0
        if doing != "writing":
            return min(0.99, self._read_by_now / self.prompt) * self.prompt / self.cost if self.prompt else 0.0
        steps = self.most / self.rows
        return (self.prompt + WRITING_COSTS * self.most * min(0.99, self._steps / steps)) / self.cost

    def left(self, now: float, doing: Doing, known: tuple[float, float] | None) -> tuple[float | None, bool]:
        """The seconds to go; and whether that is only how many they are at most."""
        if doing != "writing":
            if known is None:
                return None, False
            return max(0.0, known[0] - self.seconds(now)) + known[1], False
        took = self.writing(now)
        if self._steps < 3 or not took:
            return (None, False) if known is None else (max(0.0, known[1] - took), False)
        a_step = took / self._steps
        most = max(0.0, self.most / self.rows - self._steps) * a_step
        ended = self.rows - self._going
        if known is not None:
            usual = known[1] - took
            return min(most, max(usual, self._by_ends(ended) * a_step if usual < 0.2 * known[1] else usual)), False
        if ended < max(1, self.rows // 4):
            return most, self.rows > 0
        return min(most, self._by_ends(ended) * a_step), False

    def _by_ends(self, ended: int) -> float:
        """Steps to the last row's end, if rows go on to end as often as they did."""
        if not ended:
            return math.inf
        return self._written / ended * (math.log(max(1, self._going)) + 0.6) / 2


_NUMBERS = itertools.count()
_UNDERWAY: dict[int, Work] = {}
_STOPS: tuple[Stop, ...] = ()
_CHANGING = threading.Lock()
_ENDING = threading.Event()
_LOADED = [0.0]
"""The seconds that models which are loaded took."""


@contextmanager
def abandoned_when(asked: Stop) -> Iterator[None]:
    """Inside, models of this process abandon their work once `asked()` gives a reason, with `Abandoned`.

    `asked` is called often, from any thread: it takes no lock and does not raise.

    >>> with abandoned_when(lambda: "enough"), working(Work("some-model", 1, 5, 5)) as work:
    ...     try:
    ...         work.check()
    ...     except Abandoned as reason:
    ...         print(reason)
    enough
    """
    global _STOPS  # noqa: PLW0603 - replaced as a whole, so that a model reads it without a lock
    with _CHANGING:
        _STOPS = (*_STOPS, asked)
    try:
        yield
    finally:
        with _CHANGING:
            place = _STOPS.index(asked)
            _STOPS = (*_STOPS[:place], *_STOPS[place + 1 :])


def check(besides: Sequence[Stop] = ()) -> None:
    """Raise `Abandoned` where somebody wants what models of this process do to end.

    >>> check()
    """
    for stop in _STOPS if besides is _STOPS else (*besides, *_STOPS):
        if said := stop():
            raise Abandoned(said)


@contextmanager
def working(work: Work) -> Iterator[Work]:
    """Inside, the work is under way, and seen by `underway`."""
    number = next(_NUMBERS)
    _UNDERWAY[number] = work
    try:
        yield work
    finally:
        del _UNDERWAY[number]


@contextmanager
def loading(model: str) -> Iterator[None]:
    """Inside, a model is being loaded. Raises `Abandoned` before or after, where somebody wants it to end.

    >>> with loading("some-model"):
    ...     [(each.model, each.doing) for each in underway()]
    [('some-model', 'loading')]
    """
    work = Work(model, doing="loading")
    work.check()
    try:
        with working(work):
            yield
    finally:
        _LOADED[0] += work.view().seconds
    work.check()


def underway() -> list[Activity]:
    """What the models of this process are at, at this moment; empty where none works.

    >>> underway()
    []
    """
    return [each.view() for each in _works()]


def seconds_loading() -> float:
    """The seconds that this process has spent on loading models until now."""
    return _LOADED[0] + sum(each.view().seconds for each in _works() if each.doing == "loading")


def is_loading() -> bool:
    """Whether a model is being loaded at this moment, which cannot be abandoned by itself. Takes no lock."""
    return any(each.doing == "loading" for each in _works())


def _works() -> list[Work]:
    while True:
        try:
            return list(_UNDERWAY.values())
        except RuntimeError:  # another thread began or ended one meanwhile
            continue


@atexit.register
def _end() -> None:
    """Wait until no daemon thread is in the middle of PyTorch: one that the interpreter's end meets there would abort
    the process, with a message that says nothing and an exit code of its own. One that loads a model checks nothing, so
    `Abandoned` is raised there from outside."""
    _ENDING.set()
    for each in _works():
        if each.doing == "loading":
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(each.thread), ctypes.py_object(Abandoned))
    until = time.monotonic() + _AT_EXIT
    while not all(each.ended for each in _works()) and time.monotonic() < until:
        time.sleep(0.01)
