"""What a compile gives besides the program: every stage, the selected one, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from optimizers.records import Checkpoint, Rollout
from optimizers.rollouts import Actor
from sgt_modules.generator import SupplementGenerator


@dataclass(frozen=True, slots=True)
class StageResult:
    """One stage on the validation set: its score in [0, 1], its rollouts in the examples' order, its weights.

    `seconds` is what the stage took from the end of the one before: sampling, acting, training and validating.
    """

    name: str
    score: float
    rollouts: Sequence[Rollout]
    checkpoint: Checkpoint | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Spent:
    """What a run has paid: calls of both models, their tokens, and seconds by what they went into."""

    actor_calls: int = 0
    generator_calls: int = 0
    tokens: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SGTResult:
    """How a compile went: every stage, the selected one, what was spent, and why anything was left undone."""

    stages: Sequence[StageResult]
    selected: str
    spent: Spent
    notes: Sequence[str]
    log_dir: Path
    generator: SupplementGenerator
    actor: Actor

    @property
    def best(self) -> StageResult:
        """The selected stage."""
        return next(stage for stage in self.stages if stage.name == self.selected)

    def generator_of(self, stage: str) -> SupplementGenerator | None:
        """The generator as it was after a stage; None for `none`."""
        if stage == "none":
            return None
        checkpoint = next(each for each in self.stages if each.name == stage).checkpoint
        return self.generator if checkpoint is None else self.generator.with_checkpoint(checkpoint.path)
