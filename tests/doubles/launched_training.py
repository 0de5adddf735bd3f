"""A script that trains fixed rows with each loss, in however many processes it is started.

    python FILE OUTPUT STAGE...

Each process writes its losses and fingerprints to `OUTPUT/<rank>.json`, and whether an engine of the same base still
writes what it wrote before.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sample_requests import requests

from optimizers.core.records import Checkpoint, PreferencePair, ScoredSample, SFTExample
from optimizers.training.trainer import LoRASettings, TrainingSettings
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules.embedded.models import embedded_folder
from sgt_modules.local.engine import LocalEngine

SETTINGS = {
    "lora": LoRASettings(rank=4, alpha=8),
    "batch_size": 4,
    "gradient_accumulation": 2,
    "sft_epochs": 2,
    "sft_learning_rate": 1e-3,
    "dpo_epochs": 2,
    "dpo_learning_rate": 1e-3,
    "gradient_checkpointing": False,
    "grpo_epochs": 2,
    "grpo_learning_rate": 1e-3,
}
STAGES = {
    "sft": {},
    "whole-sft": {"lora": None, "batch_size": 3},
    "whole-dpo": {"lora": None, "batch_size": 3},
    "dpo": {"gradient_checkpointing": True},
    "grpo": {},
}
# Neither number is a multiple of a step's 8, so that the last step of an epoch is short in every stage.
ROWS = [
    SFTExample("q", "cot", f"What is {n} + 1?", f"[cot] It is {n + 1}" + ", as one says" * (n % 3)) for n in range(21)
]
PAIRS = [
    PreferencePair(f"q{n}", "inter", row.prompt, f"{row.completion}{' for sure' * winner}", "[cot] no" * loser)
    for n, row in enumerate(ROWS[:4])
    for winner in range(2)
    for loser in range(1, 4)
][:19]

SAMPLES = [
    ScoredSample(pair.query, "cot", pair.prompt, text, reward)
    for pair in PAIRS
    for text, reward in ((pair.chosen, 1.0), (pair.rejected, 0.0))
]


class Losses(list[float]):
    """The loss of each step."""

    def __call__(self, step: int, steps: int, loss: float) -> None:
        self.append(loss)


def draws(engine: LocalEngine) -> list[tuple[str, float]]:
    """What an engine writes to fixed seeds, and how likely it finds that."""
    replies = engine.sample(requests([row.prompt for row in ROWS[:3]], seeds=range(3)))
    return [(each.text, each.logprob) for each in replies]


def main(output: Path, stages: Sequence[str]) -> None:
    """Train the stages in order; a preference stage starts from the supervised stage of the same kind of weights."""
    report: dict[str, object] = {}
    starts: dict[bool, Checkpoint] = {}  # keyed by whether all weights are trained
    engine = LocalEngine(embedded_folder("generator"), dtype="float32", device="cpu", max_new_tokens=8)
    before = draws(engine)
    for name in stages:
        settings, losses = TrainingSettings(**(SETTINGS | STAGES[name])), Losses()
        trainer, whole = TRLTrainer(embedded_folder("generator"), settings), settings.lora is None
        if name.endswith("sft"):
            found = starts[whole] = trainer.sft(ROWS, start=None, output=output / name, seed=0, on_step=losses)
        elif name.endswith("grpo"):
            found = trainer.grpo(SAMPLES, start=starts.get(whole), output=output / name, seed=0, on_step=losses)
        else:
            found = trainer.dpo(PAIRS, start=starts.get(whole), output=output / name, seed=0, on_step=losses)
        report[name] = {
            "losses": losses,
            "loss": found.metrics["loss"],
            "fingerprint": found.fingerprint,
            "undisturbed": draws(engine) == before,
        }
    (output / f"{os.environ.get('RANK', '0')}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
