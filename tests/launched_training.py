"""A script that trains fixed rows with each loss, in however many processes it is started: `python FILE OUTPUT`.

Each process writes what its trainer told it to `OUTPUT/<rank>.json`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from optimizers.records import PreferencePair, SFTExample
from optimizers.training import LoRASettings, TrainingSettings
from optimizers.trl_trainer import TRLTrainer
from sgt_modules.embedded.models import embedded_folder

SETTINGS = {
    "lora": LoRASettings(rank=4, alpha=8),
    "batch_size": 4,
    "gradient_accumulation": 2,
    "sft_epochs": 2,
    "sft_learning_rate": 1e-3,
    "dpo_epochs": 2,
    "dpo_learning_rate": 1e-3,
    "gradient_checkpointing": False,
}
ROWS = [
    SFTExample("q", "cot", f"What is {n} + 1?", f"[cot] It is {n + 1}" + ", as one says" * (n % 3)) for n in range(21)
]
PAIRS = [
    PreferencePair(f"q{n}", "inter", row.prompt, f"{row.completion}{' for sure' * winner}", "[cot] no" * loser)
    for n, row in enumerate(ROWS[:4])
    for winner in range(2)
    for loser in range(1, 4)
][:19]


class Told(list[float]):
    """The loss of each step."""

    def __call__(self, step: int, steps: int, loss: float) -> None:
        self.append(loss)


def main(output: Path) -> None:
    told: dict[str, object] = {}
    start = None
    for name, changes in (
        ("sft", {}),
        ("pairwise", {"dpo_forward": "pairwise"}),
        ("shared", {"dpo_forward": "shared", "gradient_checkpointing": True}),
        ("whole", {"lora": None, "batch_size": 3}),
    ):
        trainer, losses = TRLTrainer(embedded_folder("generator"), TrainingSettings(**{**SETTINGS, **changes})), Told()
        where = {"output": output / name, "seed": 0, "on_step": losses}
        if name in ("sft", "whole"):
            found = trainer.sft(ROWS, start=None, **where)
            start = start or found
        else:
            found = trainer.dpo(PAIRS, start=start, **where)
        told[name] = {"losses": losses, "loss": found.metrics["loss"], "fingerprint": found.fingerprint}
    rank = os.environ.get("RANK", "0")
    (output / f"{rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
