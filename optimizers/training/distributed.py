"""Training in several processes: the main process sends each call of its trainer, and all processes make it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from optimizers.core.records import Checkpoint, PreferencePair, ScoredSample, SFTExample
from optimizers.training.processes import Team
from optimizers.training.trainer import OnStep, Trainer


@dataclass(frozen=True, slots=True)
class TrainerCall:
    """One call of a trainer, as the main process sends it to the others."""

    method: Literal["sft", "dpo", "grpo"]
    rows: Sequence[SFTExample] | Sequence[PreferencePair] | Sequence[ScoredSample]
    start: Checkpoint | None
    output: Path
    seed: int


class DistributedTrainer:
    """Wraps the main process's trainer so that the other processes make each call too."""

    def __init__(self, trainer: Trainer, team: Team) -> None:
        self.trainer, self._team = trainer, team

    def sft(
        self,
        rows: Sequence[SFTExample],
        *,
        start: Checkpoint | None,
        output: Path,
        seed: int,
        on_step: OnStep | None = None,
    ) -> Checkpoint:
        """As `Trainer`."""
        self._team.send(TrainerCall("sft", rows, start, output, seed))
        return self.trainer.sft(rows, start=start, output=output, seed=seed, on_step=on_step)

    def dpo(
        self,
        pairs: Sequence[PreferencePair],
        *,
        start: Checkpoint | None,
        output: Path,
        seed: int,
        on_step: OnStep | None = None,
    ) -> Checkpoint:
        """As `Trainer`."""
        self._team.send(TrainerCall("dpo", pairs, start, output, seed))
        return self.trainer.dpo(pairs, start=start, output=output, seed=seed, on_step=on_step)

    def grpo(
        self,
        rows: Sequence[ScoredSample],
        *,
        start: Checkpoint | None,
        output: Path,
        seed: int,
        on_step: OnStep | None = None,
    ) -> Checkpoint:
        """As `Trainer`."""
        self._team.send(TrainerCall("grpo", rows, start, output, seed))
        return self.trainer.grpo(rows, start=start, output=output, seed=seed, on_step=on_step)


def repeat_calls(trainer: Trainer, team: Team) -> object:
    """Make each trainer call that the main process sends; return the first other value it sends."""
    while isinstance(call := team.receive(), TrainerCall):
        fit = {"sft": trainer.sft, "dpo": trainer.dpo, "grpo": trainer.grpo}[call.method]
        # The method decides which kind of rows a call has, which its type does not say.
        fit(call.rows, start=call.start, output=call.output, seed=call.seed)  # pyright: ignore[reportArgumentType]
    return call
