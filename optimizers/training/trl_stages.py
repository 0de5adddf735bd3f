"""The trainer of each stage: TRL's supervised one, its preference one, and ours that reads a completion once.

TRL's loops, collators and reference bookkeeping are used as they are. What is ours: rows come tokenised, so that no
token crosses the end of a prompt; the loss of a preference round; an output head that sees only what is trained on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel, set_seed
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from optimizers.training.base_trainer import StepMean
from optimizers.training.losses import IGNORED, dpo_loss, score_labels_only, sequence_nll
from optimizers.training.processes import sharded
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


class PairwiseDPO(StepMean, DPOTrainer):
    """TRL's preference trainer on rows that are tokenised already, with the method's loss."""

    alpha: float

    @classmethod
    def of(cls, job: Job) -> PairwiseDPO:
        """The trainer for a job."""
        config = job.config(DPOConfig, job.settings.dpo_epochs, job.settings.dpo_learning_rate)
        # Sharded weights are in no process before training starts: their reference is computed step by step.
        config.beta, config.precompute_ref_log_probs = job.settings.beta, not sharded(os.environ)
        every = [*job.rows, *job.blank]
        rows = Dataset.from_dict(
            {
                "prompt_ids": [row.prompt for row in every],
                "chosen_ids": [row.completions[0] for row in every],
                "rejected_ids": [row.completions[1] for row in every],
            }
        )
        trainer = cls(
            job.model, args=config, train_dataset=rows, processing_class=job.tokenizer, peft_config=job.adapter()
        )
        trainer.alpha = job.settings.alpha
        score_labels_only(unadapted(trainer.model))
        if config.precompute_ref_log_probs:
            trainer.train_dataset = trainer._with_reference(rows, [row.length for row in every])
        return trainer

    def _prepare_dataset(  # pyright: ignore[reportIncompatibleMethodOverride]  (TRL streams too; we do not)
        self, dataset: Dataset, processing_class: object, args: object, dataset_name: str
    ) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """Left to `_with_reference`, which writes no cache file and pads less."""
        return dataset

    def _with_reference(self, rows: Dataset, lengths: Sequence[int]) -> Dataset:
        """The rows with the log-probabilities of their completions under the model as it is now; each process computes
        those of some batches.
        """
        size, processes = self.args.train_batch_size, self.args.world_size
        scores = torch.zeros(len(lengths), 2, device=self.args.device)
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        batches = [order[first : first + size] for first in range(0, len(order), size)]
        for batch in batches[self.args.process_index :: processes]:
            inputs = self._prepare_inputs(self.data_collator([rows[index] for index in batch]))
            scores[batch] = torch.stack(self.compute_ref_log_probs(self.model, inputs), dim=1).float()
        if processes > 1:
            scores = cast("Tensor", self.accelerator.reduce(scores, reduction="sum"))
        chosen, rejected = scores.T.tolist()
        return rows.add_column("ref_chosen_logps", chosen).add_column("ref_rejected_logps", rejected)

    def items(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Pairs, without blank ones."""
        return batch["completion_mask"].any(1).chunk(2)[0].sum()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """The micro-batch's share of the mean over the step's pairs."""
        assert num_items_in_batch is not None
        ids, mask, completion = inputs["input_ids"], inputs["attention_mask"], inputs["completion_mask"]
        labels = ids.masked_fill(completion == 0, IGNORED)
        if "ref_chosen_logps" in inputs:
            reference = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        else:
            reference = self.compute_ref_log_probs(self.ref_model or model, inputs)
        outputs = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False, fused_lm_head=True)
        chosen, rejected = outputs.log_probs.sum(1).chunk(2)
        lengths = completion.sum(1)[: len(chosen)]
        real = lengths > 0
        if not real.any():
            return 0.0 * chosen.sum()
        better, worse = reference[0][real], reference[1][real]
        loss = dpo_loss(chosen[real], rejected[real], better, worse, self.beta)
        loss = loss + self.alpha * sequence_nll(chosen[real], lengths[real])
        return loss * real.sum() / num_items_in_batch * self.args.world_size


class SharedDPO(SharedTrainer):
    """The same loss with each distinct completion of a step read once; none of it is TRL's but the arguments."""

    @classmethod
    def of(cls, job: Job) -> SharedDPO:
        """The trainer for a job."""
        settings, adapter = job.settings, job.adapter()
        config = job.config(DPOConfig, settings.dpo_epochs, settings.dpo_learning_rate)
        config.per_device_train_batch_size = settings.batch_size * settings.gradient_accumulation
        config.gradient_accumulation_steps, config.remove_unused_columns = 1, False
        set_seed(job.seed)
        model = job.model if adapter is None else get_peft_model(cast("PreTrainedModel", job.model), adapter)
        if isinstance(model, PeftModel) and settings.gradient_checkpointing:
            model.enable_input_require_grads()
        padding = cast("int | None", job.tokenizer.pad_token_id) or 0
        return cls(model, config, bare=unadapted(model), pairs=distinct(job.rows), settings=settings, padding=padding)
