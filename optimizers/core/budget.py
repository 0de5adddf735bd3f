"""What a run may spend, checked before each spend: calls of the actor, dollars, seconds. Also how a run is stopped."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

from optimizers.core.usage import Usage
from sgt_modules.errors import SetupError, StoppedError


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that a run may spend, all sessions in its folder together; None is no limit.

    `seconds` are those in which a session was at work.

    >>> try:
    ...     Limits(actor_calls=0)
    ... except SetupError as error:
    ...     print(error)
    Expected max_actor_calls above 0, got 0. Leave it out for no limit.
    """

    actor_calls: int | None = None
    cost_usd: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("actor_calls", "cost_usd", "seconds"):
            limit = getattr(self, name)
            if limit is not None and not limit > 0:
                raise SetupError(f"Expected max_{name} above 0, got {limit}. Leave it out for no limit.")


@dataclass(frozen=True, slots=True)
class BudgetState:
    """A budget at one moment: the usage of all sessions of the run's folder, and its limits.

    `usage.cost` includes what else than the program was paid for, and `usage.seconds` are on the clock. `stop_reason`
    says who stopped the run, and is empty otherwise.
    """

    usage: Usage = field(default_factory=Usage)
    limits: Limits = field(default_factory=Limits)
    stop_reason: str = ""


