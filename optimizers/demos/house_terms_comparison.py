"""The comparison and the controls on the embedded world of house terms, which needs no hub and no key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from optimizers.comparison.bench import Bench
from optimizers.comparison.comparing import compare_problems
from optimizers.comparison.contenders import ContenderLike, sgt, shuffled
from optimizers.comparison.control_rows import Controls
from optimizers.comparison.controls import controls
from optimizers.comparison.result import Comparison
from optimizers.comparison.setup import Means, Problem
from optimizers.demos.house_terms import FULL_SCALE, QUICK_SCALE, THREADS
from optimizers.sgt.recipe import Recipe
from optimizers.training.embedded import embedded_trainer
from sgt_modules.embedded import HouseTermsWorld, acting, embedded_actor, embedded_generator, program

BUDGET, QUICK_BUDGET = 5_000, 1_500
"""Actor calls a contender."""

ROUNDS, QUICK_ROUNDS = 3, 2
"""Rounds of SGT, which is adaptive here: more do not fit into the budget."""


def world_of(seed: int, *, quick: bool = False, gold: bool = False) -> HouseTermsWorld:
    """The house-terms world of a seed; with `gold`, its training examples show the query they were made from."""
    return HouseTermsWorld(seed, sizes=(QUICK_SCALE if quick else FULL_SCALE).sizes, gold=gold)


def problem_of(world: HouseTermsWorld) -> Problem:
    """The embedded program on a world."""
    return Problem(program(), world.metric, world.train, world.val, world.test)


def _recipe(*, quick: bool) -> Recipe:
    scale = QUICK_SCALE if quick else FULL_SCALE
    return replace(scale.recipe, adaptive=True, rounds=QUICK_ROUNDS if quick else ROUNDS)


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
    means = Means(
        generator=embedded_generator(), trainer=embedded_trainer(), recipe=_recipe(quick=quick), num_threads=THREADS
    )
    shown = "house terms with gold queries" if gold else "house terms, outcomes alone"
    with acting():
        return compare_problems(
            {seed: problem_of(world_of(seed, quick=quick, gold=gold)) for seed in seeds},
            contenders,
            budget=budget or (QUICK_BUDGET if quick else BUDGET),
            means=means,
            log_dir=log_dir,
            task=f"{shown}{', quick' if quick else ''}",
            display_progress=display_progress,
        )


def controls_embedded(
    log_dir: Path, *, seeds: Sequence[int] = (0, 1, 2), quick: bool = False, budget: int | None = None
) -> list[Controls]:
    """The controls of the `sgt` contenders of a comparison that `compare_embedded` made in `log_dir`, seed by seed.

    Each is taken up where it was finished, so that nothing is trained or paid for again; the second actor and the
    questions on unseen terms are the demonstration's.
    """
    found: list[Controls] = []
    for seed in seeds:
        world = world_of(seed, quick=quick)
        problem = problem_of(world)
        bench = Bench(
            program=problem.program,
            trainset=shuffled(world.train, seed),
            valset=world.val,
            metric=world.metric,
            seed=seed,
            calls=budget or (QUICK_BUDGET if quick else BUDGET),
            folder=log_dir / "sgt" / f"seed-{seed}",
            num_threads=THREADS,
            generator=embedded_generator(),
            trainer=embedded_trainer(),
            recipe=_recipe(quick=quick),
        )
        with acting():
            found.append(
                controls(
                    sgt(bench),
                    problem,
                    shifted=world.shifted,
                    second_actor=embedded_actor("second-actor"),
                    num_threads=THREADS,
                    leaks=world.leaks,
                    display_progress=False,
                )
            )
    return found
