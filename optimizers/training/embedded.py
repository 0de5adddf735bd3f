"""A trainer of the embedded generator, with settings that suit a model of one million parameters."""

from __future__ import annotations

from optimizers.training.trainer import TrainingSettings
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules.embedded.models import embedded_folder

SETTINGS = TrainingSettings(
    sft_epochs=10,
    sft_learning_rate=3e-3,
    dpo_epochs=3,
    dpo_learning_rate=3e-3,
    grpo_epochs=3,
    grpo_learning_rate=3e-3,
    batch_size=32,
    gradient_accumulation=1,
    max_length=512,
    gradient_checkpointing=False,
)
"""Settings for a generator of 1 M parameters; for a real one use the defaults."""


def embedded_trainer() -> TRLTrainer:
    """A trainer of the embedded generator, with `SETTINGS`."""
    return TRLTrainer(embedded_folder("generator"), SETTINGS)
