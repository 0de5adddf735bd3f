"""The state of a run at one moment, as frozen records: what every view draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from optimizers.core.budget import BudgetState
from optimizers.core.stages import NO_STAGE, Stage
from optimizers.core.usage import Work
from sgt_modules.local.work_progress import Activity


@dataclass(frozen=True, slots=True)
class StageView:
    """A stage: `done` of `total` units after `seconds`; `rate` is units a second of late, `left` the seconds to go.

    Of its rollouts `judged` have a reward, `won` of them reach the threshold, and `mean` is their mean reward. `trend`
    holds the share won of the last windows of as many judged rollouts each, the newest last. `left` is None while it
    cannot be estimated and once the stage is over. `fresh` is false where all of it came from an earlier session, so
    that its pace says nothing. `stage` and `kind` are those of its `WorkStarted`.
    """

    name: str
    done: int = 0
    total: int = 0
    seconds: float = 0.0
    rate: float = 0.0
    left: float | None = None
    judged: int = 0
    won: int = 0
    mean: float | None = None
    trend: Sequence[float] = ()
    fresh: bool = True
    stage: Stage = NO_STAGE
    kind: Work = "acting"

    @property
    def share(self) -> float:
        """The share of units that are done, in [0, 1]."""
        return min(1.0, self.done / self.total) if self.total > 0 else 0.0

    @property
    def success(self) -> float | None:
        """The share of judged rollouts that won, in [0, 1].

        >>> StageView("warm: acting", judged=8, won=2).success
        0.25
        """
        return self.won / self.judged if self.judged else None


@dataclass(frozen=True, slots=True)
class Winner:
    """A supplement that turned a failure into a success. `kind` and `text` are empty where instructions did (SPT)."""

    question: str
    kind: str
    text: str
    stage: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run at one moment.

    `underway` and `finished` are its stages; `step`, from 1, is the plan's step that it is at, of `steps` in all, by
    its `step_name`; `left` are seconds to the end of the plan, where they can be estimated. `rate` is rollouts a
    second, `kinds` the share of each kind of supplement in the stage `kinds_of`, `errors` how often each type came,
    `said` the last lines about the run, `works` what models of this process do. `over` is true once the run has ended.

    >>> now = Snapshot(underway=[StageView("warm: acting", done=30, total=40, judged=30, won=15)])
    >>> [(stage.name, stage.total - stage.done, stage.success) for stage in now.underway]
    [('warm: acting', 10, 0.5)]
    """

    seconds: float = 0.0
    underway: Sequence[StageView] = ()
    finished: Sequence[StageView] = ()
    step: int = 0
    steps: int = 0
    step_name: str = ""
    left: float | None = None
    rate: float = 0.0
    rollouts: int = 0
    kinds: Mapping[str, float] = field(default_factory=dict[str, float])
    kinds_of: str = ""
    errors: Mapping[str, int] = field(default_factory=dict[str, int])
    winner: Winner | None = None
    spend: BudgetState | None = None
    said: Sequence[str] = ()
    over: bool = False
    works: Sequence[Activity] = ()
