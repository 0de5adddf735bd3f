"""A stage's rows and settings as TRL's arguments and PEFT's config.

settings, rows, number of processes -> StageInputs -> training arguments, a new adapter, a plan of each step's batches
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora.layer import Linear as LoRALinear
from torch import Tensor, nn
from torch.nn import functional
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
            warmup_steps=settings.warmup,
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


def install_adapter_forward(model: nn.Module) -> None:
    """Give LoRA layers on a CPU a shorter forward pass, with the same outputs and gradients to the byte.

    PEFT multiplies a layer's whole update by the adapter's scale, and checks its settings at each call. Here the few
    states between the adapter's two matrices are multiplied, which changes no bit if the scale is a power of two.
    Layers with another scale, dropout, a bias or a variant such as DoRA keep PEFT's forward pass.
    """
    for layer in model.modules():
        if isinstance(layer, LoRALinear) and _is_plain_adapter(layer):
            layer.forward = _build_adapter_forward(layer)


def _is_plain_adapter(layer: LoRALinear) -> bool:
    names, base = layer.active_adapters, layer.base_layer
    if len(names) != 1 or names[0] in layer.lora_variant or type(base) is not nn.Linear:
        return False
    name = names[0]
    reads, writes = _get_matrices(layer, name)
    weights = (base.weight, reads.weight, writes.weight)
    dropout = getattr(layer.lora_dropout[name], "p", 0.0)
    return (
        all(weight.dtype == torch.float32 and weight.device.type == "cpu" for weight in weights)
        and "bias" not in dict(writes.named_parameters())
        and dropout == 0.0
        and math.frexp(layer.scaling[name])[0] == 0.5
    )


def _get_matrices(layer: LoRALinear, name: str) -> tuple[nn.Linear, nn.Linear]:
    return cast("nn.Linear", layer.lora_A[name]), cast("nn.Linear", layer.lora_B[name])


def _build_adapter_forward(layer: LoRALinear) -> Callable[..., Tensor]:
    name, by_peft = layer.active_adapters[0], layer.forward
    base, (reads, writes), scale = layer.base_layer, _get_matrices(layer, name), layer.scaling[name]

    def forward(x: Tensor, *args: object, **kwargs: object) -> Tensor:
        if layer.disable_adapters or layer.merged or args or kwargs or x.dtype != torch.float32:
            return by_peft(x, *args, **kwargs)
        result = base(x)  # first, as in PEFT: the order of operations is the order in which gradients are added up
        return result + functional.linear(functional.linear(x, reads.weight) * scale, writes.weight)

    return forward


def uses_bfloat16(settings: TrainingSettings) -> bool:
    """Whether to train in mixed precision: `settings.bf16`; if that is None, on GPUs that compute bfloat16."""
    if settings.bf16 is None:
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return settings.bf16
