"""Training that several processes do together: the main one tells the rows, and all of them train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from optimizers.core.records import Checkpoint, PreferencePair, SFTExample
from optimizers.training.processes import Team
from optimizers.training.trainer import OnStep, Trainer


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a trainer, as it is told to the other processes."""

    method: Literal["sft", "dpo"]
    rows: Sequence[SFTExample] | Sequence[PreferencePair]
    start: Checkpoint | None
    output: Path
    seed: int


class Together:
    """A trainer of the main process that has the other processes make each call too."""

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
        self._team.tell(Call("sft", rows, start, output, seed))
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
        self._team.tell(Call("dpo", pairs, start, output, seed))
        return self.trainer.dpo(pairs, start=start, output=output, seed=seed, on_step=on_step)


def train_as_told(trainer: Trainer, team: Team) -> object:
    """Make the main process's calls until it tells something else, and return that."""
    while isinstance(told := team.hear(), Call):
        fit = trainer.sft if told.method == "sft" else trainer.dpo
        fit(told.rows, start=told.start, output=told.output, seed=told.seed)  # pyright: ignore[reportArgumentType]
    return told
