"""A stage's rows and settings as TRL's arguments and PEFT's config.

settings, rows, number of processes -> StageInputs -> training arguments, a new adapter, a plan of each step's batches
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import torch
from peft import LoraConfig, PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments
from trl.trainer.sft_config import SFTConfig

from optimizers.training.step_sampler import BatchPlan
from optimizers.training.tokenisation import TokenRow
from optimizers.training.trainer import TrainingSettings

Arguments = TypeVar("Arguments", SFTConfig, TrainingArguments)


@dataclass(frozen=True, slots=True)
class StageInputs:
    """What the trainer of one stage needs. The trainer writes only under `folder`."""

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    rows: Sequence[TokenRow]
    settings: TrainingSettings
    folder: Path
    seed: int
    processes: int = 1

    @property
    def plan(self) -> BatchPlan:
        """How the processes read a step."""
        settings = self.settings
        step = settings.batch_size * settings.gradient_accumulation
        return BatchPlan.of(step, most=settings.batch_size, processes=self.processes)

    @property
    def blank_rows(self) -> list[TokenRow]:
        """A row without a completion, to stand after the others, if several processes may need it: see `BatchPlan`."""
        return [TokenRow(min((row.prompt for row in self.rows), key=len), ([], []))] if self.processes > 1 else []

    def _count_steps(self, epochs: int) -> int:
        """The optimizer steps of a training: the last one of an epoch may have fewer rows."""
        return epochs * math.ceil(len(self.rows) / (self.settings.batch_size * self.settings.gradient_accumulation))

    def build_arguments(self, kind: type[Arguments], epochs: int, learning_rate: float) -> Arguments:
        """Arguments of the trainer: no evaluation, no reports, no files."""
        settings, cuda = self.settings, torch.cuda.is_available()
        arguments = kind(
            output_dir=str(self.folder / "trainer"),
            num_train_epochs=epochs,
            learning_rate=learning_rate,
            per_device_train_batch_size=self.plan.batch,
            gradient_accumulation_steps=self.plan.times,
            lr_scheduler_type=settings.schedule,
            warmup_steps=settings.warmup if self._count_steps(epochs) > 1 else 0,  # the first step's rate is 0
            max_grad_norm=settings.max_grad_norm,
            activation_checkpointing=settings.gradient_checkpointing is True,
            bf16=uses_bfloat16(settings),
            use_cpu=not cuda,
            dataloader_pin_memory=cuda,
            seed=self.seed,
            save_strategy="no",
            logging_strategy="no",
            logging_nan_inf_filter=False,
            report_to="none",
            disable_tqdm=True,
            ddp_find_unused_parameters=False,
        )
        arguments._n_gpu = min(arguments.n_gpu, 1)  # one process, one GPU: no DataParallel, which TRL refuses
        return arguments

    def build_adapter(self) -> LoraConfig | None:
        """The config of a new adapter; None if the model has an adapter already or all weights are trained."""
        lora = self.settings.lora
        if lora is None or isinstance(self.model, PeftModel):
            return None
        return LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=lora.targets if isinstance(lora.targets, str) else list(lora.targets),
            exclude_modules=build_non_text_pattern(self.model),
            task_type="CAUSAL_LM",
        )


def build_non_text_pattern(model: PreTrainedModel) -> str | None:
    """A regular expression, for PEFT, of the names of all modules that read no text, such as a vision tower and the
    projection behind it; None for a model of text alone.
    """
    module = cast("nn.Module", model)
    text = {id(each) for each in (model.get_decoder(), model.get_output_embeddings())}
    text_names = [name for name, each in module.named_modules() if id(each) in text]
    if "" in text_names:
        return None
    pattern = f"(?!(?:{'|'.join(map(re.escape, text_names))})(?:\\.|$)).+"
    weighty = (name for name, each in module.named_modules() if any(True for _ in each.parameters(recurse=False)))
    return pattern if any(re.fullmatch(pattern, name) for name in weighty) else None


def unwrap_adapter(model: object) -> PreTrainedModel:
    """The model under its adapter, if it has one."""
    return cast("PreTrainedModel", model.base_model.model if isinstance(model, PeftModel) else model)


def uses_bfloat16(settings: TrainingSettings) -> bool:
    """Whether to train in mixed precision: `settings.bf16`; if that is None, on GPUs that compute bfloat16."""
    if settings.bf16 is None:
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return settings.bf16
