"""A corrector's calls until a score on house rules: with a fixed brief (`p`), and with one that it rewrites.

    python benchmarks/spt_correctors.py              # seeds 0 to 4

Each run resumes round by round in one folder, which gives calls and scores after each round. Both correctors are the
simulated script, so this measures the value of a brief that names the topics of the mistakes, and the cost of writing
it, not how well a real LM would write one. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any, cast

from rich.console import Console
from rich.table import Table

from optimizers import SPTRecipe, SupervisoryPromptTeleprompter
from optimizers.demos.house_rules import RULES_THREADS
from optimizers.spt.recipe import Variant
from sgt_modules.embedded import acting
from sgt_modules.embedded.rules import HouseRulesWorld, RulesCorrector, list_program

ROUNDS = 14
REACHED = 0.9
"""The validation score to reach."""

VARIANTS: tuple[Variant, ...] = ("p", "pc")


@dataclass(frozen=True, slots=True)
class Point:
    """A run after a round: its best validation score, and its calls of corrector and actor."""

    score: float
    corrector_calls: int
    actor_calls: int


def course(seed: int, variant: Variant, folder: Path) -> list[Point]:
    """Yield the run after each round, until all answers are right or the rounds end."""
    world, points = HouseRulesWorld(seed), list[Point]()
    for rounds in range(1, ROUNDS + 1):
        teleprompter = SupervisoryPromptTeleprompter(
            world.metric,
            RulesCorrector(seed),
            recipe=replace(SPTRecipe(), variant=variant, rounds=rounds),
            num_threads=RULES_THREADS,
            seed=seed,
            log_dir=folder,
            display_progress=False,
        )
        with acting("rule-follower"):
            better = teleprompter.compile(list_program(world.instructions), trainset=world.train, valset=world.val)
        result = cast("Any", better).detailed_results
        points.append(Point(result.best.score, result.corrector.calls, result.spent.actor_calls))
        if points[-1].score >= REACHED:
            break
    return points


def main() -> None:
    """Run both correctors on each seed, and print their calls."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    seeds: Sequence[int] = parser.parse_args().seeds
    table = Table(title=f"Corrector calls to a validation score of {REACHED}")
    for column in ("seed", "corrector", "validation by round", "corrector calls", "actor calls"):
        table.add_column(column)
    took: dict[Variant, list[int]] = {variant: [] for variant in VARIANTS}
    missed: dict[Variant, int] = dict.fromkeys(VARIANTS, 0)
    for seed in seeds:
        for variant in VARIANTS:
            with tempfile.TemporaryDirectory() as folder:
                points = course(seed, variant, Path(folder))
            last = points[-1]
            reached = last.score >= REACHED
            took[variant].append(last.corrector_calls)
            missed[variant] += not reached
            shown = (f"{last.corrector_calls:,}", f"{last.actor_calls:,}")
            scores = " ".join(f"{point.score:.2f}" for point in points)
            table.add_row(
                str(seed), variant, scores, *(shown if reached else (f"{each}, not reached" for each in shown))
            )
    Console(width=120).print(table)
    calls = {variant: mean(each) for variant, each in took.items()}
    print(json.dumps({"corrector_calls": calls, "not_reached": missed, "pc_needs_fewer": calls["pc"] < calls["p"]}))


if __name__ == "__main__":
    main()
