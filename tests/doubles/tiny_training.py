"""A tiny random Qwen3, and the loss and the gradient of a trainer of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM, Trainer, TrainingArguments

from optimizers.training.shared_completions import SharedTrainer

LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


def tiny(attention: str = "sdpa", **changes: object) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, initializer_range=0.2, pad_token_id=0, eos_token_id=1, bos_token_id=None,
        attn_implementation=attention, **changes,
    )  # fmt: skip
    return Qwen3ForCausalLM(config)


def arguments(kind: type[TrainingArguments], folder: Path, bf16: bool, **more: object) -> TrainingArguments:
    return kind(
        output_dir=str(folder), use_cpu=True, bf16=bf16, report_to="none", save_strategy="no", disable_tqdm=True,
        remove_unused_columns=False, dataloader_pin_memory=False, per_device_train_batch_size=14, **more,
    )  # fmt: skip


def moved(trainer: Trainer) -> Trainer:
    """A trainer's model as if it had been trained for a while: the same for all that have the same weights."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weights in sorted(trainer.model.named_parameters()):
            if weights.requires_grad:
                size = 0.2 if "lora" in name else 0.01
                weights.copy_(
                    size * torch.randn(weights.shape, generator=generator) + (0 if "lora" in name else weights)
                )
    return trainer


def gradient(trainer: Trainer, loss: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """A loss and its gradient, over all trained weights in the order of their names."""
    trainer.model.train()
    with trainer.accelerator.autocast():
        value = loss()
    value.backward()
    trained = [weights for _, weights in sorted(trainer.model.named_parameters()) if weights.requires_grad]
    return value.item(), torch.cat([weights.grad.flatten().float() for weights in trained])


def of_step(trainer: SharedTrainer, size: int = 14) -> Tensor:
    return torch.stack([trainer.compute_loss(trainer.model, part) for part in trainer.build_step(range(size))]).sum()
