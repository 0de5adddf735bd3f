"""Progress of one call's prompts at a model: tokens read and written, the rate, and an estimate of the seconds left.

    Work ──> _BatchProgress (the batch at the model now)
      └────> Pace (what earlier batches took, per token)

The thread that computes does the counting, without a lock; any thread may call `Work.view`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from sgt_modules.local.cancellation import PROCESS_ENDS, check_cancelled, current_reasons

ModelPhase = Literal["loading", "reading", "writing"]
Clock = Callable[[], float]

WRITING_COSTS = 3.0
"""How many times as long it takes to write a token as to read one, before a model is measured: on a CPU, in batches."""

RATE_SECONDS = 1.0
"""The least seconds over which the rate of writing is measured."""


@dataclass(frozen=True, slots=True)
class Activity:
    """The state of one model's work at a moment.

    Args:
        model: The model's name.
        phase: The model is being loaded, reads prompts, or writes replies.
        rows: The number of prompts.
        answered: The number of prompts that are answered; a part of the current batch counts as a fraction.
        share: The share of the work that is done, in [0, 1].
        rate: Recent tokens a second: read in the reading phase, written in the writing phase.
        seconds_left: The estimate of the seconds to go; None while there is no estimate.
        is_upper_bound: Whether `seconds_left` assumes that every reply has as many tokens as it may.
        seconds: The seconds since the work began.
        direct: Whether one caller's `sample` passed the prompts; otherwise they come from an engine's queue.
    """

    model: str
    phase: ModelPhase
    rows: int = 0
    answered: float = 0.0
    share: float = 0.0
    rate: float = 0.0
    seconds_left: float | None = None
    is_upper_bound: bool = False
    seconds: float = 0.0
    direct: bool = True


class Pace:
    """Seconds for each prompt token and for each token of the replies' limits, measured on a model's earlier batches.

    >>> pace = Pace()
    >>> pace.predict(prompt=10, most=10) is None
    True
    >>> pace.add_batch(prompt=100, most=50, reading=1.0, writing=2.0)
    >>> pace.predict(prompt=10, most=10)
    (0.1, 0.4)
    """

    def __init__(self) -> None:
        self._prompt = self._most = 0
        self._reading = self._writing = 0.0

    def add_batch(self, *, prompt: int, most: int, reading: float, writing: float) -> None:
        """Add a batch; each call halves the weight of the batches before it.

        `prompt` are the tokens of the prompts, `most` the sum of the replies' limits, the others are seconds.
        """
        self._prompt = self._prompt // 2 + prompt
        self._most = self._most // 2 + most
        self._reading = self._reading / 2 + reading
        self._writing = self._writing / 2 + writing

    def predict(self, *, prompt: int, most: int) -> tuple[float, float] | None:
        """The seconds of reading and of writing for so many tokens; None before the first batch."""
        if not self._prompt or not self._most:
            return None
        return self._reading / self._prompt * prompt, self._writing / self._most * most


class Work:
    """One call's prompts at a model, batch by batch."""

    def __init__(
        self,
        model: str,
        rows: int = 0,
        prompt: int = 0,
        most: int = 0,
        *,
        pace: Pace | None = None,
        direct: bool = True,
        phase: ModelPhase = "reading",
        clock: Clock = time.monotonic,
    ) -> None:
        """`rows` prompts with `prompt` tokens in all, whose replies have at most `most` tokens in all."""
        self.model, self.direct = model, direct
        self.phase: ModelPhase = phase
        self._rows, self._prompt, self._most = rows, prompt, most
        self._pace, self._clock, self._began = pace or Pace(), clock, clock()
        self._reasons = current_reasons()
        self._answered = self._prompt_done = self._most_done = 0
        self._batch = _BatchProgress(0, 0, 0, self._began)
        self._share_shown = 0.0
        self.is_paused = False
        """Whether the thread sleeps for ever, as the process ends."""
        self.thread = threading.get_ident()

    def check(self) -> None:
        """Raise `WorkCancelled` if a caller cancelled the work; in a daemon thread, never return once the process ends.

        Reasons that held when the work began count as well as the current ones.
        """
        if PROCESS_ENDS.is_set() and threading.current_thread().daemon:
            self._sleep_for_ever()
        check_cancelled(self._reasons)

    @contextmanager
    def track_batch(self, rows: int, prompt: int, most: int) -> Iterator[None]:
        """Inside, `rows` of the prompts are decoded together; the other numbers as for `Work`."""
        self.check()
        self.phase = "reading"
        batch = self._batch = _BatchProgress(rows, prompt, most, self._clock())
        yield
        now = self._clock()
        reading, writing = batch.reading_seconds(now), batch.writing_seconds(now)
        self._pace.add_batch(prompt=prompt, most=most, reading=reading, writing=writing)
        self._answered, self._prompt_done = self._answered + rows, self._prompt_done + prompt
        self._most_done += most
        self._batch = _BatchProgress(0, 0, 0, now)

    def begin_pass(self, rows: int, width: int) -> None:
        """A forward pass begins, with `width` tokens of each row: one that was written before, or several to read."""
        if width == 1:
            if self.phase != "writing":
                self._batch.begin_writing(self._clock())
            self.phase = "writing"
        else:
            self.phase = "reading"  # a single token that several prompts share looks as if it were written
        self._batch.begin_pass(rows, width)

    def set_pass_share(self, share: float) -> None:
        """Set the share of the layers that the current pass has behind it."""
        self._batch.pass_share = share

    def end_pass(self) -> None:
        """The current forward pass ends."""
        self._batch.end_pass(self._clock())

    def view(self) -> Activity:
        """The state of the work at this moment."""
        now, batch = self._clock(), self._batch
        if self.phase == "loading" or not self._rows:
            return Activity(self.model, self.phase, seconds=now - self._began, direct=self.direct)
        left, is_upper_bound = self._estimate_left(now, batch)
        spent = now - self._began
        share = self._token_share(batch) if left is None else spent / (spent + left) if spent + left else 0.0
        self._share_shown = max(
            self._share_shown, min(1.0, share)
        )  # the estimate may grow, what is shown never shrinks
        return Activity(
            self.model,
            self.phase,
            self._rows,
            self._answered + batch.rows * batch.share_done(now, self.phase, self._pace),
            self._share_shown,
            batch.rate(now, self.phase),
            left,
            is_upper_bound,
            spent,
            self.direct,
        )

    def _sleep_for_ever(self) -> None:
        self.is_paused = True
        while True:
            time.sleep(3600.0)

    def _estimate_left(self, now: float, batch: _BatchProgress) -> tuple[float | None, bool]:
        """The seconds to go, and whether they assume that every reply has as many tokens as it may."""
        expected = self._pace.predict(prompt=batch.prompt, most=batch.most)
        rest = self._prompt - self._prompt_done - batch.prompt, self._most - self._most_done - batch.most
        own, is_upper_bound = batch.estimate_left(now, self.phase, expected)
        if own is None:
            return None, False
        if not any(rest):
            return own, is_upper_bound
        later = self._pace.predict(prompt=rest[0], most=rest[1])
        if later is None and (whole := batch.seconds(now) + own) and batch.cost:
            return own + whole * (rest[0] + WRITING_COSTS * rest[1]) / batch.cost, is_upper_bound
        return (None, False) if later is None else (own + sum(later), is_upper_bound)

    def _token_share(self, batch: _BatchProgress) -> float:
        """The share of the tokens that are done, if every reply has as many as it may."""
        whole = self._prompt + WRITING_COSTS * self._most
        before = self._prompt_done + WRITING_COSTS * self._most_done
        return (before + batch.cost * batch.token_share(self.phase)) / whole if whole else 0.0


