"""What one session of a run spends besides the actor's calls: seconds by work, and the generator's samples."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

from optimizers.result import Spent
from sgt_modules.generator import Sampled

Work = Literal["sampling", "acting", "training"]


class Spending:
    """Counts as the run goes; safe from many threads.

    >>> spending = Spending()
    >>> with spending.timed("acting"):
    ...     spending.sampled([])
    >>> spending.so_far.generator_calls
    0
    """

    def __init__(self) -> None:
        self.so_far = Spent()
        self._lock = threading.Lock()

    @contextmanager
    def timed(self, what: Work) -> Iterator[None]:
        """The seconds inside count as this work; of work that overlaps, each counts its own."""
        began = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                seconds = getattr(self.so_far, what) + time.perf_counter() - began
                self.so_far = replace(self.so_far, **{what: seconds})

    def sampled(self, replies: Sequence[Sampled]) -> None:
        """Count samples of the generator."""
        with self._lock:
            self.so_far += Spent(
                generator_calls=len(replies),
                generator_in=sum(reply.prompt_tokens for reply in replies),
                generator_out=sum(reply.tokens for reply in replies),
            )
