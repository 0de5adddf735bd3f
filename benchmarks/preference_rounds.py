"""A DPO round measured both ways, ours and TRL's: the common code of `bench_dpo.py` and `bench_dpo_long.py`.

Both train a LoRA adapter for one epoch on the same pairs, from the same weights, in single precision, with the same
learning rate: the best one for both (`docs/log.md` has the series). TRL's other settings are its defaults, such as
batches of 8 pairs, and our steps have as many. Both are timed from texts to the saved adapter. The evaluation loss is
that of pairs of other queries.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig, PeftModel
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from optimizers.core.records import PreferencePair
from optimizers.training.forward_passes import build_inputs, install_completion_forward
from optimizers.training.losses import dpo_loss
from optimizers.training.shared_pairs import build_blocks, index_pairs
from optimizers.training.side_effects import silence
from optimizers.training.tokenisation import Target, encode
from optimizers.training.trainer import LoRASettings, TrainingSettings
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules.local.chat_template import render_chat

ALIKE = 0.02
"""How much higher our evaluation loss may be and still count as equal."""

BATCH = 8
"""Pairs a step: TRL's default."""

AT_ONCE = 50
"""Completions in a batch of the evaluation."""


@dataclass(frozen=True, slots=True)
class Round:
    """The training data and the number of repeats: the seeds are 0, 1, ..."""

    model: Path
    pairs: Sequence[PreferencePair]
    held_out: Sequence[PreferencePair]
    learning_rate: float
    max_length: int
    repeats: int

    @property
    def settings(self) -> TrainingSettings:
        """Ours: TRL's defaults."""
        return TrainingSettings(
            lora=LoRASettings(), dpo_learning_rate=self.learning_rate, alpha=0.0, batch_size=BATCH,
            gradient_accumulation=1, warmup=0.0, schedule="linear", max_length=self.max_length,
            gradient_checkpointing=False, bf16=False,
        )  # fmt: skip

    def ours(self, output: Path, seed: int) -> Path:
        return TRLTrainer(self.model, self.settings).dpo(self.pairs, start=None, output=output, seed=seed).path

    def theirs(self, output: Path, seed: int) -> Path:
        tokenizer = AutoTokenizer.from_pretrained(self.model)
        rows = [
            {
                "prompt": render_chat(tokenizer, [{"role": "user", "content": pair.prompt}]),
                "chosen": pair.chosen,
                "rejected": pair.rejected,
            }
            for pair in self.pairs
        ]
        warnings.filterwarnings("ignore", category=FutureWarning)  # TRL still calls what transformers renamed
        arguments = DPOConfig(
            output_dir=str(output / "trl"), num_train_epochs=1, learning_rate=self.learning_rate, seed=seed, bf16=False,
            per_device_train_batch_size=BATCH, max_length=self.max_length, report_to="none", logging_strategy="no",
            disable_tqdm=True, save_strategy="no", use_cpu=True, dataloader_pin_memory=False,
        )  # fmt: skip
        with silence():
            trainer = DPOTrainer(
                AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.float32),
                args=arguments,
                train_dataset=Dataset.from_list(rows),
                processing_class=tokenizer,
                peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
            trainer.model.save_pretrained(str(output))
        return output

    def evaluation_loss(self, adapter: Path) -> float:
        """Return the DPO loss of the held-out pairs with an adapter; the base is the reference."""
        tokenizer = AutoTokenizer.from_pretrained(self.model)
        texts = [
            (pair.prompt, (Target(pair.chosen, pair.chosen_cut), Target(pair.rejected, pair.rejected_cut)))
            for pair in self.held_out
        ]
        held = index_pairs(encode(texts, tokenizer, tokenizer.eos_token_id))
        with silence():
            base = AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.float32)
            model = PeftModel.from_pretrained(base, adapter).eval()
        install_completion_forward(model.base_model.model)
        rows, order = build_blocks(held, range(len(held.completions)), 0)
        scores = torch.zeros(2, len(order))
        with torch.no_grad():
            for at in range(0, len(rows), AT_ONCE):
                inputs = build_inputs(rows[at : at + AT_ONCE], padding=0)
                scores[0, order[at : at + AT_ONCE]] = model(**inputs).log_probs
                with model.disable_adapter():
                    scores[1, order[at : at + AT_ONCE]] = model(**inputs).log_probs
        chosen, rejected = torch.tensor(held.pairs).T
        return dpo_loss(scores[0, chosen], scores[0, rejected], scores[1, chosen], scores[1, rejected], beta=0.1).item()


def compare(round_: Round, figure: str, bar: float) -> None:
    """Measure interleaved, print a table, and then the figure. The bar holds only with the same evaluation loss."""
    os.environ["CI"] = "1"  # TRL sends no telemetry then
    disable_progress_bars()
    ways = {"ours": round_.ours, "TRL": round_.theirs}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    losses: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as scratch:
        replace(round_, pairs=round_.pairs[:BATCH]).ours(Path(scratch) / "warm-up", 0)
        for seed in range(round_.repeats):
            for name, train in ways.items():
                began = time.perf_counter()
                adapter = train(Path(scratch) / f"{name}{seed}", seed)
                seconds[name].append(time.perf_counter() - began)
                losses[name].append(round_.evaluation_loss(adapter))
    table = Table("", "seconds (median)", "evaluation loss (mean)", "of each seed")
    table.title = f"DPO on {len(round_.pairs)} pairs at {round_.learning_rate:g}, {len(round_.held_out)} held out"
    for name in ways:
        each = ", ".join(f"{loss:.4f}" for loss in losses[name])
        table.add_row(name, f"{statistics.median(seconds[name]):.1f}", f"{statistics.mean(losses[name]):.4f}", each)
    Console().print(table)
    fast, slow = statistics.median(seconds["ours"]), statistics.median(seconds["TRL"])
    alike = statistics.mean(losses["ours"]) <= statistics.mean(losses["TRL"]) + ALIKE
    found = {"figure": figure, "ours": round(fast, 1), "theirs": round(slow, 1), "ratio": round(slow / fast, 2)}
    print(json.dumps({**found, "bar": bar, "holds": slow / fast >= bar and alike}))
