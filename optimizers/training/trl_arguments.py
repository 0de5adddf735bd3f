"""What TRL and PEFT are told: a stage's rows and settings as their configs.

settings, rows, number of processes -> Job -> TRL's arguments, PEFT's fresh adapter, what one process reads of a step
"""

from __future__ import annotations

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

from optimizers.training.step_sampler import Portion
from optimizers.training.tokenisation import Row
from optimizers.training.trainer import TrainingSettings

Config = TypeVar("Config", SFTConfig, TrainingArguments)


@dataclass(frozen=True, slots=True)
class Job:
    """What one stage of training needs."""

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    rows: Sequence[Row]
    settings: TrainingSettings
    folder: Path
    seed: int
    processes: int = 1

    @property
    def portion(self) -> Portion:
        """What one process reads of a step."""
        settings = self.settings
        step = settings.batch_size * settings.gradient_accumulation
        return Portion.of(step, most=settings.batch_size, processes=self.processes)

    @property
    def blank(self) -> list[Row]:
        """A row without a completion, last of the rows, where processes may need one: see `dealing`."""
        return [Row(min((row.prompt for row in self.rows), key=len), ([], []))] if self.processes > 1 else []

    def config(self, kind: type[Config], epochs: int, learning_rate: float) -> Config:
        """TRL's arguments: no evaluation, no reports, no files, and no limit of length (long rows are gone by now)."""
        settings, cuda = self.settings, torch.cuda.is_available()
        config = kind(
            output_dir=str(self.folder / "trainer"),
            num_train_epochs=epochs,
            learning_rate=learning_rate,
            per_device_train_batch_size=self.portion.batch,
            gradient_accumulation_steps=self.portion.times,
            lr_scheduler_type=settings.schedule,
            warmup_steps=settings.warmup,
            max_grad_norm=settings.max_grad_norm,
            activation_checkpointing=settings.gradient_checkpointing is True,
            bf16=mixed(settings),
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
        config._n_gpu = min(config.n_gpu, 1)  # one process, one GPU: no DataParallel, which TRL refuses
        return config

    def adapter(self) -> LoraConfig | None:
        """A fresh adapter, unless the model has one already or all weights are trained."""
        lora = self.settings.lora
        if lora is None or isinstance(self.model, PeftModel):
            return None
        return LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=lora.targets if isinstance(lora.targets, str) else list(lora.targets),
            exclude_modules=beside_language(self.model),
            task_type="CAUSAL_LM",
        )


def beside_language(model: PreTrainedModel) -> str | None:
    """A pattern, for PEFT, of the names of all modules that read no text, such as a vision tower and what joins it to
    the language model; None for a model of text alone.
    """
    module = cast("nn.Module", model)
    text = {id(each) for each in (model.get_decoder(), model.get_output_embeddings())}
    kept = [name for name, each in module.named_modules() if id(each) in text]
    if "" in kept:
        return None
    pattern = f"(?!(?:{'|'.join(map(re.escape, kept))})(?:\\.|$)).+"
    weighty = (name for name, each in module.named_modules() if any(True for _ in each.parameters(recurse=False)))
    return pattern if any(re.fullmatch(pattern, name) for name in weighty) else None


def unadapted(model: object) -> PreTrainedModel:
    """The model under its adapter."""
    return cast("PreTrainedModel", model.base_model.model if isinstance(model, PeftModel) else model)


def mixed(settings: TrainingSettings) -> bool:
    """Whether to train in mixed precision: as the settings say, else on GPUs that compute bfloat16."""
    if settings.bf16 is None:
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return settings.bf16
