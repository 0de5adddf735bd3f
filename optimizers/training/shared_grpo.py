"""GRPO, in which a step reads each distinct completion once: see `shared_completions.py`.

Every sample of a round comes from the weights at the round's start, so one pass before training gives the
log-probabilities of both the sampling policy, for the importance ratio, and of the reference, for the KL.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from statistics import fmean
from typing import ClassVar

import torch
from torch import Tensor, nn

from optimizers.training.losses import grpo_loss
from optimizers.training.shared_completions import Part, SharedTrainer
from optimizers.training.trl_arguments import StageInputs


class SharedGRPOTrainer(SharedTrainer):
    """Trains on samples with advantages: the clipped objective and the KL, a mean over the samples of a step."""

    BY_TOKEN: ClassVar[bool] = True

    @classmethod
    def of(cls, stage: StageInputs) -> SharedGRPOTrainer:
        """The trainer of a stage."""
        return cls.build(stage, stage.settings.grpo_epochs, stage.settings.grpo_learning_rate)

    @cached_property
    def constant_length(self) -> float:
        """The mean number of tokens of the round's samples: what a sample's sum over tokens is divided by."""
        completions = self._pairs.completions
        return fmean(len(completions[index].ids) for row in self._pairs.pairs for index in row)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Part,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """The part's share of the mean over the step's samples."""
        settings, rows = self._settings, inputs["pairs"][:, 0]
        loss = grpo_loss(
            self.read_logps(model, inputs)[rows],
            inputs["reference"][rows],
            inputs["targets"][rows] >= 0,
            inputs["advantages"],
            clip_range=settings.clip_range,
            kl_weight=settings.kl_weight,
            length=self.constant_length if settings.length_average == "round" else None,
        )
        return inputs["share"] * loss

    def _build_part(self, rows: Sequence[int], share: float) -> Part:
        part = super()._build_part(rows, share)
        part["reference"] = part["reference"][:, : part["targets"].shape[1]]
        part["advantages"] = torch.tensor([self._pairs.advantages[row] for row in rows])
        return part
