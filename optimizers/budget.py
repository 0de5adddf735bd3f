"""What a run may spend, asked before each spend: calls of the actor, dollars, seconds. Also how a run is stopped."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from optimizers.ledger import Meter
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

    A run of the program counts as one call, or as many as its runs made on average, until it is done; so a program that
    makes one call a run never makes more than `limits.actor_calls`, and another exceeds a limit by no more than what
    its runs in flight cost beyond the average. `besides` are dollars paid for anything but runs of the program: they
    count to the limit too.

    >>> budget = Budget(Limits(actor_calls=1))
    >>> with budget.running() as cost:
    ...     cost(Meter(runs=1, calls=1))
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
        self._in_flight = 0
        self._stop = ""
        self._changed = threading.Condition()

    @property
    def spent(self) -> Meter:
        """What the folder's sessions have paid so far."""
        with self._changed:
            return self._spent

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
    def running(self) -> Iterator[Callable[[Meter], None]]:
        """A run of the program is paid for inside, and its cost told by a call of what this gives.

        Waits while the runs in flight may reach a limit. Raises `StoppedError` once one is reached.
        """
        with self._changed:
            while not (reason := self._reached()) and not self._has_room():
                self._changed.wait(timeout=0.1)
            if reason:
                raise StoppedError(reason)
            self._in_flight += 1
        try:
            yield self._pay
        finally:
            with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    def _pay(self, cost: Meter) -> None:
        with self._changed:
            self._spent += cost

    def _has_room(self) -> bool:
        limits, spent = self.limits, self._spent
        runs = max(1, spent.runs)
        calls, cost = max(1.0, spent.calls / runs), spent.cost / runs
        return spent.calls + self._in_flight * calls < _or_infinite(
            limits.actor_calls
        ) and self._dollars + self._in_flight * cost < _or_infinite(limits.cost_usd)

    @property
    def _dollars(self) -> float:
        return self._spent.cost + self._besides

    def _reached(self) -> str:
        limits, spent = self.limits, self._spent
        if self._stop:
            return self._stop
        if spent.calls >= _or_infinite(limits.actor_calls):
            return f"{spent.calls:,} of at most {limits.actor_calls:,} actor calls are made"
        if self._dollars >= _or_infinite(limits.cost_usd):
            return f"${self._dollars:,.2f} of at most ${limits.cost_usd:,.2f} are spent"
        if self.seconds >= _or_infinite(limits.seconds):
            return f"{self.seconds:,.0f} of at most {limits.seconds:,.0f} seconds are over"
        return ""


def _or_infinite(limit: float | None) -> float:
    return math.inf if limit is None else limit
