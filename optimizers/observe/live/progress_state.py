"""Counts the events of a run, which come from many threads, and makes snapshots of the counts."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence

from optimizers.core.budget import BudgetState
from optimizers.core.error_types import error_name
from optimizers.core.events import Plan
from optimizers.core.records import Rollout
from optimizers.core.stages import NO_STAGE, Stage
from optimizers.core.usage import Work
from optimizers.observe.live.eta import pace_of, position, seconds_left
from optimizers.observe.live.snapshot import Snapshot, StageView, Winner
from sgt_modules.local.activity import list_activities, sum_loading_seconds
from sgt_modules.local.work_progress import Activity

Clock = Callable[[], float]

MARKS = 60
"""Moments at which a stage is measured: a second apart or, once it is older, this part of its time."""

QUICK = 1.0
"""Seconds below which a stage of samples may have come out of the store."""

WINDOWS = 12
"""Windows of the trend, and half as many as a stage is cut into; each has at least `SMALLEST` rollouts."""

SMALLEST = 10

SAID = 50
"""Lines about the run that a snapshot keeps."""


class StageCount:
    """Counts one stage. Its pace leaves out `idle` seconds, in which a model was loaded."""

    def __init__(
        self,
        name: str,
        total: int,
        stage: Stage = NO_STAGE,
        kind: Work = "acting",
        *,
        clock: Clock = time.monotonic,
        threshold: float = 1.0,
        idle: Clock = lambda: 0.0,
        calls: int | None = None,
        is_limit: bool = False,
    ) -> None:
        self.name, self.total, self.done = name, total, 0
        self._is_limit = is_limit
        self.stage = stage
        self.kind: Work = kind
        self.judged, self.won, self._sum = 0, 0, 0.0
        self.kinds: Counter[str] = Counter()
        self._clock, self._threshold = clock, threshold
        self._began, self._idle, self._idle_before = clock(), idle, idle()
        self._ended: tuple[float, float] | None = None
        self._calls, self._fresh = calls, True
        self._marks: list[tuple[float, float]] = [(self._began, 0)]
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

    def end(self, calls: int | None = None) -> None:
        """The stage is over, and the run has paid for so many calls until now."""
        self._ended = self._clock(), self._at_work()
        if self.kind == "sampling":
            self._fresh = self._ended[1] - self._began >= QUICK
        elif self.kind == "acting":
            self._fresh = calls is None or calls != self._calls

    def view(self, coming: float = 0.0) -> StageView:
        """The stage at this moment; `coming` units are done as far as a model is, and not here yet."""
        over = self._ended is not None
        now, at_work = (self._clock(), self._at_work()) if self._ended is None else self._ended
        done = min(self.total, self.done + coming)
        pace = pace_of([*self._marks, (at_work, done)])
        left = None if pace is None or over or self._is_limit else (self.total - done) / pace[0]
        return StageView(
            self.name,
            self.done,
            self.total,
            now - self._began,
            pace[0] if pace else 0.0 if not over else self.done / max(at_work - self._began, 1e-3),
            left if left is None or pace is None else max(left - pace[1], left / 10),
            self.judged,
            self.won,
            self._sum / self.judged if self.judged else None,
            tuple(self._windows),
            self._fresh,
            self.stage,
            self.kind,
        )

    def _at_work(self) -> float:
        return self._clock() - (self._idle() - self._idle_before)

    def _mark(self, done: int) -> None:
        """What comes within a second or so is one moment's, as replies of a batch come together."""
        self.done = done
        now = self._at_work()
        if len(self._marks) > 1 and now - self._marks[-1][0] < max(1.0, (now - self._began) / MARKS):
            now, _ = self._marks.pop()
        self._marks.append((now, done))


