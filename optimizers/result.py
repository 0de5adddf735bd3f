"""What a compile gives besides the program: every stage, the selected one, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
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
    """What a run has spent: calls of the actor's LM and samples of the generator, their tokens, and seconds of work.

    >>> (Spent(actor_calls=2, acting=1.5) + Spent(actor_calls=1)).actor_calls
    3
    """

    actor_calls: int = 0
    actor_in: int = 0
    actor_out: int = 0
    generator_calls: int = 0
    generator_in: int = 0
    generator_out: int = 0
    sampling: float = 0.0
    acting: float = 0.0
    training: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    @property
    def tokens(self) -> dict[str, int]:
        """Tokens read (`in`) and written (`out`) by both models."""
        return {name: getattr(self, name) for name in ("actor_in", "actor_out", "generator_in", "generator_out")}

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by what they went into; what lies between is missing."""
        return {name: getattr(self, name) for name in ("sampling", "acting", "training")}


@dataclass(frozen=True, slots=True)
class SGTResult:
    """How a compile went: every stage, the selected one, what was spent, and why anything was left undone.

    `spent` covers every session of the run's folder, up to each one's last finished stage.
    """

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
