"""What runs of an actor cost, and how many in a row have failed; counted from many threads."""

from __future__ import annotations

import threading
from dataclasses import dataclass, fields

from optimizers.core.records import Rollout
from sgt_modules.errors import SGTError


@dataclass(frozen=True, slots=True)
class Meter:
    """What an actor has paid: runs of the program, calls of its LM, their tokens, seconds summed over threads, and USD.

    Each answer is a call, so a request with `n=3` counts three; one from DSPy's own cache counts as none. Tokens are
    what the provider reports. `cost` counts only calls of a known price (see `optimizers.core.prices`).
    """

    runs: int = 0
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    cost: float = 0.0

    def __add__(self, other: Meter) -> Meter:
        return Meter(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def beyond(self, paid: Meter) -> Meter:
        """What of this is not in `paid`, and never less than nothing.

        >>> Meter(runs=1, calls=3, tokens_in=10).beyond(Meter(calls=2, tokens_in=12))
        Meter(runs=1, calls=1, tokens_in=0, tokens_out=0, seconds=0.0, cost=0.0)
        """
        return Meter(*(max(getattr(self, each.name) - getattr(paid, each.name), 0) for each in fields(self)))


class Ledger:
    """How many runs in a row had no reward, counted from many threads."""

    def __init__(self, max_errors: int) -> None:
        self._lock = threading.Lock()
        self._max_errors = max_errors
        self._in_a_row = 0

    def enter(self, rollout: Rollout) -> None:
        """Count a run; raises `SGTError` when it is one failure in a row too many."""
        with self._lock:
            self._in_a_row = self._in_a_row + 1 if rollout.reward is None else 0
            if self._in_a_row < self._max_errors:
                return
            failed, self._in_a_row = self._in_a_row, 0
        last = rollout.error.partition("\n")[0]
        raise SGTError(
            f"{failed} runs of the actor in a row gave no reward; the last: {last}. Everything finished before is "
            "saved. Check the provider (key, quota, network) or the metric and start again with the same log_dir, "
            "or raise max_errors."
        )
