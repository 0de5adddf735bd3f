"""Counts the LM calls of one run of a program, in any thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import dspy
from dspy.dsp.utils.settings import thread_local_overrides
from dspy.utils.usage_tracker import UsageTracker

from optimizers.core.budget import RunReservation
from optimizers.core.prices import price_of
from optimizers.core.usage import Usage
from sgt_modules.errors import StoppedError
from sgt_modules.remote.lm_calls import in_generator_call
from sgt_modules.sharing import SharedByCopies


class BudgetReached(BaseException):
    """A call that the budget does not allow; passes DSPy's callbacks and a program's own `except Exception`."""


class Answers(NamedTuple):
    """Answers of one LM call: the LM's name, how many, the usage entry that DSPy tracks, and the LM where it is known.

    A generator that reports its own tokens has a name and no LM.
    """

    model: str
    calls: int
    entry: Mapping[str, Any]
    lm: object = None

    @property
    def usage(self) -> Usage:
        """Calls, tokens and dollars; no dollars where the LM is not known."""
        tokens_in, tokens_out = (self.entry.get(name) or 0 for name in ("prompt_tokens", "completion_tokens"))
        return Usage(0, self.calls, tokens_in, tokens_out, cost=price_of(self.lm).cost(self.entry))


class CallCounter(UsageTracker, SharedByCopies):
    """Counts every answer of a run that is not from DSPy's cache, whether or not its provider reports tokens.

    DSPy copies a usage tracker for each thread of `dspy.Parallel` and drops the copies; a copy of this tracker is the
    tracker itself. Safe from many threads.

    >>> import copy
    >>> counter = CallCounter()
    >>> copy.deepcopy(counter).add_usage("a/model", {})
    >>> [answers.calls for answers in counter.answers]
    [1]
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._answers: list[Answers] = []

    @property
    def answers(self) -> list[Answers]:
        """All answers so far."""
        with self._lock:
            return list(self._answers)

    def add_usage(self, lm: str, usage_entry: dict[str, Any]) -> None:
        """Count an answer, as part of the call in flight in this context where there is one."""
        call = _CALL.get()
        with self._lock:
            super().add_usage(lm, usage_entry)
            if call is not None and call.counter is self:
                call.entries.append(usage_entry)
            else:
                self._answers.append(Answers(lm, 1, usage_entry))

    def add(self, answers: Answers) -> None:
        """Count the answers of a call that has ended."""
        with self._lock:
            self._answers.append(answers)


@dataclass
class LMCall:
    """One LM call in flight: its counter, its LM, how many answers it asks for, and the usage entries so far.

    `begun` is how many calls the budget allowed for it: none for an LM that another LM asks. `outer` and `settings`
    restore the context at the call's end.
    """

    counter: CallCounter
    lm: object
    asked: int
    begun: int
    entries: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    outer: Token[LMCall | None] | None = None
    settings: Token[Any] | None = None

    @property
    def tokens_out(self) -> int:
        """Tokens that the LM wrote so far."""
        return sum(entry.get("completion_tokens") or 0 for entry in self.entries)


_COUNTER = "sgt_call_counter"
"""Where DSPy's settings hold the run's counter; every thread and coroutine that DSPy starts inherits them."""

_CALL: ContextVar[LMCall | None] = ContextVar("sgt_lm_call", default=None)


