"""What a run has found so far, step by step: `compile` fills it, and each later step reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from optimizers.core.best_stage import mean_gain, select_best
from optimizers.core.cost import with_net_rewards
from optimizers.core.records import PreferencePair, Rollout, ScoredSample, SFTExample
from optimizers.core.result import StageResult
from optimizers.core.stages import ADAPTER_STAGE, STUDENT
from optimizers.rollouts.evaluation import Scored
from optimizers.sgt.deferred import DeferredValidation

TrainingRows = Sequence[SFTExample] | Sequence[PreferencePair] | Sequence[ScoredSample]


@dataclass(frozen=True, slots=True)
class ValidatedStage:
    """A stage's result, and what validation found: its rollouts and the calls that read a supplement."""

    result: StageResult
    scored: Scored


@dataclass
class History:
    """The stages in order, the rollouts that each step explored, the rows of each training, a validation that waits.

    >>> History().has_stalled(patience=1), History(rows={"sft": []}).has_stalled(patience=None)
    (False, True)
    """

    stages: list[ValidatedStage] = field(default_factory=list[ValidatedStage])
    explored: list[Sequence[Rollout]] = field(default_factory=list[Sequence[Rollout]])
    rows: dict[str, TrainingRows] = field(default_factory=dict[str, TrainingRows])
    deferred: DeferredValidation | None = None

    @property
    def results(self) -> list[StageResult]:
        """The results of all stages, in order."""
        return [stage.result for stage in self.stages]

    @property
    def tried(self) -> list[Rollout]:
        """The rollouts of all exploration, in order."""
        return [rollout for rollouts in self.explored for rollout in rollouts]

    @property
    def best(self) -> ValidatedStage:
        """The best stage: two stages are compared on the examples that both have; the earlier one wins a tie.

        The gated stage wins a tie with the best of the others. Where rollouts have a price, net rewards are compared.

        Raises `IndexError` where no stage is validated.
        """
        stages = [stage for stage in self.stages if stage.result.gate is None]
        came_in = next((n for n, stage in enumerate(stages) if stage.result.name == STUDENT), 0)
        adapters = [n for n, stage in enumerate(stages) if stage.result.name == ADAPTER_STAGE]
        net = [with_net_rewards(stage.result.rollouts) for stage in self.stages]
        chosen = select_best(net[: len(stages)], came_in, adapters)
        best = stages[chosen]
        for gated, rewards in zip(self.stages[len(stages) :], net[len(stages) :], strict=True):
            gains = [mean_gain(net[number], rewards) for number in (chosen, came_in)]
            if all(gain is not None and gain >= 0 for gain in gains):
                return gated
        return best

    def has_stalled(self, patience: int | None, *, partial: bool = False) -> bool:
        """Whether the last training had no rows, or validation has not risen for `patience` rounds.

        A `partial` round reads a part of the queries: without rows it does not end the rounds.
        """
        if self.rows and not list(self.rows.values())[-1] and not partial:
            return True
        count = len(self.stages)
        given = 1 + any(stage.result.name == ADAPTER_STAGE for stage in self.stages)
        if patience is None or count <= patience + given:
            return False
        best = self.best
        return next(n for n, stage in enumerate(self.stages) if stage is best) < count - patience
