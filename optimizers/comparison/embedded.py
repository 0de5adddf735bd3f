"""The comparison on the embedded world of house terms, which needs no hub and no key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from optimizers.comparison.comparing import Means, Problem, compare_problems
from optimizers.comparison.contenders import ContenderLike
from optimizers.comparison.result import Comparison
from optimizers.demo import FULL_SCALE, QUICK_SCALE, THREADS, TRAINING, acting
from optimizers.trl_trainer import TRLTrainer
from sgt_modules.embedded import HouseTermsWorld, embedded_generator, program
from sgt_modules.embedded.models import embedded_folder

BUDGET, QUICK_BUDGET = 10_000, 3_000
"""Actor calls a contender: about what SGT's whole recipe makes there, so that none is short of what it takes."""


def problem_of(seed: int, *, quick: bool = False, gold: bool = False) -> Problem:
    """The house-terms world of a seed; with `gold`, its training examples show the query they were made from."""
    world = HouseTermsWorld(seed, sizes=(QUICK_SCALE if quick else FULL_SCALE).sizes, gold=gold)
    return Problem(program(), world.metric, world.train, world.val, world.test)


def compare_embedded(
    contenders: Sequence[ContenderLike] | None = None,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    quick: bool = False,
    gold: bool = False,
    budget: int | None = None,
    log_dir: str | Path | None = None,
    display_progress: bool | None = None,
) -> Comparison:
    """As `compare`, with a world of its own for each seed, so that all seeds' test questions count."""
    scale = QUICK_SCALE if quick else FULL_SCALE
    means = Means(
        generator=embedded_generator(),
        trainer=TRLTrainer(embedded_folder("generator"), TRAINING),
        recipe=scale.recipe,
        num_threads=THREADS,
    )
    shown = "house terms with gold queries" if gold else "house terms, outcomes alone"
    with acting():
        return compare_problems(
            {seed: problem_of(seed, quick=quick, gold=gold) for seed in seeds},
            contenders,
            budget=budget or (QUICK_BUDGET if quick else BUDGET),
            means=means,
            log_dir=log_dir,
            task=f"{shown}{', quick' if quick else ''}",
            display_progress=display_progress,
        )
