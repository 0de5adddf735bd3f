"""The trainer of each stage: TRL's supervised one, its preference one, and ours that reads a completion once.

TRL's loops, collators and reference bookkeeping are used as they are. What is ours: rows come tokenised, so that no
token crosses the end of a prompt; the loss of a preference round; an output head that sees only what is trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from datasets import Dataset
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainingArguments, set_seed
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from optimizers.training.base_trainer import StepMean
from optimizers.training.losses import IGNORED, score_labels_only
from optimizers.training.shared_dpo import SharedTrainer
from optimizers.training.shared_pairs import distinct
from optimizers.training.trl_arguments import Job, unadapted


class SFT(StepMean, SFTTrainer):
    """TRL's supervised trainer on rows that are tokenised already."""

    @classmethod
    def of(cls, job: Job) -> SFT:
        """The trainer for a job."""
        config = job.config(SFTConfig, job.settings.sft_epochs, job.settings.sft_learning_rate)
        config.dataset_kwargs = {"skip_prepare_dataset": True}
        config.max_length = None  # rows that are too long are left out already
        every = [*job.rows, *job.blank]
        rows = Dataset.from_dict(
            {
                "input_ids": [row.prompt + row.completions[0] for row in every],
                "labels": [[IGNORED] * len(row.prompt) + row.completions[0] for row in every],
            }
        )
        trainer = cls(job.model, config, train_dataset=rows, processing_class=job.tokenizer, peft_config=job.adapter())
        score_labels_only(unadapted(trainer.model))
        return trainer

    def items(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Tokens that are trained on."""
        return (batch["labels"] != IGNORED).sum()

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


class SharedDPO(SharedTrainer):
    """The same loss with each distinct completion of a step read once; none of it is TRL's but the arguments."""

    @classmethod
    def of(cls, job: Job) -> SharedDPO:
        """The trainer for a job."""
        settings, adapter = job.settings, job.adapter()
        config = job.config(TrainingArguments, settings.dpo_epochs, settings.dpo_learning_rate)
        config.per_device_train_batch_size = settings.batch_size * settings.gradient_accumulation
        config.gradient_accumulation_steps, config.remove_unused_columns = 1, False
        set_seed(job.seed)
        model = job.model if adapter is None else get_peft_model(cast("PreTrainedModel", job.model), adapter)
        if isinstance(model, PeftModel) and settings.gradient_checkpointing:
            model.enable_input_require_grads()
        padding = cast("int | None", job.tokenizer.pad_token_id) or 0
        return cls(model, config, bare=unadapted(model), pairs=distinct(job.rows), settings=settings, padding=padding)
