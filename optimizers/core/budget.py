"""What a run may spend, asked before each spend: calls of the actor, dollars, seconds. Also how a run is stopped."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from optimizers.core.usage import Meter
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


class Budget:
    """What is spent and what is on its way, against the limits; asked from many threads.

    Before a run of the program begins, those in flight count as many calls and dollars as runs cost on average, so the
    first one is made alone where calls or dollars are limited. Within a run each call is asked for too: none is made
    beyond `limits.actor_calls`, and dollars exceed their limit by the calls in flight at most. `besides` are dollars
    paid for anything but runs of the program: they count to the limit too.

    >>> budget = Budget(Limits(actor_calls=1))
    >>> with budget.running() as cost:
    ...     _ = cost(Meter(runs=1, calls=1))
    >>> try:
    ...     budget.check()
    ... except StoppedError as error:
    ...     print(error)
    1 of at most 1 actor calls are made
    """

    def __init__(
        self,
        limits: Limits | None = None,
        spent: Meter | None = None,
        seconds: float = 0.0,
        *,
        besides: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits or Limits()
        self._spent, self._besides = spent or Meter(), besides
        self._clock, self._began = clock, clock() - seconds
        self._open: list[Bill] = []
        self._calling = 0
        self._stop = ""
        self._changed = threading.Condition()

    @property
    def spent(self) -> Meter:
        """What the folder's sessions have paid so far."""
        with self._changed:
            return self._spent

    @property
    def dollars(self) -> float:
        """What has been paid so far, in US dollars: for runs of the program, and besides."""
        with self._changed:
            return self._spent.cost + self._besides

    @property
    def seconds(self) -> float:
        """The seconds that the folder's sessions have taken so far."""
        return self._clock() - self._began

    @property
    def stopped(self) -> str:
        """Who asked the run to stop, and why; empty while nobody did."""
        return self._stop

    def stop(self, reason: str) -> None:
        """Let nothing more be spent. Takes no lock, so that a signal's handler may call it."""
        self._stop = reason

    def check(self) -> None:
        """Raise `StoppedError` where nothing more may be spent."""
        with self._changed:
            reason = self._reached()
        if reason:
            raise StoppedError(reason)

    def pay(self, cost_usd: float) -> None:
        """Dollars that went into anything but runs of the program."""
        with self._changed:
            self._besides += cost_usd

    @contextmanager
    def running(self) -> Iterator[Callable[[Meter], Meter]]:
        """Pays for one run of the program inside: call the yielded bill with what the run cost, to get the whole cost.

        Waits while the runs in flight may reach a limit. Raises `StoppedError` once one is reached.
        """
        with self._changed:
            while not (reason := self._reached()) and not self._has_room():
                self._changed.wait(timeout=0.1)
            if reason:
                raise StoppedError(reason)
            bill = Bill(self)
            self._open.append(bill)
        was = _BILL.set(bill)
        try:
            yield bill
        finally:
            _BILL.reset(was)
            with self._changed:
                if bill in self._open:  # the run ended without a bill
                    self._open.remove(bill)
                self._changed.notify_all()

    def admit(self, calls: int, *, wait: bool) -> None:
        """Let a run in flight make so many calls, until `ended`; raises `StoppedError` where a limit would not hold.

        `wait`: whether to wait for calls in flight, which may turn out to cost nothing.
        """
        with self._changed:
            while not (reason := self._paid_up()) and not self._may_call(calls):
                if not (wait and self._calling):
                    reason = f"{self._made()}, and {calls + self._calling:,} more are asked for"
                    break
                self._changed.wait(timeout=0.1)
            if reason:
                raise StoppedError(reason)
            self._calling += calls

    def settle(self, bill: Bill, cost: Meter, *, admitted: int = 0, over: bool = False) -> None:
        """Count what a run has cost more: so many calls that were let in are over, or the whole run is.

        In one step, as other threads read from both sums what a run costs.
        """
        with self._changed:
            self._calling -= admitted
            bill.paid += cost
            self._spent += cost
            if over and bill in self._open:
                self._open.remove(bill)
            self._changed.notify_all()

    def _has_room(self) -> bool:
        limits, spent, bills = self.limits, self._spent, [bill.paid for bill in self._open]
        if not spent.runs and bills and (limits.actor_calls, limits.cost_usd) != (None, None):
            return False  # what a run costs is not known before the first one is over
        runs = max(1, spent.runs)
        calls = max(1.0, (spent.calls - sum(each.calls for each in bills)) / runs)
        cost = (spent.cost - sum(each.cost for each in bills)) / runs
        more_calls = sum(max(0.0, calls - each.calls) for each in bills)
        more_cost = sum(max(0.0, cost - each.cost) for each in bills)
        within_calls = spent.calls + more_calls < _or_infinite(limits.actor_calls)
        return within_calls and self.dollars + more_cost < _or_infinite(limits.cost_usd)

    def _may_call(self, calls: int) -> bool:
        return self._spent.calls + self._calling + calls <= _or_infinite(self.limits.actor_calls)

    def _reached(self) -> str:
        if reason := self._stop or self._paid_up():
            return reason
        if self.seconds >= _or_infinite(self.limits.seconds):
            return f"{self.seconds:,.0f} of at most {self.limits.seconds:,.0f} seconds are over"
        return ""

    def _paid_up(self) -> str:
        """Why no further call may be paid for; empty while one may."""
        if self._spent.calls >= _or_infinite(self.limits.actor_calls):
            return self._made()
        if self.dollars >= _or_infinite(self.limits.cost_usd):
            return f"${self.dollars:,.2f} of at most ${self.limits.cost_usd:,.2f} are spent"
        return ""

    def _made(self) -> str:
        return f"{self._spent.calls:,} of at most {self.limits.actor_calls:,} actor calls are made"


class Bill:
    """What one run of the program has cost so far, call by call; call it with the whole cost once the run is over."""

    def __init__(self, budget: Budget) -> None:
        self._budget, self._lock = budget, threading.Lock()
        self.paid = Meter()
        """What the calls that are over have cost."""

    def __call__(self, cost: Meter) -> Meter:
        """Pay for the run: what its calls did not pay for already. Gives what the run cost in all."""
        with self._lock:
            self._budget.settle(self, cost.beyond(self.paid), over=True)
            return self.paid

    def admit(self, calls: int, *, wait: bool) -> None:
        """As `Budget.admit`."""
        self._budget.admit(calls, wait=wait)

    def ended(self, admitted: int, cost: Meter) -> None:
        """So many calls of this run that were let in are over, and cost this."""
        with self._lock:
            self._budget.settle(self, cost, admitted=admitted)


_BILL: ContextVar[Bill | None] = ContextVar("sgt_bill", default=None)


def running_bill() -> Bill | None:
    """The bill of the run that is paid for around this call, if any."""
    return _BILL.get()


def _or_infinite(limit: float | None) -> float:
    return math.inf if limit is None else limit
