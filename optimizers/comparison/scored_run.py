"""The `sgt` contender of a finished comparison: its controls on any task, and its `summary.json`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import dspy

from optimizers.comparison.bench import Bench
from optimizers.comparison.contenders import sgt, shuffled
from optimizers.comparison.control_rows import Controls
from optimizers.comparison.controls import KindsOn, controls
from optimizers.comparison.setup import Budget, Means, Problem
from optimizers.comparison.summary import (
    Leaks,
    kind_shares,
    label_in_supplement,
    leakage,
    paired_p_value,
    peak_memory,
    scores,
)
from optimizers.core.memory import MARK
from optimizers.core.records import Rollout
from optimizers.core.result import SGTResult, result_of
from optimizers.core.run_folder import RunFolder
from optimizers.observe.progress import Display

NAMES = ("untrained", "stages", "shuffled", "small_model", "always")
"""The controls of a bench: what they leave out needs another actor, other rows, or says little beside the others."""


def sgt_controls(
    log_dir: Path,
    problem: Problem,
    *,
    task: str,
    seed: int,
    budget: Budget,
    means: Means,
    num_threads: int,
    names: Collection[str] = NAMES,
    kinds_on: KindsOn = "val",
    repeats: int = 1,
    leaks: Leaks = label_in_supplement,
    display_progress: Display = None,
) -> Controls:
    """Score the controls of a comparison's `sgt`, and write `summary.json` into the run's own folder.

    The compile is read back from `<log_dir>/sgt/seed-<seed>`, so nothing is trained or paid for again. Call it under
    the same LM. Each kind always is scored on validation, where choices are made; the other rows are on test.
    """
    bench = Bench(
        program=problem.program,
        trainset=shuffled(problem.trainset, seed),
        valset=list(problem.valset),
        metric=problem.metric,
        seed=seed,
        calls=budget.actor_calls,
        folder=log_dir / "sgt" / f"seed-{seed}",
        num_threads=num_threads,
        generator=means.generator,
        trainer=means.trainer,
        recipe=means.recipe,
    )
    compiled = sgt(bench)
    found = controls(
        compiled,
        problem,
        num_threads=num_threads,
        names=names,
        kinds_on=kinds_on,
        repeats=repeats,
        leaks=leaks,
        seed=seed,
        display_progress=display_progress,
    )
    result = result_of(compiled)
    content = summary_of(result, found, problem, task=task, seed=seed, actor=dspy.settings.lm.model, leaks=leaks)
    RunFolder(result.log_dir).write("summary.json", content)
    return found


def summary_of(
    result: SGTResult,
    found: Controls,
    problem: Problem,
    *,
    task: str,
    seed: int,
    actor: str,
    leaks: Leaks = label_in_supplement,
) -> dict[str, Any]:
    """A compile and its controls in the public format of `docs/run-folder.md`: each stage on validation and test."""
    test = _stages_on_test(result, found)
    spent = result.spent
    told = {name: rollouts for name, rollouts in test.items() if name != "none"}
    scored: dict[str, dict[str, float]] = {name: scores({"test": rollouts}) for name, rollouts in test.items()}
    for stage in result.stages:
        scored[stage.name] = scores({"val": stage.rollouts}) | scored.get(stage.name, {})
    return {
        "task": task,
        "seed": seed,
        "actor": actor,
        "generator": result.generator.name,
        "splits": {"train": len(problem.trainset), "val": len(problem.valset), "test": len(problem.testset)},
        "scores": scored,
        "selected": result.selected,
        "p_value": {
            name: paired_p_value(test[name], found.scored["selected"]) for name in ("none", "sft") if name in test
        },
        "kinds": {name: kind_shares(rollouts) for name, rollouts in told.items()},
        "leakage": {name: leakage(rollouts, problem.testset, leaks) for name, rollouts in told.items()},
        "controls": {
            row.name: {"score": row.score, "gain": row.gain, "interval": row.gain_interval, "p_value": row.p_none}
            for row in found.rows
            if not row.skipped
        },
        "actor_calls": spent.actor_calls,
        "generator_calls": spent.generator_calls,
        "tokens": spent.tokens,
        "seconds": spent.seconds.rounded(),
        "peak_rss_mb": MARK.highest,
        "peak_mb": peak_memory(result.stages),
        "notes": list(result.notes),
    }


def _stages_on_test(result: SGTResult, found: Controls) -> Mapping[str, Sequence[Rollout]]:
    """No supplement, the untrained generator and every stage, of those that were scored on test."""
    names = dict.fromkeys(["none", "untrained", *(stage.name for stage in result.stages)])
    return {name: found.scored[name] for name in names if name in found.scored}
