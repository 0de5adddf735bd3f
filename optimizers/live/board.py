"""The events of a run, counted as they come from many threads, and what they come to at a moment."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable

from optimizers.live.foresight import position, seconds_left
from optimizers.live.snapshot import Plan, Snapshot, Spend, StageView, Winner
from optimizers.records import Rollout

Clock = Callable[[], float]

MARKS = 30
"""How many moments, a second or more apart, a stage's pace is measured over."""

WINDOWS = 12
"""Windows of the trend, and half as many as a stage is cut into; each has at least `SMALLEST` rollouts."""

SMALLEST = 10

SAID = 50
"""Lines that a snapshot keeps."""

_ERROR = re.compile(r"[A-Za-z_][\w.]*")


class StageCount:
    """What one stage has done."""

    def __init__(self, name: str, total: int, *, clock: Clock = time.monotonic, threshold: float = 1.0) -> None:
        self.name, self.total, self.done = name, total, 0
        self.judged, self.won, self._sum = 0, 0, 0.0
        self.kinds: Counter[str] = Counter()
        self._clock, self._threshold = clock, threshold
        self._began = clock()
        self._ended: float | None = None
        self._marks: deque[tuple[float, int]] = deque(maxlen=MARKS)
        self._windows: deque[float] = deque(maxlen=WINDOWS)
        self._lately, self._lately_won = 0, 0

    def add(self, rollout: Rollout | None) -> None:
        """One more unit is done."""
        self._mark(self.done + 1)
        if rollout is None:
            return
        self.kinds[rollout.supplement.kind] += 1
        if rollout.reward is None:
            return
        won = rollout.reward.score >= self._threshold
        self.judged += 1
        self.won += won
        self._sum += rollout.reward.score
        self._lately += 1
        self._lately_won += won
        if self._lately >= max(SMALLEST, self.total // (2 * WINDOWS)):
            self._windows.append(self._lately_won / self._lately)
            self._lately = self._lately_won = 0

    def move_to(self, done: int, total: int) -> None:
        """`done` of `total` units are done."""
        self.total = total
        self._mark(done)

    def end(self) -> None:
        """The stage is over."""
        self._ended = self._clock()

    def view(self) -> StageView:
        """The stage at this moment."""
        over = self._ended is not None
        now = self._clock() if self._ended is None else self._ended
        rate = self._rate(now, lately=not over)
        return StageView(
            self.name,
            self.done,
            self.total,
            now - self._began,
            rate,
            (self.total - self.done) / rate if rate and not over else None,
            self.judged,
            self.won,
            self._sum / self.judged if self.judged else None,
            tuple(self._windows),
        )

    def _rate(self, now: float, *, lately: bool) -> float:
        """Units a second; of late they are counted from the first one on, as what comes before it may be loading."""
        since, before = self._marks[0] if lately and self._marks else (self._began, 0)
        if self.done <= before:
            since, before = self._began, 0
        return (self.done - before) / (now - since) if now > since else 0.0

    def _mark(self, done: int) -> None:
        self.done = done
        now = self._clock()
        if not self._marks or now - self._marks[-1][0] >= 1.0:
            self._marks.append((now, done))


class Board:
    """Everything that views show of a run, by its events. Safe from many threads, but for `said`, which takes no lock.

    >>> board = Board()
    >>> stage = board.begin("warm: sampling", 2)
    >>> board.advance(stage, None)
    >>> [(each.name, each.done, each.total) for each in board.snapshot().underway]
    [('warm: sampling', 1, 2)]
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock, self._began = clock, clock()
        self._lock = threading.Lock()
        self._underway: list[StageCount] = []
        self._finished: list[StageView] = []
        self._last: StageCount | None = None
        self._plan = Plan()
        self._spend: Callable[[], Spend] | None = None
        self._errors: Counter[str] = Counter()
        self._rollouts = 0
        self._failed: set[str] = set()
        self._winner: tuple[Rollout, str] | None = None
        self._over = False
        self.said: deque[str] = deque(maxlen=SAID)

    def plan(self, plan: Plan | None, spend: Callable[[], Spend] | None) -> None:
        """A run begins, of which `spend` tells what it has spent."""
        with self._lock:
            self._plan, self._spend, self._over = plan or Plan(), spend, False

    def over(self) -> None:
        """The run is over: what it spent stays as it is now."""
        last = self._spend() if self._spend else None
        with self._lock:
            self._spend, self._over = (lambda: last) if last else None, True

    def begin(self, name: str, total: int) -> StageCount:
        """A stage is under way."""
        with self._lock:
            self._over = False
            stage = StageCount(name, total, clock=self._clock, threshold=self._plan.threshold)
            self._underway.append(stage)
            return stage

    def end(self, stage: StageCount) -> StageView:
        """A stage is over; what it came to."""
        with self._lock:
            stage.end()
            self._underway.remove(stage)
            self._finished.append(stage.view())
            return self._finished[-1]

    def advance(self, stage: StageCount, rollout: Rollout | None) -> None:
        """One more unit of a stage is done."""
        with self._lock:
            stage.add(rollout)
            if rollout is not None:
                self._met(stage, rollout)

    def move(self, stage: StageCount, done: int, total: int) -> None:
        """`done` of `total` units of a stage are done."""
        with self._lock:
            stage.move_to(done, total)

    def _met(self, stage: StageCount, rollout: Rollout) -> None:
        """A query that failed without a supplement, or under the first instructions, may be won later."""
        self._rollouts += 1
        if rollout.supplement:
            self._last = stage
        if rollout.error:
            self._errors[_type_of(rollout.error)] += 1
        if rollout.won(self._plan.threshold):
            if rollout.query.id in self._failed:
                self._winner = rollout, stage.name
        elif not rollout.supplement and rollout.reward is not None:
            self._failed.add(rollout.query.id)

    def snapshot(self) -> Snapshot:
        """The run at this moment."""
        spend = self._spend() if self._spend else None
        with self._lock:
            underway, finished = tuple(each.view() for each in self._underway), tuple(self._finished)
            step = position(self._plan, (*finished, *underway))
            kinds = self._last.kinds if self._last else Counter[str]()
            return Snapshot(
                seconds=self._clock() - self._began,
                underway=underway,
                finished=finished,
                step=step + 1,
                steps=len(self._plan.steps),
                step_name=self._plan.steps[step].name if step >= 0 else "",
                left=None if self._over else seconds_left(self._plan, finished, underway),
                rate=sum(each.rate for each in underway if each.judged),
                rollouts=self._rollouts,
                kinds={kind: count / kinds.total() for kind, count in kinds.most_common()},
                kinds_of=self._last.name if self._last else "",
                errors=dict(self._errors.most_common()),
                winner=_shown(*self._winner) if self._winner else None,
                spend=spend,
                said=tuple(self.said),
                over=self._over,
            )


class Counting:
    """A stage under way, for whoever works on it."""

    def __init__(self, board: Board, stage: StageCount) -> None:
        self._board, self._stage = board, stage

    def advance(self, rollout: Rollout | None = None) -> None:
        """One more unit is done; a rollout among them counts towards rates, kinds and errors."""
        self._board.advance(self._stage, rollout)

    def move_to(self, done: int, total: int) -> None:
        """`done` of `total` units are done."""
        self._board.move(self._stage, done, total)

    def expect(self, total: int) -> None:
        """There are `total` units after all."""
        self._board.move(self._stage, self._stage.done, total)


def _type_of(error: str) -> str:
    """What stands before the colon of an error's text: its type.

    >>> _type_of("RateLimitError: slow down"), _type_of("")
    ('RateLimitError', 'error')
    """
    found = _ERROR.match(error)
    return found.group() if found else "error"


def _shown(rollout: Rollout, stage: str) -> Winner:
    """The winner as a person knows it: the question is the last line that the generator read."""
    lines = [line for line in rollout.query.prompt.splitlines() if line.strip()]
    question = lines[-1] if lines else f"Example {rollout.query.index}"
    kind = rollout.supplement.kind if rollout.supplement else ""
    return Winner(question.strip(), kind, rollout.supplement.text.strip(), stage)
