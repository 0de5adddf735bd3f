"""A DPO round measured both ways, ours and TRL's: the common code of `bench_dpo.py` and `bench_dpo_long.py`.

Both train a LoRA adapter for one epoch on the same pairs, from the same weights, in single precision, with the same
learning rate: the best one for both (`docs/log.md` has the series). Our steps have 8 pairs, TRL's default. TRL keeps
its activations, which it would recompute by default, and first tries batch sizes, reference log-probabilities computed
in advance, and batches of similar length, on some of the pairs; the fastest becomes the rival. Both are timed from
texts to the saved adapter. The evaluation loss is that of pairs of other queries.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from datasets import Dataset, disable_caching, disable_progress_bars
from figures import Figure, report, round_to
from peft import LoraConfig, PeftModel
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, PrinterCallback
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
"""How much higher a side's evaluation loss may be than the other's and still count as equal."""

BATCH = 8
"""Pairs a step: TRL's default."""

AT_ONCE = 50
"""Completions in a batch of the evaluation."""


@dataclass(frozen=True, slots=True)
class Way:
    """Settings of TRL that change its speed: pairs of a batch, batches of a step, and two options.

    `in_advance`: compute the reference's log-probabilities before training. `grouped`: batches of similar length.
    """

    batch: int
    batches: int = 1
    in_advance: bool = True
    grouped: bool = False

    def __str__(self) -> str:
        reference = "the reference in advance" if self.in_advance else "the reference at each step"
        return f"{self.batch} x {self.batches} pairs, {reference}{', grouped by length' if self.grouped else ''}"


STEPS_OF_8 = (Way(8, in_advance=False), Way(8), Way(4, 2), Way(2, 4), Way(8, grouped=True), Way(4, 2, grouped=True))
LARGER_STEPS = (Way(16), Way(32))


@dataclass(frozen=True, slots=True)
class Round:
    """The training data, the number of repeats (the seeds are 0, 1, ...), and the ways that TRL tries.

    `tried_on`: how many of the pairs it tries them on.
    """

    model: Path
    pairs: Sequence[PreferencePair]
    held_out: Sequence[PreferencePair]
    learning_rate: float
    max_length: int
    repeats: int
    ways: Sequence[Way]
    tried_on: int

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

    def theirs(self, output: Path, seed: int, way: Way) -> Path:
        tokenizer = AutoTokenizer.from_pretrained(self.model)
        warnings.filterwarnings("ignore", category=FutureWarning)  # TRL still calls what transformers renamed
        arguments = DPOConfig(
            output_dir=str(output / "trl"), num_train_epochs=1, learning_rate=self.learning_rate, seed=seed, bf16=False,
            per_device_train_batch_size=way.batch, gradient_accumulation_steps=way.batches,
            precompute_ref_log_probs=way.in_advance, activation_checkpointing=False, length_column_name="tokens",
            train_sampling_strategy="group_by_length" if way.grouped else "random", max_length=self.max_length,
            report_to="none", logging_strategy="no", disable_tqdm=True, save_strategy="no", use_cpu=True,
            dataloader_pin_memory=False, remove_unused_columns=False,
        )  # fmt: skip
        with silence():
            trainer = DPOTrainer(
                AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.float32),
                args=arguments,
                train_dataset=Dataset.from_list([self._row(pair, tokenizer) for pair in self.pairs]),
                processing_class=tokenizer,
                peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
            )
            trainer.remove_callback(PrinterCallback)
            if way.grouped:
                lengths = [count_tokens(row) for row in trainer.train_dataset]
                trainer.train_dataset = trainer.train_dataset.add_column("tokens", lengths)
            trainer.train()
            trainer.model.save_pretrained(str(output))
        return output

    @staticmethod
    def _row(pair: PreferencePair, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
        prompt = render_chat(tokenizer, [{"role": "user", "content": pair.prompt}])
        return {"prompt": prompt, "chosen": pair.chosen, "rejected": pair.rejected}

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


def count_tokens(row: Mapping[str, Sequence[int]]) -> int:
    """Return the tokens of the longer text of a pair, as TRL has encoded it."""
    return len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))