class CallGate:
    """Checks the run's budget before each LM call, and counts the call at its end.

    `refusal`: why the budget refused a call; empty while it refused none. `steps`: the program's calls so far, those
    that DSPy's cache answers included. Safe from many threads.
    """

    def __init__(self, counter: CallCounter, reservation: RunReservation | None) -> None:
        self.counter, self._reservation = counter, reservation
        self.refusal = ""
        self.steps, self._lock = 0, threading.Lock()

    def begin(self, lm: object, inputs: Mapping[str, Any]) -> LMCall | None:
        """Begin a call of the run; None for a call that is not the program's.

        Raises `BudgetReached` where the budget does not allow it.
        """
        tracker = cast("UsageTracker | None", dspy.settings.usage_tracker)
        if not self._is_of_run(tracker):
            return None
        within = _CALL.get() is not None  # an LM that asks another
        if not within:
            with self._lock:
                self.steps += 1
        call = LMCall(self.counter, lm, asked := _answer_count(lm, inputs), 0 if within else asked)
        if self._reservation is not None and not within:
            try:
                self._reservation.begin_calls(asked, wait=not _in_loop())
            except StoppedError as stop:
                self.refusal = str(stop)
                raise BudgetReached(self.refusal) from stop
        if tracker is not self.counter:
            both = {**thread_local_overrides.get(), "usage_tracker": _Both(self.counter, cast("UsageTracker", tracker))}
            call.settings = thread_local_overrides.set(type(thread_local_overrides.get())(both))
        call.outer = _CALL.set(call)
        return call

    def end(self, call: LMCall, *, failed: bool) -> None:
        """Count a call that has ended: every answer that it asked for; of a failed call, the answers that came."""
        if call.settings is not None:
            thread_local_overrides.reset(call.settings)
        if call.outer is not None:
            _CALL.reset(call.outer)
        counts = [1] * len(call.entries)
        if counts and not failed:
            counts[0] = max(1, call.asked - len(counts) + 1)
        answers = [
            Answers(str(getattr(call.lm, "model", "")), count, entry, call.lm)
            for count, entry in zip(counts, call.entries, strict=True)
        ]
        for each in answers:
            self.counter.add(each)
        if self._reservation is not None:
            self._reservation.end_calls(call.begun, sum((each.usage for each in answers), Usage()))

    def _is_of_run(self, tracker: UsageTracker | None) -> bool:
        """Whether a call is the program's, also under a tracker that the program set up; a metric's is not."""
        within = dspy.settings.get(_COUNTER) is self.counter
        return tracker is self.counter or (within and tracker is not None and not in_generator_call())


class _Both(UsageTracker):
    """Passes usage to the run's counter and to a tracker that the program set up itself."""

    def __init__(self, counter: CallCounter, own: UsageTracker) -> None:
        super().__init__()
        self._counter, self._own = counter, own

    def add_usage(self, lm: str, usage_entry: dict[str, Any]) -> None:
        """Pass an entry to both."""
        self._counter.add_usage(lm, usage_entry)
        self._own.add_usage(lm, usage_entry)


@contextmanager
def count_calls() -> Iterator[CallCounter]:
    """Count LM calls inside; a tracker around it gets their usage at the end, as from `dspy.track_usage`."""
    counter, parent = CallCounter(), cast("UsageTracker | None", dspy.settings.usage_tracker)
    with dspy.context(**{"usage_tracker": counter, _COUNTER: counter}):
        try:
            yield counter
        finally:
            if parent is not None:
                for each in counter.answers:
                    parent.add_usage(each.model, dict(each.entry))


def asks_several(lm: object, config: Mapping[str, Any]) -> bool:
    """Whether a call asks for more than one answer, by the LM's own settings or a predictor's.

    >>> asks_several(dspy.LM("openai/gpt-4.1"), {}), asks_several(dspy.LM("openai/gpt-4.1", n=3), {})
    (False, True)
    """
    return (config.get("n") or _settings_of(lm).get("n") or 1) != 1


def split_by_writer(
    answers: Sequence[Answers], writers: Collection[str]
) -> tuple[Sequence[Answers], Sequence[Answers]]:
    """Splits answers into those of the program's LMs and those of the generators with these names."""
    generators = [each for each in answers if each.lm is None and each.model in writers]
    return [each for each in answers if each.lm is not None or each.model not in writers], generators


def _settings_of(lm: object) -> Mapping[str, Any]:
    """An LM's own settings for its requests."""
    return cast("Mapping[str, Any]", getattr(lm, "kwargs", None) or {})


def _answer_count(lm: object, inputs: Mapping[str, Any]) -> int:
    if isinstance(inputs.get("prompt"), dspy.lm15.Request):
        return 1
    asked = (inputs.get("kwargs") or {}).get("n", _settings_of(lm).get("n"))
    return asked if isinstance(asked, int) and asked > 0 else 1


def _in_loop() -> bool:
    """Whether this thread runs an event loop, whose other calls could not end while one waits."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
