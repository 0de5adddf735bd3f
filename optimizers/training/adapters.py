"""The LoRA settings of an adapter on disk. Pure but for reading its config; no torch here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from optimizers.core.records import Checkpoint
from optimizers.training.trainer import LoRASettings, TrainingSettings
from sgt_modules.errors import SetupError
from sgt_modules.saving.weights import ADAPTER


def read_lora(folder: Path) -> LoRASettings:
    """The LoRA settings in an adapter's `adapter_config.json`; the targets are the names of its layers.

    Raises `SetupError` for an adapter that is not LoRA, or a config that cannot be read.
    """
    try:
        config = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
        if config.get("peft_type") != "LORA":
            raise TypeError(f"peft_type {config.get('peft_type')!r}")
        targets = config.get("target_modules") or "all-linear"
        return LoRASettings(
            rank=int(config["r"]),
            alpha=int(config["lora_alpha"]),
            dropout=float(config.get("lora_dropout") or 0.0),
            targets=targets if isinstance(targets, str) else tuple(sorted(map(str, targets))),
        )
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as problem:
        raise SetupError(
            f"Expected a LoRA adapter in {str(folder)!r}, to train on from it, got {problem}. Use an adapter of PEFT's "
            "LoRA, or train from the base model by leaving adapter out."
        ) from problem


def differ(one: LoRASettings, other: LoRASettings) -> bool:
    """Whether rank, alpha or dropout differ; layers are not compared, as a trainer names them by a pattern.

    >>> differ(LoRASettings(), LoRASettings(targets=("q_proj",))), differ(LoRASettings(), LoRASettings(rank=8))
    (False, True)
    """
    return (one.rank, one.alpha, one.dropout) != (other.rank, other.alpha, other.dropout)


def settings_in_use(settings: TrainingSettings, start: Checkpoint | None) -> TrainingSettings:
    """The settings of a training from `start`: an adapter keeps its own LoRA settings, whatever the trainer asks for.

    >>> settings_in_use(TrainingSettings(), None) == TrainingSettings()
    True
    """
    if start is None or settings.lora is None:
        return settings
    own = read_lora(start.path)
    return replace(settings, lora=own) if differ(own, settings.lora) else settings
