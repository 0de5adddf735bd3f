"""Stops a run after too many failures in a row."""

from __future__ import annotations

import threading

from optimizers.core.records import Rollout
from sgt_modules.errors import SGTError


class FailureStreak:
    """Counts runs in a row without a reward; safe from many threads."""

    def __init__(self, max_errors: int) -> None:
        self._lock = threading.Lock()
        self._max_errors = max_errors
        self._in_a_row = 0

    def count(self, rollout: Rollout) -> None:
        """Count a run; raises `SGTError` at the `max_errors`-th failure in a row."""
        with self._lock:
            self._in_a_row = self._in_a_row + 1 if rollout.reward is None else 0
            if self._in_a_row < self._max_errors:
                return
            failures, self._in_a_row = self._in_a_row, 0
        last = rollout.error.partition("\n")[0]
        raise SGTError(
            f"{failures} runs of the actor in a row gave no reward; the last: {last}. Everything finished before is "
            "saved. Check the provider (key, quota, network) or the metric and start again with the same log_dir, "
            "or raise max_errors."
        )
