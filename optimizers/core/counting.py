"""The calls of an LM within one run of a program, counted where they are made, in whichever thread that is."""

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

from optimizers.core.budget import Bill
from optimizers.core.prices import price_of
from optimizers.core.usage import Meter
from sgt_modules.errors import StoppedError
from sgt_modules.remote.asking import in_generator_call


class BudgetReached(BaseException):
    """A call that the budget does not allow; DSPy's callbacks and a program's own `except Exception` let it pass."""


class Answers(NamedTuple):
    """Answers of one LM call: the LM's name, how many, their usage as DSPy tracks it, and the LM itself if it is known.

    A generator that reports its own tokens is named too, and no LM.
    """

    model: str
    calls: int
    usage: Mapping[str, Any]
    lm: object = None

    @property
    def tokens(self) -> tuple[int, int]:
        """Tokens read and written."""
        read, wrote = (self.usage.get(name) or 0 for name in ("prompt_tokens", "completion_tokens"))
        return read, wrote

    @property
    def meter(self) -> Meter:
        """What they cost; nothing where the LM is not known."""
        read, wrote = self.tokens
        return Meter(0, self.calls, read, wrote, 0.0, price_of(self.lm).cost(self.usage))


class CallCounter(UsageTracker):
    """Counts every answer of a run that did not come from DSPy's cache, whether or not its provider reports tokens.

    DSPy copies a usage tracker for each thread of `dspy.Parallel` and forgets the copies; those of this one are itself.
    Safe from many threads.

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
        """Count an answer, to the call that is under way here if one is."""
        call = _CALL.get()
        with self._lock:
            super().add_usage(lm, usage_entry)
            if call is not None and call.counter is self:
                call.usages.append(usage_entry)
            else:
                self._answers.append(Answers(lm, 1, usage_entry))

    def add(self, answers: Answers) -> None:
        """Count the answers of a call that is over."""
        with self._lock:
            self._answers.append(answers)

    def __copy__(self) -> CallCounter:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> CallCounter:
        return self


@dataclass
class LMCall:
    """One LM call under way: who counts it, its LM, how many answers it asks for, and the usage reported so far."""

    counter: CallCounter
    lm: object
    asked: int
    admitted: int
    usages: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    before: Token[LMCall | None] | None = None
    settings: Token[Any] | None = None

    @property
    def wrote(self) -> int:
        """Tokens written so far."""
        return sum(usage.get("completion_tokens") or 0 for usage in self.usages)


_COUNTER = "sgt_call_counter"
"""Where DSPy's settings hold the run's counter, which reach every thread and coroutine that DSPy starts."""

_CALL: ContextVar[LMCall | None] = ContextVar("sgt_lm_call", default=None)


class Till:
    """Asks the run's bill before each LM call, and counts the call when it is over.

    `used_up`: why a call was not made, in the budget's words. Safe from many threads.
    """

    def __init__(self, counter: CallCounter, bill: Bill | None) -> None:
        self.counter, self._bill = counter, bill
        self.used_up = ""

    def begin(self, lm: object, inputs: Mapping[str, Any]) -> LMCall | None:
        """A call of the run that is about to be made; None for one that is not the program's.

        Raises `BudgetReached` where the budget does not allow it.
        """
        tracker = cast("UsageTracker | None", dspy.settings.usage_tracker)
        if not self._is_of_run(tracker):
            return None
        within = _CALL.get() is not None  # an LM that asks another
        call = LMCall(self.counter, lm, asked := _answers_asked(lm, inputs), 0 if within else asked)
        if self._bill is not None and not within:
            try:
                self._bill.admit(asked, wait=not _in_loop())
            except StoppedError as stop:
                self.used_up = str(stop)
                raise BudgetReached(self.used_up) from stop
        if tracker is not self.counter:
            both = {**thread_local_overrides.get(), "usage_tracker": _Both(self.counter, cast("UsageTracker", tracker))}
            call.settings = thread_local_overrides.set(type(thread_local_overrides.get())(both))
        call.before = _CALL.set(call)
        return call

    def end(self, call: LMCall, *, failed: bool) -> None:
        """Count a call that is over: each answer that was asked for, or of one that failed those that came."""
        if call.settings is not None:
            thread_local_overrides.reset(call.settings)
        if call.before is not None:
            _CALL.reset(call.before)
        counts = [1] * len(call.usages)
        if counts and not failed:
            counts[0] = max(1, call.asked - len(counts) + 1)
        answers = [
            Answers(str(getattr(call.lm, "model", "")), count, usage, call.lm)
            for count, usage in zip(counts, call.usages, strict=True)
        ]
        for each in answers:
            self.counter.add(each)
        if self._bill is not None:
            self._bill.ended(call.admitted, sum((each.meter for each in answers), Meter()))

    def _is_of_run(self, tracker: UsageTracker | None) -> bool:
        """Also under a usage tracker that the program set up itself; not what a generator or a metric asks."""
        within = dspy.settings.get(_COUNTER) is self.counter
        return tracker is self.counter or (within and tracker is not None and not in_generator_call())


class _Both(UsageTracker):
    """The run's counter and a tracker that the program set up itself."""

    def __init__(self, counter: CallCounter, own: UsageTracker) -> None:
        super().__init__()
        self._counter, self._own = counter, own

    def add_usage(self, lm: str, usage_entry: dict[str, Any]) -> None:
        """To both."""
        self._counter.add_usage(lm, usage_entry)
        self._own.add_usage(lm, usage_entry)


@contextmanager
def counted() -> Iterator[CallCounter]:
    """Inside, LM calls are counted; a tracker around it gets their usage at the end, as from `dspy.track_usage`."""
    counter, parent = CallCounter(), cast("UsageTracker | None", dspy.settings.usage_tracker)
    with dspy.context(**{"usage_tracker": counter, _COUNTER: counter}):
        try:
            yield counter
        finally:
            if parent is not None:
                for each in counter.answers:
                    parent.add_usage(each.model, dict(each.usage))


def several_answers(lm: object, config: Mapping[str, Any]) -> bool:
    """Whether a call asks for more than one answer, by the LM's own settings or a predictor's.

    >>> several_answers(dspy.LM("openai/gpt-4.1"), {}), several_answers(dspy.LM("openai/gpt-4.1", n=3), {})
    (False, True)
    """
    return (config.get("n") or _own(lm).get("n") or 1) != 1


def written_by(answers: Sequence[Answers], writers: Collection[str]) -> tuple[Sequence[Answers], Sequence[Answers]]:
    """The answers of the program's LMs, and those of generators of these names."""
    theirs = [each for each in answers if each.lm is None and each.model in writers]
    return [each for each in answers if each.lm is not None or each.model not in writers], theirs


def _own(lm: object) -> Mapping[str, Any]:
    """An LM's own settings for its requests."""
    return cast("Mapping[str, Any]", getattr(lm, "kwargs", None) or {})


def _answers_asked(lm: object, inputs: Mapping[str, Any]) -> int:
    if isinstance(inputs.get("prompt"), dspy.lm15.Request):
        return 1
    asked = (inputs.get("kwargs") or {}).get("n", _own(lm).get("n"))
    return asked if isinstance(asked, int) and asked > 0 else 1


def _in_loop() -> bool:
    """Whether this is a coroutine's thread, whose other calls could not end while one waits."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