class ProgressState:
    """Counts everything that views show of a run. Safe from many threads; `said` takes no lock.

    >>> state = ProgressState()
    >>> stage = state.begin("warm: sampling", 2, Stage("warm"), "sampling")
    >>> state.advance(stage, None)
    >>> [(each.name, each.done, each.total) for each in state.snapshot().underway]
    [('warm: sampling', 1, 2)]
    """

    def __init__(
        self,
        clock: Clock = time.monotonic,
        *,
        works: Callable[[], Sequence[Activity]] = list_activities,
        idle: Clock = sum_loading_seconds,
    ) -> None:
        """`works` gives what models of this process do, `idle` the seconds of loading models until now."""
        self._clock, self._began, self._works, self._idle = clock, clock(), works, idle
        self._lock = threading.Lock()
        self._underway: list[StageCount] = []
        self._finished: list[StageView] = []
        self._last: StageCount | None = None
        self._plan = Plan()
        self._spend: Callable[[], BudgetState] | None = None
        self._errors: Counter[str] = Counter()
        self._rollouts = 0
        self._failed: set[str] = set()
        self._winner: tuple[Rollout, str] | None = None
        self._over = False
        self.said: deque[str] = deque(maxlen=SAID)

    def plan(self, plan: Plan | None, spend: Callable[[], BudgetState] | None) -> None:
        """Begin a run; `spend` returns its budget's state."""
        with self._lock:
            self._plan, self._spend, self._over = plan or Plan(), spend, False

    def over(self) -> None:
        """The run is over: what it spent stays as it is now."""
        last = self._spend() if self._spend else None
        with self._lock:
            self._spend, self._over = (lambda: last) if last else None, True

    def begin(
        self, name: str, total: int, stage: Stage = NO_STAGE, kind: Work = "acting", *, is_limit: bool = False
    ) -> StageCount:
        """A stage is under way."""
        calls = self._calls()
        with self._lock:
            self._over = False
            count = StageCount(
                name,
                total,
                stage,
                kind,
                clock=self._clock,
                threshold=self._plan.threshold,
                idle=self._idle,
                calls=calls,
                is_limit=is_limit,
            )
            self._underway.append(count)
            return count

    def end(self, stage: StageCount) -> StageView:
        """A stage is over; what it came to."""
        calls = self._calls()
        with self._lock:
            stage.end(calls)
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
            self._errors[error_name(rollout.error)] += 1
        if rollout.won(self._plan.threshold):
            if rollout.query.id in self._failed:
                self._winner = rollout, stage.name
        elif not rollout.supplement and rollout.reward is not None:
            self._failed.add(rollout.query.id)

    def _calls(self) -> int | None:
        return self._spend().usage.calls if self._spend else None

    def _coming(self, stage: StageCount, works: Sequence[Activity]) -> float:
        """Units that models are done with and that have not come: one caller's own prompts are a stage's of samples.

        Those of a batch of which it is only known how long it takes at most are not counted.
        """
        samples = [each for each in self._underway if each.kind == "sampling"]
        acts = [each for each in self._underway if each.kind == "acting"]
        direct, queued = (samples or acts)[:1], acts[:1]
        telling = (each for each in works if each.seconds_left is not None and not each.is_upper_bound)
        return sum(each.answered for each in telling if stage in (direct if each.direct else queued))

    def snapshot(self) -> Snapshot:
        """The run at this moment."""
        spend, works = self._spend() if self._spend else None, self._works()
        with self._lock:
            underway = tuple(each.view(self._coming(each, works)) for each in self._underway)
            finished = tuple(self._finished)
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
                works=() if self._over else tuple(works),
            )


def _shown(rollout: Rollout, stage: str) -> Winner:
    """The winner as a person knows it: the question is the last line that the generator read."""
    lines = [line for line in rollout.query.prompt.splitlines() if line.strip()]
    question = lines[-1] if lines else f"Example {rollout.query.index}"
    kind = rollout.supplement.kind if rollout.supplement else ""
    return Winner(question.strip(), kind, rollout.supplement.text.strip(), stage)