class _BatchProgress:
    """The forward passes of rows that are decoded together, and when they ended."""

    def __init__(self, rows: int, prompt: int, most: int, began: float) -> None:
        self.rows, self.prompt, self.most = rows, prompt, most
        self.cost = prompt + WRITING_COSTS * most
        """The batch's work, in tokens to read."""
        self.pass_share = 0.0
        self._began, self._writing_began = began, math.inf
        self._read = self._written = self._steps = 0
        self._open_rows, self._pass_size = rows, (0, 0)
        self._marks = [(began, 0)]
        """Some recent times, each with the number of tokens written until then."""

    def begin_pass(self, rows: int, width: int) -> None:
        self._pass_size, self.pass_share = (rows, width), 0.0
        if width == 1:
            self._open_rows = rows

    def end_pass(self, now: float) -> None:
        rows, width = self._pass_size
        if width == 1:
            self._written, self._steps = self._written + rows, self._steps + 1
            if now - self._marks[-1][0] >= RATE_SECONDS:
                self._marks = [*self._marks[-4:], (now, self._written)]
        else:
            self._read += rows * width
        self._pass_size = 0, 0

    def begin_writing(self, now: float) -> None:
        """All prompts are read; the first token is written next."""
        self._writing_began, self._marks = now, [(now, 0)]

    def seconds(self, now: float) -> float:
        return now - self._began

    def reading_seconds(self, now: float) -> float:
        return min(now, self._writing_began) - self._began

    def writing_seconds(self, now: float) -> float:
        return max(0.0, now - self._writing_began)

    def rate(self, now: float, phase: ModelPhase) -> float:
        """Recent tokens a second."""
        if phase == "writing":
            since, before = self._marks[0]
            tokens = self._written - before
        else:
            since, tokens = self._began, self._tokens_read
        return tokens / (now - since) if now - since > 0.05 else 0.0

    @property
    def _tokens_read(self) -> float:
        """The tokens that are read, with a part of those in the current pass."""
        rows, width = self._pass_size
        return self._read + self.pass_share * rows * width if width > 1 else self._read

    def share_done(self, now: float, phase: ModelPhase, pace: Pace) -> float:
        """The share of the batch's seconds that are over, in [0, 1)."""
        left, _ = self.estimate_left(now, phase, pace.predict(prompt=self.prompt, most=self.most))
        spent = self.seconds(now)
        return self.token_share(phase) if left is None or not spent else min(0.99, spent / (spent + left))

    def token_share(self, phase: ModelPhase) -> float:
        """The share of the batch's tokens that are done, in [0, 1), if every reply has as many as it may."""
        if not self.cost:
            return 0.0
        if phase != "writing":
            return min(0.99, self._tokens_read / self.prompt) * self.prompt / self.cost if self.prompt else 0.0
        steps = self.most / self.rows
        return (self.prompt + WRITING_COSTS * self.most * min(0.99, self._steps / steps)) / self.cost

    def estimate_left(
        self, now: float, phase: ModelPhase, expected: tuple[float, float] | None
    ) -> tuple[float | None, bool]:
        """The seconds to go, and whether they are an upper bound; `expected` seconds of reading and of writing."""
        if phase != "writing":
            if expected is None:
                return None, False
            return max(0.0, expected[0] - self.seconds(now)) + expected[1], False
        spent = self.writing_seconds(now)
        if self._steps < 3 or not spent:
            return (None, False) if expected is None else (max(0.0, expected[1] - spent), False)
        step_seconds = spent / self._steps
        most = max(0.0, self.most / self.rows - self._steps) * step_seconds
        ended = self.rows - self._open_rows
        if expected is not None:
            usual = expected[1] - spent
            late = usual < 0.2 * expected[1]
            return min(most, max(usual, self._steps_to_last_end(ended) * step_seconds if late else usual)), False
        if ended < max(1, self.rows // 4):
            return most, self.rows > 0
        return min(most, self._steps_to_last_end(ended) * step_seconds), False

    def _steps_to_last_end(self, ended: int) -> float:
        """The steps until the last row ends, if rows go on to end as often as they did."""
        if not ended:
            return math.inf
        return self._written / ended * (math.log(max(1, self._open_rows)) + 0.6) / 2
