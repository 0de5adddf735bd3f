"""Parts of the GPU's benchmark: plans, a random model with its texts, and measures of time and memory."""

from __future__ import annotations

import gc
import logging
import random
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from datasets import Dataset
from operations import Read, reads_noted
from peft import LoraConfig
from random_model import CHAT_TOKENS, SHAPES, Shape, random_text, write_model
from transformers import AutoModelForCausalLM, PrinterCallback, TrainerCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from optimizers.core.records import Checkpoint, PreferencePair, Query, Reward, Rollout
from optimizers.sgt.preference_pairs import preference_pairs
from optimizers.training.side_effects import keep_random_states, silence
from optimizers.training.trainer import TrainingSettings
from optimizers.training.trl_arguments import uses_bfloat16
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules.kinds import KINDS, Supplement
from sgt_modules.local import batching
from sgt_modules.local.chat_template import render_chat
from sgt_modules.local.engine import LocalEngine
from sgt_modules.samples import SampleRequest

BAR_GB = 40.0
"""The most memory of a whole round at 2,048 tokens."""

SAMPLES = 20
"""Completions a query: with 12 winners and 8 losers of 4 kinds, they make 40 pairs."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The sizes of a measurement with a shape. Lengths are in tokens, including the chat template."""

    shape: Shape
    batch: int
    sampling: tuple[int, int]  # prompt, reply
    training: tuple[int, int]
    queries: int
    round_rows: int  # texts that a whole round samples at once
    most_prompts: int
    most_pairs: int
    bar: float | None


PLANS = {
    "qwen3-1.7b": Plan(
        SHAPES["qwen3-1.7b"],
        batch=256,
        sampling=(512, 128),
        training=(1792, 256),
        queries=4,
        round_rows=40,
        most_prompts=4096,
        most_pairs=256,
        bar=BAR_GB,
    ),
    "tiny": Plan(
        SHAPES["tiny"],
        batch=8,
        sampling=(32, 24),
        training=(40, 12),
        queries=2,
        round_rows=20,
        most_prompts=16,
        most_pairs=16,
        bar=None,
    ),
}


@dataclass(frozen=True, slots=True)
class Trained:
    """A measured preference round. `seconds` run from the first text read, for the reference, to the end of the last
    step; `call_seconds` include loading and saving. `checkpoint` is None where TRL's trainer ran.
    """

    reads: Sequence[Read]
    seconds: float
    call_seconds: float
    checkpoint: Checkpoint | None = None


