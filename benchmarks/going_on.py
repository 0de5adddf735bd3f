"""Going on from an adapter with twice the data, compared with the base model and all data at equal actor calls.

    python benchmarks/going_on.py                      # seeds 50 51 52: nine small runs, about a quarter of an hour
    python benchmarks/going_on.py --seeds 60 61 --folder runs/going-on

The quick world of house terms, scored on validation. `half` trains on half of the training questions; `going on` starts
from its best adapter with all of them; `base` starts from the base model with all of them and trains further rounds
until it has spent the calls of both.
Prints a row a seed, the means, and a sentence on which is better.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import dspy

from optimizers.core.result import SGTResult, result_of
from optimizers.demos.house_terms import QUICK_SCALE
from optimizers.sgt.recipe import Recipe
from optimizers.sgt.teleprompter import SGTTeleprompter
from optimizers.training.embedded import embedded_trainer
from sgt_modules.embedded import HouseTermsWorld, embedded_actor, embedded_generator, program
from sgt_modules.generator import SupplementGenerator

RECIPE = replace(QUICK_SCALE.recipe, gate=False)
ROUNDS = 8
"""The most rounds of the run from the base: its budget ends it."""


@dataclass(frozen=True)
class Row:
    """One seed: the best score of each run on validation, and the actor calls that it took in all."""

    seed: int
    half: float
    came: float
    going_on: float
    base: float
    calls: int
    base_calls: int


def train(
    world: HouseTermsWorld,
    examples: Sequence[dspy.Example],
    generator: SupplementGenerator,
    folder: Path,
    recipe: Recipe = RECIPE,
    most: int | None = None,
) -> SGTResult:
    """Run SGT once, or read what its folder has of it."""
    sgt = SGTTeleprompter(
        world.metric,
        generator,
        recipe=recipe,
        trainer=embedded_trainer(),
        seed=world.seed,
        log_dir=folder,
        max_actor_calls=most,
        display_progress=False,
    )
    with dspy.context(lm=embedded_actor()):
        return result_of(sgt.compile(program(), trainset=examples, valset=world.val))


def last_generator(result: SGTResult) -> SupplementGenerator:
    """The generator of the best stage that the run trained."""
    trained = [stage for stage in result.stages if stage.checkpoint is not None]
    best = max(trained, key=lambda stage: stage.score)
    generator = result.generator_of(best.name)
    assert generator is not None
    return generator


def compare(seed: int, folder: Path) -> Row:
    """Make the three runs of a seed."""
    world = HouseTermsWorld(seed, sizes=QUICK_SCALE.sizes)
    half = train(world, world.train[: len(world.train) // 2], embedded_generator(), folder / f"half-{seed}")
    on = train(world, world.train, last_generator(half), folder / f"on-{seed}")
    calls = half.spent.actor_calls + on.spent.actor_calls
    longer = RECIPE.with_rounds(ROUNDS)
    base = train(world, world.train, embedded_generator(), folder / f"base-{seed}", longer, calls)
    return Row(
        seed,
        half.best.score,
        on.stage("adapter").score,
        on.best.score,
        base.best.score,
        calls,
        base.spent.actor_calls,
    )


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[50, 51, 52])
    parser.add_argument("--folder", type=Path, default=Path("runs/going-on"))
    options = parser.parse_args()
    print("| seed | half | as it came | going on | base | calls, half and going on | calls, base |")
    print("|---|---|---|---|---|---|---|", flush=True)
    rows: list[Row] = []
    for seed in options.seeds:
        rows.append(row := compare(seed, options.folder))
        scores = " | ".join(f"{score:.3f}" for score in (row.half, row.came, row.going_on, row.base))
        print(f"| {seed} | {scores} | {row.calls:,} | {row.base_calls:,} |", flush=True)
    on, base = mean(row.going_on for row in rows), mean(row.base for row in rows)
    wins = sum(row.going_on > row.base for row in rows)
    better = "better than" if on > base else "worse than" if on < base else "as good as"
    print(
        f"\nGoing on scores {on:.3f}, the base {base:.3f}: {better} the base on average, better in {wins} of "
        f"{len(rows)} seeds."
    )


if __name__ == "__main__":
    main()
