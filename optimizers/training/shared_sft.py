"""SFT, in which a step reads each prompt once for all of its winners: see `shared_completions.py`.

A query has several winners, and its prompt is many times as long as they are: most of a step's time went into reading
the same prompt again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

import torch
from torch import Tensor, nn

from optimizers.training.shared_completions import Part, SharedTrainer
from optimizers.training.tokenisation import TokenRow
from optimizers.training.trainer import TrainingSettings
from optimizers.training.trl_arguments import StageInputs

SHARING_SIZE: Final = 20_000_000
"""Parameters of a model for which reading takes so long that its steps are put together by prompt."""

LEAST_SAVING: Final = 1.5
"""How many times as many tokens the rows have as the blocks, at least; else the steps stay random."""


class SharedSFTTrainer(SharedTrainer):
    """Cross-entropy on completions, averaged over all tokens of a step."""

    BY_TOKEN: ClassVar[bool] = True

    @classmethod
    def of(cls, stage: StageInputs) -> SharedSFTTrainer:
        """The trainer of a stage."""
        return cls.build(stage, stage.settings.sft_epochs, stage.settings.sft_learning_rate)

    def build_step(self, indices: Sequence[int]) -> list[Part]:
        """As in `SharedTrainer`."""
        rows = [self._pairs.pairs[index] for index in indices if index < len(self._pairs.pairs)]
        self._step_tokens = sum(len(self._pairs.completions[index].ids) for (index,) in rows)
        return super().build_step(indices)

    def _build_part(self, rows: Sequence[int], share: float) -> Part:
        weight = self.args.world_size / self._step_tokens if share else 0.0
        return {**super()._build_part(rows, share), "weight": torch.tensor(weight)}

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Part,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """The part's share of the mean over the step's tokens."""
        return -inputs["weight"] * self.read_logps(model, inputs)[inputs["pairs"][:, 0]].sum()

    def _compute_reference(self) -> Tensor:
        """Zeros: SFT has no reference."""
        return torch.zeros(len(self._pairs.completions))


def is_worth_sharing(rows: Sequence[TokenRow], parameters: int, settings: TrainingSettings) -> bool:
    """Whether SFT of a model of so many parameters reads each prompt once: a large one, whose rows share prompts.

    An adapter with dropout keeps TRL's form, as `SharedTrainer` turns dropout off.

    >>> rows = [TokenRow(list(range(90)), ([completion] * 10,)) for completion in range(4)]
    >>> [is_worth_sharing(rows, size, TrainingSettings()) for size in (1_000_000, 135_000_000)]
    [False, True]
    >>> is_worth_sharing(rows[:1], 135_000_000, TrainingSettings())
    False
    """
    if parameters < SHARING_SIZE or (settings.lora is not None and settings.lora.dropout):
        return False
    prompts = {tuple(row.prompt) for row in rows}
    distinct = sum(map(len, prompts)) + sum(len(row.completions[0]) for row in rows)
    return sum(row.length for row in rows) >= LEAST_SAVING * distinct
