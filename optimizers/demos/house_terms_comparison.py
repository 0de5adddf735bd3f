"""The comparison and the controls on the embedded world of house terms, which needs no hub and no key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from optimizers.comparison.comparing import compare_problems
from optimizers.comparison.contenders import ContenderLike, compile_sgt, make_arguments
from optimizers.comparison.control_rows import Controls
from optimizers.comparison.controls import controls
from optimizers.comparison.result import Comparison
from optimizers.comparison.setup import Problem, Resources
from optimizers.demos.house_terms import FULL_SCALE, QUICK_SCALE, TERMS_THREADS
from optimizers.training.embedded import embedded_trainer
from sgt_modules.embedded import HouseTermsWorld, acting, embedded_actor, embedded_generator, find_term, program

TERMS_BUDGET, QUICK_TERMS_BUDGET = 5_000, 1_500
"""Actor calls per contender."""

ROUNDS, QUICK_ROUNDS = 3, 2
"""Rounds of SGT, which is adaptive here: more rounds exceed the budget."""


def make_world(seed: int, *, quick: bool = False, gold: bool = False) -> HouseTermsWorld:
    """Return the house-terms world of a seed; with `gold`, its training examples show their source query."""
    return HouseTermsWorld(seed, sizes=(QUICK_SCALE if quick else FULL_SCALE).sizes, gold=gold)


def make_problem(world: HouseTermsWorld) -> Problem:
    """Return the embedded program on a world, ready to be compared."""
    return Problem(program(), world.metric, world.train, world.val, world.test, cluster=find_term)


def _make_resources(*, quick: bool) -> Resources:
    scale, rounds = (QUICK_SCALE, QUICK_ROUNDS) if quick else (FULL_SCALE, ROUNDS)
    return Resources(
        generator=embedded_generator(),
        trainer=embedded_trainer(),
        recipe=replace(scale.recipe, adaptive=True, rounds=rounds),
        num_threads=TERMS_THREADS,
    )


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
    """Run `compare` with a separate world for each seed, so that all seeds' test questions count."""
    name = "house terms with gold queries" if gold else "house terms, outcomes alone"
    with acting():
        return compare_problems(
            {seed: make_problem(make_world(seed, quick=quick, gold=gold)) for seed in seeds},
            contenders,
            budget=budget or (QUICK_TERMS_BUDGET if quick else TERMS_BUDGET),
            resources=_make_resources(quick=quick),
            log_dir=log_dir,
            task=f"{name}{', quick' if quick else ''}",
            display_progress=display_progress,
        )


def score_embedded_controls(
    log_dir: Path, *, seeds: Sequence[int] = (0, 1, 2), quick: bool = False, budget: int | None = None
) -> list[Controls]:
    """Score the controls of the `sgt` contenders of a comparison by `compare_embedded` in `log_dir`, seed by seed.

    Each finished run is resumed, so that nothing is trained or paid for again; the second actor and the questions on
    unseen terms are the demonstration's.
    """
    scored: list[Controls] = []
    calls = budget or (QUICK_TERMS_BUDGET if quick else TERMS_BUDGET)
    for seed in seeds:
        world = make_world(seed, quick=quick)
        problem = make_problem(world)
        resources, folder = _make_resources(quick=quick), log_dir / "sgt" / f"seed-{seed}"
        inputs = make_arguments(problem, resources, seed=seed, calls=calls, folder=folder, num_threads=TERMS_THREADS)
        with acting():
            scored.append(
                controls(
                    compile_sgt(inputs),
                    problem,
                    shifted=world.shifted,
                    second_actor=embedded_actor("second-actor"),
                    num_threads=TERMS_THREADS,
                    leaks=world.leaks,
                    display_progress=False,
                )
            )
    return scored
