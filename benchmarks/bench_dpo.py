"""A DPO round of 1,000 pairs, 20 samples a query, on the embedded generator: ours against TRL's trainer.

Both train a LoRA adapter for one epoch on the same pairs, from the same weights, with the same learning rate and
batches of 8 pairs, in single precision; everything else of TRL's is its default. Both are timed from texts to the
saved adapter. `pairwise` is our trainer with TRL's forward pass. The pairs follow a rule that can be learned: the
shorter half of a query's supplements is preferred. The evaluation loss is that of pairs of other queries. Interleaved
repeats, one seed each; the ratio of the medians, and the last line as JSON. The bar holds only where the evaluation
loss is the same, too.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig, PeftModel
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from optimizers.encoding import encode
from optimizers.losses import dpo_loss
from optimizers.pairs import preference_pairs
from optimizers.quiet import silence
from optimizers.records import PreferencePair, Query, Reward, Rollout
from optimizers.shared_forward import laid_out, score_completions
from optimizers.sharing import blocks, distinct
from optimizers.sources import candidates, warm_start
from optimizers.training import LoRASettings, TrainingSettings
from optimizers.trl_trainer import TRLTrainer
from sgt_modules.embedded import HouseTermsWorld, embedded_generator
from sgt_modules.embedded.models import embedded_folder
from sgt_modules.embedded.program import AnswerInSQL
from sgt_modules.prompts import exploring, generator_prompt
from sgt_modules.reading import render_chat

BAR = 3.0
ALIKE = 0.02
PAIRS, HELD_OUT, SAMPLES, REPEATS = 1000, 200, 20, 2
LEARNING_RATE, BATCH = 5e-4, 8
FOLDER = embedded_folder("generator")
SETTINGS = TrainingSettings(
    lora=LoRASettings(), dpo_learning_rate=LEARNING_RATE, alpha=0.0, batch_size=BATCH, gradient_accumulation=1,
    warmup=0.0, schedule="linear", gradient_checkpointing=False, bf16=False, dpo_forward="shared",
)  # fmt: skip


def supplements() -> Iterator[Rollout]:
    """At most twenty distinct supplements a query; the shorter ten won."""
    rng, generator = random.Random(0), embedded_generator()
    queries = [
        Query(str(index), index, "self", generator_prompt(AnswerInSQL, example.inputs()))
        for index, example in enumerate(HouseTermsWorld(seed=0).train[:50])
    ]
    wishes = warm_start(queries, prompt_for=lambda query, kind: exploring(query.prompt, kind), rng=rng, samples=4)
    replies = generator.sample([wish.prompt for wish in wishes], seeds=[wish.seed for wish in wishes])
    drawn = candidates(wishes, replies)
    for query in queries:
        of_query = {each.supplement.render(): each.supplement for each in drawn if each.query == query}
        kept = sorted(rng.sample(sorted(of_query), min(SAMPLES, len(of_query))), key=len)
        for place, text in enumerate(kept):
            yield Rollout(query, "dpo", "direct", of_query[text], Reward(float(place < SAMPLES // 2)))


def ours(pairs: list[PreferencePair], output: Path, seed: int, settings: TrainingSettings = SETTINGS) -> Path:
    return TRLTrainer(FOLDER, settings).dpo(pairs, start=None, output=output, seed=seed).path


def theirs(pairs: list[PreferencePair], output: Path, seed: int) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    rows = [
        {
            "prompt": render_chat(tokenizer, [{"role": "user", "content": pair.prompt}]),
            "chosen": pair.chosen,
            "rejected": pair.rejected,
        }
        for pair in pairs
    ]
    arguments = DPOConfig(
        output_dir=str(output / "trl"), num_train_epochs=1, learning_rate=LEARNING_RATE, seed=seed, bf16=False,
        per_device_train_batch_size=BATCH, report_to="none", logging_strategy="no",
        disable_tqdm=True, save_strategy="no", use_cpu=True,
        dataloader_pin_memory=False,
    )  # fmt: skip
    with silence(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TRL still calls what transformers renamed
        trainer = DPOTrainer(
            AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32),
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
        trainer.train()
        trainer.model.save_pretrained(str(output))
    return output


def evaluation_loss(pairs: list[PreferencePair], adapter: Path) -> float:
    """The DPO loss of pairs under an adapter, the base being the reference."""
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    held = distinct(
        encode([(pair.prompt, (pair.chosen, pair.rejected)) for pair in pairs], tokenizer, tokenizer.eos_token_id)
    )
    with silence():
        base = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, adapter).eval()
    score_completions(model.base_model.model)
    rows, order = blocks(held, range(len(held.completions)), 0)
    scores = torch.zeros(2, len(order))
    with torch.no_grad():
        for at in range(0, len(rows), 50):
            inputs = laid_out(rows[at : at + 50], padding=0)
            scores[0, order[at : at + 50]] = model(**inputs).log_probs
            with model.disable_adapter():
                scores[1, order[at : at + 50]] = model(**inputs).log_probs
    chosen, rejected = torch.tensor(held.pairs).T
    return dpo_loss(scores[0, chosen], scores[0, rejected], scores[1, chosen], scores[1, rejected], beta=0.1).item()


def main() -> None:
    """Measure, print a table, and then the figure."""
    os.environ["CI"] = "1"  # TRL sends no telemetry then
    disable_progress_bars()
    every = preference_pairs(supplements(), rng=random.Random(0))
    border = next(pair.query for pair in every[PAIRS:])
    pairs, held = every[:PAIRS], [pair for pair in every[PAIRS:] if pair.query != border][:HELD_OUT]
    ways = {
        "shared": ours,
        "TRL": theirs,
        "pairwise": lambda *given: ours(*given, replace(SETTINGS, dpo_forward="pairwise")),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    losses: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as scratch:
        ours(pairs[:50], Path(scratch) / "warm-up", 0)
        for seed in range(REPEATS):
            for name, train in ways.items():
                began = time.perf_counter()
                adapter = train(pairs, Path(scratch) / f"{name}{seed}", seed)
                seconds[name].append(time.perf_counter() - began)
                losses[name].append(evaluation_loss(held, adapter))
    table = Table("", "seconds (median)", "evaluation loss (mean)", "of each seed", title=f"DPO on {len(pairs)} pairs")
    for name in ways:
        each = ", ".join(f"{loss:.4f}" for loss in losses[name])
        table.add_row(name, f"{statistics.median(seconds[name]):.1f}", f"{statistics.mean(losses[name]):.4f}", each)
    Console().print(table)
    fast, slow = statistics.median(seconds["shared"]), statistics.median(seconds["TRL"])
    holds = slow / fast >= BAR and statistics.mean(losses["shared"]) <= statistics.mean(losses["TRL"]) + ALIKE
    figure = {"figure": "seconds of a DPO round of 1,000 pairs", "ours": round(fast, 1), "theirs": round(slow, 1)}
    print(json.dumps({**figure, "ratio": round(slow / fast, 2), "bar": BAR, "holds": holds}))


if __name__ == "__main__":
    main()