@dataclass(frozen=True, slots=True)
class Trained:
    """Seconds of a round, and the evaluation loss of its adapter."""

    seconds: float
    loss: float


def train(write: Callable[[Path], Path], score: Callable[[Path], float] = lambda _: 0.0) -> Trained:
    """Time a round that writes an adapter, and score the adapter afterwards."""
    with tempfile.TemporaryDirectory() as scratch:
        began = time.perf_counter()
        adapter = write(Path(scratch) / "adapter")
        seconds = time.perf_counter() - began
        return Trained(seconds, score(adapter))


def find_rival(round_: Round, loss: float) -> tuple[Way, Trained, dict[Way, float]]:
    """Return the fastest way, its whole round of seed 0, and the seconds of each way's trial.

    Two interleaved trials for each way; the faster one counts. Larger steps than ours count only if the evaluation loss
    of the whole round is equal to ours, which is `loss`.
    """
    few = replace(round_, pairs=round_.pairs[: round_.tried_on])
    trials: dict[Way, float] = {}
    for _ in range(2):
        for way in round_.ways:
            seconds = train(lambda output, way=way: few.theirs(output, 0, way)).seconds
            trials[way] = min(seconds, trials.get(way, seconds))
    for way in sorted(trials, key=trials.__getitem__):
        whole = train(lambda output, way=way: round_.theirs(output, 0, way), round_.evaluation_loss)
        if way.batch * way.batches == BATCH or whole.loss <= loss + ALIKE:
            return way, whole, trials
    raise ValueError(f"Expected a way with steps of {BATCH} pairs, got {[str(way) for way in round_.ways]}.")


def compare(round_: Round, name: str, bar: float) -> None:
    """Measure interleaved, print a table, and then the figure, which counts only with the same evaluation loss."""
    os.environ["CI"] = os.environ["TQDM_DISABLE"] = "1"  # TRL sends no telemetry then, and prints no progress
    disable_progress_bars()
    disable_caching()  # so that no round finds the reference of an earlier one
    train(lambda output: replace(round_, pairs=round_.pairs[:BATCH]).ours(output, 0))  # loads what is loaded once
    score = round_.evaluation_loss
    ours = [train(lambda output: round_.ours(output, 0), score)]
    way, first, trials = find_rival(round_, ours[0].loss)
    theirs = [first]
    for seed in range(1, round_.repeats):
        ours.append(train(lambda output, seed=seed: round_.ours(output, seed), score))
        theirs.append(train(lambda output, seed=seed: round_.theirs(output, seed, way), score))
    table = Table("", "seconds (median)", "evaluation loss (mean)", "of each seed")
    table.title = f"DPO on {len(round_.pairs)} pairs at {round_.learning_rate:g}, {len(round_.held_out)} held out"
    for tried, seconds in trials.items():
        table.add_row(f"TRL, {round_.tried_on} pairs: {tried}", f"{seconds:.1f}", "", "")
    for side, rounds in (("ours", ours), (f"TRL: {way}", theirs)):
        each = ", ".join(f"{done.loss:.4f}" for done in rounds)
        mean = statistics.mean(done.loss for done in rounds)
        table.add_row(side, f"{statistics.median(done.seconds for done in rounds):.1f}", f"{mean:.4f}", each)
    Console().print(table)
    higher = statistics.mean(one.loss - other.loss for one, other in zip(ours, theirs, strict=True))
    report(
        Figure(
            name,
            round_to(statistics.median(other.seconds / one.seconds for one, other in zip(ours, theirs, strict=True))),
            bar,
            ours=round_to(statistics.median(done.seconds for done in ours)),
            theirs=round_to(statistics.median(done.seconds for done in theirs)),
            rival=f"TRL, {way}",
            fault=f"our evaluation loss is {higher:.3f} higher" if higher > ALIKE else "",
        )
    )