class Bench:
    """A random model on disk and in memory, and texts for it."""

    def __init__(self, plan: Plan, folder: Path, *, repeats: int, peak: float | None) -> None:
        self.plan, self.repeats, self.peak = plan, repeats, peak
        self.model = write_model(plan.shape, folder / "model")
        self._output = folder / "trained"
        self._rng = random.Random(0)
        self.engine = self.sampler(plan.batch * sum(plan.sampling))  # as in a run, its weights stay in memory
        self.engine.sample(
            [SampleRequest(each, temperature=1.0, max_new_tokens=1) for each in self.prompts(1, 2 * CHAT_TOKENS)]
        )

    def sampler(self, tokens: int) -> LocalEngine:
        """Return an engine of the same weights for batches of that many tokens."""
        return LocalEngine(self.model, max_batch_tokens=tokens)

    def prompts(self, count: int, tokens: int) -> list[str]:
        """Return distinct prompts of that many tokens each."""
        return [random_text(tokens - CHAT_TOKENS, self.plan.shape, self._rng) for _ in range(count)]

    def pairs(self, prompts: Sequence[str], replies: Sequence[str] | None = None) -> list[PreferencePair]:
        """Return at most 40 pairs a prompt from 20 replies each; without replies, draw random ones."""
        words = self.plan.training[1] - 2  # a kind's tag stands before them, and the end token behind
        replies = replies or [random_text(words, self.plan.shape, self._rng) for _ in range(SAMPLES * len(prompts))]
        return preference_pairs(simulated_rollouts(prompts, replies), rng=random.Random(0))

    def train(self, pairs: Sequence[PreferencePair], settings: TrainingSettings) -> Trained:
        """Measure a preference round of our trainer from the base model."""
        prompt, reply = self.plan.training
        steps: list[float] = []
        trainer = TRLTrainer(self.model, replace(settings, max_length=prompt + reply))
        with reads_noted(int(self.engine.tokenizer.pad_token_id)) as noted:
            began = time.perf_counter()
            checkpoint = trainer.dpo(
                pairs,
                start=None,
                output=self._output,
                seed=0,
                on_step=lambda *_: steps.append(time.perf_counter()),
            )
            ended = time.perf_counter()
        if dropped := checkpoint.metrics["dropped"]:
            raise RuntimeError(f"Expected pairs of at most {prompt + reply} tokens, but {dropped} are longer.")
        reads = [read for read in noted if read.tokens > read.rows * prompt]  # the rest tries what the model can
        del reads[
            next(place for place, read in enumerate(reads) if read.trained)
        ]  # the rehearsal: only its time counts
        return Trained(reads, steps[-1] - reads[0].began, ended - began, checkpoint)

    def train_with_trl(self, pairs: Sequence[PreferencePair], settings: TrainingSettings) -> Trained:
        """Measure the same round of TRL's own trainer, with as many pairs a step and the same adapter."""
        assert settings.lora is not None
        tokenizer, lora, cuda = self.engine.tokenizer, settings.lora, torch.cuda.is_available()
        rows = [
            {
                "prompt": render_chat(tokenizer, [{"role": "user", "content": pair.prompt}]),
                "chosen": pair.chosen,
                "rejected": pair.rejected,
            }
            for pair in pairs
        ]
        end = StepEnds()
        with reads_noted(int(tokenizer.pad_token_id)) as reads, silence(), keep_random_states():
            began = time.perf_counter()
            base = AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.bfloat16 if cuda else torch.float32)
            arguments = DPOConfig(
                output_dir=str(self._output), num_train_epochs=1, learning_rate=settings.dpo_learning_rate, seed=0,
                per_device_train_batch_size=settings.batch_size, bf16=uses_bfloat16(settings), use_cpu=not cuda,
                gradient_accumulation_steps=settings.gradient_accumulation, max_length=sum(self.plan.training),
                activation_checkpointing=settings.uses_checkpointing(base.num_parameters()), report_to="none",
                logging_strategy="no", save_strategy="no", disable_tqdm=True, dataloader_pin_memory=cuda,
            )  # fmt: skip
            trainer = DPOTrainer(
                base,
                args=arguments,
                train_dataset=Dataset.from_list(rows),
                processing_class=tokenizer,
                peft_config=LoraConfig(
                    r=lora.rank, lora_alpha=lora.alpha, target_modules=lora.targets, task_type="CAUSAL_LM"
                ),
                callbacks=[end],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
            trainer.model.save_pretrained(str(self._output))
            ended = time.perf_counter()
        return Trained(reads, end.last - reads[0].began, ended - began)


class StepEnds(TrainerCallback):
    """Keeps when the last step ended."""

    last = 0.0

    def on_step_end(self, *_: object, **more: object) -> None:
        self.last = time.perf_counter()


def simulated_rollouts(prompts: Sequence[str], replies: Sequence[str]) -> Iterator[Rollout]:
    """Return simulated rewards: each prompt's replies are of four kinds in turn; four win and four lose in turn."""
    kinds = list(KINDS)[:4]
    for index, prompt in enumerate(prompts):
        query = Query(str(index), index, "self", prompt)
        for place, text in enumerate(replies[index * SAMPLES : (index + 1) * SAMPLES]):
            reward = Reward(float(place // 4 % 2 == 0))
            yield Rollout(query, "dpo1", "direct", Supplement(kinds[place % 4], text), reward)


class Memory:
    """The most memory held since the last start: the GPU's, else this process's, in 10^9 bytes."""

    def begin(self) -> None:
        """Release unused memory, and count from there."""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.go_on()

    def go_on(self) -> None:
        """Count from the memory held now, including the allocator's reserve, as a run does for each stage."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def most(self) -> dict[str, float]:
        """Return the peak of tensors, and with the allocator's reserve; for a process its peak since its start."""
        if torch.cuda.is_available():
            allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        else:
            unit = 1 if sys.platform == "darwin" else 1024
            allocated = reserved = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return {"allocated": round(allocated / 1e9, 2), "reserved": round(reserved / 1e9, 2)}


@contextmanager
def halvings_noted() -> Iterator[list[str]]:
    """Collects an engine's warnings that a batch did not fit."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger(batching.__name__).addHandler(handler)
    try:
        yield said
    finally:
        logging.getLogger(batching.__name__).removeHandler(handler)
