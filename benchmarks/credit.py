"""Credit in a program of two predictors, of which one needs help: `isolate` and `joint`, on the embedded world.

    python benchmarks/credit.py            # eight seeds: about an hour and a half on two CPU cores
    python benchmarks/credit.py --seeds 0  # one seed: the table without a claim

Prints, for each seed and kind of credit, the actor's calls and the validation score after each stage, the test score,
and the length of both predictors' supplements; then `joint` minus `isolate`, paired by seed, with Student's t test and
the sentence that follows from it. DSPy's cache is on, in memory and empty at the start of each run: a
repeated call within a run, such as that of a fixed predictor, is not paid again.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import dspy
from rich.console import Console
from rich.table import Table

from optimizers import Recipe, SGTTeleprompter
from optimizers.comparison.seed_differences import ENOUGH_SEEDS, SEED_COLUMNS, SeedDifference, compare_figures
from optimizers.core.events import EventBus
from optimizers.core.fingerprints import scope_of
from optimizers.core.result import StageResult, result_of
from optimizers.core.reward import Scorer
from optimizers.demos.house_terms import TERMS_THREADS
from optimizers.rollouts.engine import RolloutEngine
from optimizers.rollouts.evaluation import Evaluator, mean_score
from optimizers.sgt.exploration import Credit
from optimizers.store.rollout_store import RolloutStore
from optimizers.training.embedded import embedded_trainer
from sgt_modules import supplement
from sgt_modules.embedded import QUICK, HouseTermsWorld, embedded_actor, embedded_generator
from sgt_modules.embedded.report import Report, ReportMetric, report_examples

RECIPE = Recipe(rounds=3, direct_samples=12, length_preference=0.25)
BAR = 0.9
"""The share of the best validation score of either way that counts as learned."""


@dataclass(frozen=True, slots=True)
class Learned:
    """One run: its stages, the test score before and after, and the mean supplement length a predictor (characters)."""

    credit: Credit
    stages: Sequence[StageResult]
    before: float
    after: float
    lengths: dict[str, float]

    def calls_to(self, score: float) -> int | None:
        """Return the actor calls until validation first reached a score."""
        return next((stage.spent.actor_calls for stage in self.stages if stage.score >= score), None)


def learn(seed: int, credit: Credit, folder: Path) -> Learned:
    """Compile the two-predictor program and score it on test."""
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
    world = HouseTermsWorld(seed, sizes=QUICK)
    train, val, test = (report_examples(split) for split in (world.train, world.val, world.test))
    metric = ReportMetric(world.database)
    teleprompter = SGTTeleprompter(
        metric=metric,
        generator=embedded_generator(),
        recipe=RECIPE,
        trainer=embedded_trainer(),
        credit=credit,
        num_threads=TERMS_THREADS,
        seed=seed,
        log_dir=folder,
    )
    adapter = dspy.ChatAdapter(use_json_adapter_fallback=False)
    with dspy.context(lm=embedded_actor(cache=True), adapter=adapter):
        result = result_of(teleprompter.compile(Report(), trainset=train, valset=val))
        wrapped = supplement(Report(), generator=embedded_generator())
        with RolloutStore(folder / "test.sqlite") as store:
            actor = RolloutEngine(wrapped, Scorer(metric), store, scope_of(wrapped, metric), num_threads=TERMS_THREADS)
            evaluator = Evaluator(actor, "test", test, EventBus())
            before = mean_score(evaluator.score_unaided())
            generator = result.generator_of(result.selected)
            if generator is None:
                return Learned(credit, result.stages, before, before, {})
            scored = evaluator.score("selected", generator)
    of_role: dict[str, list[int]] = {}
    for calls in scored.calls:
        for call in calls:
            of_role.setdefault(call.place.role, []).append(len(call.supplement.render()))
    lengths = {role: mean(written) for role, written in of_role.items()}
    return Learned(credit, result.stages, before, mean_score(scored.rollouts), lengths)


def main() -> None:
    """Run both ways on each seed, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(8)))
    seeds = parser.parse_args().seeds
    table = Table(
        title="Credit: one of two predictors needs help", caption=f"learned: {BAR:.0%} of the better one's best"
    )
    for column in (
        "seed",
        "credit",
        "validation by stage",
        "calls by stage",
        "calls till learned",
        "test",
        "main",
        "side",
    ):
        table.add_column(column)
    differences: list[float] = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            runs = [learn(seed, credit, Path(folder) / credit) for credit in ("isolate", "joint")]
        differences.append(runs[1].after - runs[0].after)
        bar = BAR * max(stage.score for run in runs for stage in run.stages)
        for run in runs:
            table.add_row(
                str(seed),
                run.credit,
                " ".join(f"{stage.score:.2f}" for stage in run.stages),
                " ".join(str(stage.spent.actor_calls) for stage in run.stages),
                str(run.calls_to(bar) or "never"),
                f"{run.before:.2f} -> {run.after:.2f}",
                *(f"{run.lengths.get(role, 0.0):.1f}" for role in ("main", "side")),
            )
    Console(width=150).print(table)
    for each in compare_figures({"joint minus isolate, test": differences}):
        print(" | ".join(f"{column} {cell}" for column, cell in zip(SEED_COLUMNS, each.cells, strict=True)))
        print(conclude(each))


def conclude(difference: SeedDifference) -> str:
    """Say what the test by seed shows."""
    return {
        "lower": "Credit to the predictor whose supplement varied (isolate) scores higher than joint credit here.",
        "higher": "Joint credit scores higher than credit to the predictor whose supplement varied (isolate) here.",
        "no difference": "No difference between isolate and joint is shown.",
        "too few seeds": f"Fewer than {ENOUGH_SEEDS} seeds, so nothing is claimed.",
    }[difference.shown]


if __name__ == "__main__":
    main()