class Budget:
    """Usage against the limits, for many threads.

    Before a run of the program begins, each run in flight counts as many calls and dollars as a run costs on average,
    so the first run is alone where calls or dollars are limited. Within a run each call is checked too: none is made
    beyond `limits.actor_calls`, and dollars exceed their limit by the calls in flight at most. `other_cost` is dollars
    paid for anything but runs of the program; they count to the limit too.

    >>> budget = Budget(Limits(actor_calls=1))
    >>> with budget.reserve_run() as charge:
    ...     _ = charge(Usage(runs=1, calls=1))
    >>> try:
    ...     budget.check()
    ... except StoppedError as error:
    ...     print(error)
    1 of at most 1 actor calls are made
    """

    def __init__(
        self,
        limits: Limits | None = None,
        usage: Usage | None = None,
        seconds: float = 0.0,
        *,
        other_cost: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits or Limits()
        self._usage, self._other_cost = usage or Usage(), other_cost
        self._clock, self._began = clock, clock() - seconds
        self._in_flight: list[RunReservation] = []
        self._calls_in_flight = 0
        self._stop_reason = ""
        self._changed = threading.Condition()

    @property
    def usage(self) -> Usage:
        """Usage of the program, in all sessions of the folder."""
        with self._changed:
            return self._usage

    @property
    def dollars(self) -> float:
        """US dollars paid so far: for runs of the program and for anything else."""
        with self._changed:
            return self._usage.cost + self._other_cost

    @property
    def seconds(self) -> float:
        """Seconds that the folder's sessions took so far."""
        return self._clock() - self._began

    @property
    def state(self) -> BudgetState:
        """The budget at this moment."""
        usage = replace(self.usage, cost=self.dollars, seconds=self.seconds)
        return BudgetState(usage, self.limits, self._stop_reason)

    @property
    def stop_reason(self) -> str:
        """Who asked the run to stop, and why; empty while nobody did."""
        return self._stop_reason

    def stop(self, reason: str) -> None:
        """Allow no further spend. Takes no lock, so that a signal's handler may call it."""
        self._stop_reason = reason

    def check(self) -> None:
        """Raise `StoppedError` where a limit is reached or the run is stopped."""
        with self._changed:
            reason = self._why_stop()
        if reason:
            raise StoppedError(reason)

    @contextmanager
    def holding_back(self, calls: int) -> Iterator[None]:
        """Keep so many actor calls for later: where only they are left, the work inside ends without an error.

        Without a limit of actor calls, nothing is held back.

        >>> budget = Budget(Limits(actor_calls=3), Usage(runs=2, calls=2))
        >>> with budget.holding_back(1):
        ...     budget.check()
        ...     print("not reached")
        >>> budget.check()
        """
        whole = self.limits
        if whole.actor_calls is None:
            yield
            return
        self.limits = replace(whole, actor_calls=max(1, whole.actor_calls - calls))
        try:
            yield
        except StoppedError:
            self.limits = whole
            with self._changed:
                is_over = bool(self._why_stop())
            if is_over:
                raise
        finally:
            self.limits = whole

    def add_other_cost(self, cost_usd: float) -> None:
        """Count dollars that were paid for anything but runs of the program."""
        with self._changed:
            self._other_cost += cost_usd

    @contextmanager
    def reserve_run(self) -> Iterator[Callable[[Usage], Usage]]:
        """Reserve budget for one run of the program; call the yielded function with the run's usage.

        The function returns the whole usage of the run. Waits while the runs in flight may reach a limit. Raises
        `StoppedError` once a limit is reached.
        """
        with self._changed:
            while not (reason := self._why_stop()) and not self._allows_run():
                self._changed.wait(timeout=0.1)
            if reason:
                raise StoppedError(reason)
            reservation = RunReservation(self)
            self._in_flight.append(reservation)
        token = _RESERVATION.set(reservation)
        try:
            yield reservation
        finally:
            _RESERVATION.reset(token)
            with self._changed:
                if reservation in self._in_flight:  # the run ended without a charge
                    self._in_flight.remove(reservation)
                self._changed.notify_all()

    def begin_calls(self, calls: int, *, wait: bool) -> None:
        """Allow a run in flight so many calls; raises `StoppedError` where they would exceed a limit.

        `wait`: whether to wait for calls in flight, which may turn out to cost nothing.
        """
        with self._changed:
            while not (reason := self._why_no_call()) and not self._allows_calls(calls):
                if not (wait and self._calls_in_flight):
                    reason = f"{self._calls_made()}, and {calls + self._calls_in_flight:,} more are asked for"
                    break
                self._changed.wait(timeout=0.1)
            if reason:
                raise StoppedError(reason)
            self._calls_in_flight += calls

    def count(self, reservation: RunReservation, usage: Usage, *, begun: int = 0, last: bool = False) -> None:
        """Add usage of a run: of calls that end, as many as `begun`, or (`last`) of the whole run.

        In one step, as other threads compute a run's mean cost from both sums.
        """
        with self._changed:
            self._calls_in_flight -= begun
            reservation.counted += usage
            self._usage += usage
            if last and reservation in self._in_flight:
                self._in_flight.remove(reservation)
            self._changed.notify_all()

    def _allows_run(self) -> bool:
        limits, used, in_flight = self.limits, self._usage, [each.counted for each in self._in_flight]
        if not used.runs and in_flight and (limits.actor_calls, limits.cost_usd) != (None, None):
            return False  # the cost of a run is unknown until the first one ends
        runs = max(1, used.runs)
        calls = max(1.0, (used.calls - sum(each.calls for each in in_flight)) / runs)
        cost = (used.cost - sum(each.cost for each in in_flight)) / runs
        more_calls = sum(max(0.0, calls - each.calls) for each in in_flight)
        more_cost = sum(max(0.0, cost - each.cost) for each in in_flight)
        within_calls = used.calls + more_calls < _or_infinite(limits.actor_calls)
        return within_calls and self.dollars + more_cost < _or_infinite(limits.cost_usd)

    def _allows_calls(self, calls: int) -> bool:
        return self._usage.calls + self._calls_in_flight + calls <= _or_infinite(self.limits.actor_calls)

    def _why_stop(self) -> str:
        if reason := self._stop_reason or self._why_no_call():
            return reason
        if self.seconds >= _or_infinite(self.limits.seconds):
            return f"{self.seconds:,.0f} of at most {self.limits.seconds:,.0f} seconds are over"
        return ""

    def _why_no_call(self) -> str:
        """Why no further call may be paid for; empty while one may."""
        if self._usage.calls >= _or_infinite(self.limits.actor_calls):
            return self._calls_made()
        if self.dollars >= _or_infinite(self.limits.cost_usd):
            return f"${self.dollars:,.2f} of at most ${self.limits.cost_usd:,.2f} are spent"
        return ""

    def _calls_made(self) -> str:
        return f"{self._usage.calls:,} of at most {self.limits.actor_calls:,} actor calls are made"


class RunReservation:
    """The budget reserved for one run of the program; counts its calls as they end, then the rest of the run."""

    def __init__(self, budget: Budget) -> None:
        self._budget, self._lock = budget, threading.Lock()
        self.counted = Usage()
        """Usage of the calls that have ended."""

    def __call__(self, usage: Usage) -> Usage:
        """Count the whole run's usage, less what its calls counted already. Returns the whole usage of the run."""
        with self._lock:
            self._budget.count(self, usage - self.counted, last=True)
            return self.counted

    def begin_calls(self, calls: int, *, wait: bool) -> None:
        """As `Budget.begin_calls`."""
        self._budget.begin_calls(calls, wait=wait)

    def end_calls(self, calls: int, usage: Usage) -> None:
        """Count the usage of so many calls of this run, which have ended."""
        with self._lock:
            self._budget.count(self, usage, begun=calls)


_RESERVATION: ContextVar[RunReservation | None] = ContextVar("sgt_run_reservation", default=None)


def current_reservation() -> RunReservation | None:
    """The reservation of the run around this call, if any."""
    return _RESERVATION.get()


def _or_infinite(limit: float | None) -> float:
    return math.inf if limit is None else limit
