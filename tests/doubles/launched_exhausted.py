"""A script that trains fixed rows on machines of which the second has memory for two rows: `python FILE OUTPUT`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from launched_training import ROWS, SETTINGS
from torch.nn.modules.module import register_module_forward_pre_hook

from optimizers.training.trainer import TrainingSettings
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules.embedded.models import embedded_folder


def two_rows_fit(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    """Fail as CUDA does where a pass that keeps something for a backward pass reads more."""
    if isinstance(module, torch.nn.Embedding) and torch.is_grad_enabled() and len(inputs[0]) > 2:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        register_module_forward_pre_hook(two_rows_fit)
    trainer = TRLTrainer(embedded_folder("generator"), TrainingSettings(**SETTINGS))
    trainer.sft(ROWS, start=None, output=Path(sys.argv[1]) / "sft", seed=0)
