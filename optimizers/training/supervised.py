"""SFT: TRL's supervised trainer on rows of token ids, with a loss that is a mean over a whole step.

TRL's loop and collator stay as they are. Rows come as token ids, so that no token spans the end of a prompt, and the
output head reads only the positions that are trained on.
"""

from __future__ import annotations

from typing import cast

import torch
from datasets import Dataset
from torch import Tensor, nn
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from optimizers.training.base_trainer import BaseTrainer
from optimizers.training.forward_passes import install_label_forward
from optimizers.training.losses import IGNORED
from optimizers.training.trl_arguments import StageInputs, unwrap_adapter


class SupervisedTrainer(BaseTrainer, SFTTrainer):
    """Cross-entropy on completions, averaged over all tokens of a step, however many batches and processes read it."""

    @classmethod
    def of(cls, stage: StageInputs) -> SupervisedTrainer:
        """The trainer of a stage."""
        arguments = stage.build_arguments(SFTConfig, stage.settings.sft_epochs, stage.settings.sft_learning_rate)
        arguments.dataset_kwargs = {"skip_prepare_dataset": True}
        arguments.max_length = None  # rows that are too long are dropped already
        rows = [*stage.rows, *stage.blank_rows]
        data = Dataset.from_dict(
            {
                "input_ids": [row.prompt + row.completions[0] for row in rows],
                "labels": [[IGNORED] * len(row.prompt) + row.completions[0] for row in rows],
            }
        )
        trainer = cls(
            stage.model,
            arguments,
            train_dataset=data,
            processing_class=stage.tokenizer,
            peft_config=stage.build_adapter(),
        )
        install_label_forward(unwrap_adapter(trainer.model))
        return trainer

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Tensor]], device: torch.device) -> Tensor:
        """The number of tokens that the step trains on in all processes; `compute_loss` gets it."""
        own = torch.stack([(batch["labels"] != IGNORED).sum() for batch in batch_samples]).sum().to(device)
        return cast("Tensor", self.accelerator.reduce(own, reduction="sum")) if self.args.world_size > 1 else own

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """The micro-batch's share of the mean over the step's tokens."""
        assert num_items_in_batch is not None
        log_probs = model(**inputs, use_cache=False, fused_lm_head=True).log_probs
        return -log_probs.sum() / num_items_in_batch * self.args.world_size
