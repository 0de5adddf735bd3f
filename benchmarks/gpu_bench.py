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
from operations import Read, reads_noted
from random_model import CHAT_TOKENS, SHAPES, Shape, random_text, write_model

from optimizers.core.records import Checkpoint, PreferencePair, Query, Reward, Rollout
from optimizers.sgt.preference_pairs import preference_pairs
from optimizers.training.trainer import TrainingSettings
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules.kinds import KINDS, Supplement
from sgt_modules.local import batching
from sgt_modules.local.engine import LocalEngine

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
    """A measured preference round: from the first text read for the reference to the end of the last step."""

    checkpoint: Checkpoint
    reads: Sequence[Read]
    reference_seconds: float
    training_seconds: float
    call_seconds: float

    @property
    def seconds(self) -> float:
        return self.reference_seconds + self.training_seconds

    @property
    def micro_batch(self) -> int:
        """Return the rows of the last pass; fewer than requested if memory ran out."""
        return self.reads[-1].rows


class Bench:
    """A random model on disk and in memory, and texts for it."""

    def __init__(self, plan: Plan, folder: Path, *, repeats: int, peak: float | None) -> None:
        self.plan, self.repeats, self.peak = plan, repeats, peak
        self.model = write_model(plan.shape, folder / "model")
        self._output = folder / "trained"
        self._rng = random.Random(0)
        self.engine = self.sampler(plan.batch * sum(plan.sampling))  # as in a run, its weights stay in memory
        self.engine.sample(self.prompts(1, 2 * CHAT_TOKENS), seeds=[0], max_new_tokens=1)

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
        """Measure a preference round from the base model."""
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
        rehearsal = reads.pop(next(place for place, read in enumerate(reads) if read.trained))
        turn = rehearsal.began  # its time counts as training, its tokens do not
        return Trained(checkpoint, reads, turn - reads[0].began, steps[-1] - turn, ended - began)


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
    batching.logger.addHandler(handler)
    try:
        yield said
    finally:
        batching.logger.removeHandler(handler)
