"""Measures costs on a few examples: runs the program, tries some supplements, trains on a few rows."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from optimizers.core.estimate import Probe
from optimizers.core.records import Candidate, Rollout, SFTExample
from optimizers.rollouts.evaluation import Evaluator
from optimizers.rollouts.sampling import sample_stage
from optimizers.sgt.candidates import QueryRequest, drop_repeats, given_candidates, to_candidates
from optimizers.sgt.recipe import Recipe
from optimizers.training.trainer import Trainer
from sgt_modules.generator import SupplementGenerator

SUPPLEMENTS_PER_EXAMPLE = 8
"""The number of supplements per example that the actor runs on."""

TRAINED_ROWS = 32, 96
"""The rows of two trainings; the difference of their seconds gives the seconds per row without loading the model."""


def measure_probe(
    evaluator: Evaluator,
    pool_requests: Sequence[QueryRequest],
    generator: SupplementGenerator,
    recipe: Recipe,
    trainer: Trainer,
    *,
    sft_epochs: int,
    seed: int,
) -> Probe:
    """Measure the costs of a run on the evaluator's examples, on which the program has run without supplements.

    `pool_requests` are those of the warm start, so that a run on the same store does not pay for them again. Raises
    `StoppedError` if the budget is too small.
    """
    actor, examples = evaluator.actor, len(evaluator.examples)
    began = time.perf_counter()
    temperature, top_p = recipe.sampling_settings(generator.prompt)
    requests = [replace(request, temperature=temperature, top_p=top_p) for _, request in pool_requests]
    samples = list(sample_stage(actor.store, "probe", generator, requests))
    sampling = time.perf_counter() - began
    ready = given_candidates(evaluator.queries, recipe.given_kinds)
    pool = list(drop_repeats([*ready, *to_candidates(pool_requests, samples, generator.fingerprint)]))
    tried = random.Random(f"{seed}-probe").sample(pool, min(len(pool), SUPPLEMENTS_PER_EXAMPLE * examples))
    before, began = actor.budget.usage, time.perf_counter()
    rollouts = actor.run(tried, evaluator.examples, stage="probe")
    acting, paid = time.perf_counter() - began, actor.budget.usage
    runs = paid.runs - before.runs
    bare, aided = _Means(evaluator.unaided), _Means(rollouts)
    return Probe(
        calls=(paid.calls - before.calls) / runs if runs else max(1.0, len(evaluator.queries) / examples),
        places=len(evaluator.queries) / examples,
        bare_in=bare.tokens_in,
        bare_out=bare.tokens_out,
        bare_cost=bare.cost,
        tokens_in=aided.tokens_in,
        tokens_out=aided.tokens_out,
        cost=aided.cost,
        distinct=len(pool) / (len(ready) + len(requests)),
        won=sum(rollout.won(recipe.threshold) for rollout in rollouts) / max(1, len(rollouts)),
        run_seconds=acting / max(1, len(rollouts)),
        sample_seconds=sampling / max(1, len(requests)),
        row_seconds=_row_seconds(trainer, tried, sft_epochs, seed),
    )


class _Means:
    """Mean tokens and dollars per run."""

    def __init__(self, rollouts: Sequence[Rollout]) -> None:
        count = max(1, len(rollouts))
        self.tokens_in = sum(each.tokens_in for each in rollouts) / count
        self.tokens_out = sum(each.tokens_out for each in rollouts) / count
        self.cost = sum(each.cost for each in rollouts) / count


def _row_seconds(trainer: Trainer, tried: Sequence[Candidate], epochs: int, seed: int) -> float:
    """The seconds to train on one row once, measured on a few rows and thrown away."""
    rows = [
        SFTExample(each.query.id, said.kind, each.query.prompt, said.render(), said.cut)
        for each in tried
        for said in [each.supplement]
    ]
    if not rows:
        return 0.0
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        for count in TRAINED_ROWS:
            repeated = [rows[number % len(rows)] for number in range(count)]
            began = time.perf_counter()
            trainer.sft(repeated, start=None, output=Path(scratch) / "probe", seed=seed)
            seconds.append(time.perf_counter() - began)
    return max(0.0, seconds[1] - seconds[0]) / ((TRAINED_ROWS[1] - TRAINED_ROWS[0]) * epochs)
