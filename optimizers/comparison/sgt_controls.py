"""Scores the controls of the `sgt` contender of a finished comparison, on any task."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import dspy

from optimizers.comparison.contenders import compile_sgt, make_arguments
from optimizers.comparison.control_rows import Controls
from optimizers.comparison.controls import KindsOn, controls
from optimizers.comparison.setup import Budget, Problem, Resources
from optimizers.comparison.summary import Leaks, contains_label, summarize_run
from optimizers.core.result import result_of
from optimizers.core.run_folder import RunFolder
from optimizers.observe.progress import Display

SGT_CONTROLS = ("untrained", "stages", "lookup", "small_model", "shuffled", "always")
"""The default controls of `score_sgt_controls`: those that need no other actor or examples and inform most."""


def score_sgt_controls(
    log_dir: Path,
    problem: Problem,
    *,
    task: str,
    seed: int,
    budget: Budget,
    resources: Resources,
    num_threads: int,
    names: Collection[str] = SGT_CONTROLS,
    kinds_on: KindsOn = "val",
    repeats: int = 1,
    leaks: Leaks = contains_label,
    display_progress: Display = None,
) -> Controls:
    """Scores the controls of a comparison's `sgt`, and writes `summary.json` into the folder of SGT's run.

    Resumes the finished run in `<log_dir>/sgt/seed-<seed>`, so nothing is trained or paid for again. Call it under the
    same LM. The controls `always` run on the validation set, the others on the test set; `lookup` chooses its
    number of neighbours on the validation set.
    """
    folder, calls = log_dir / "sgt" / f"seed-{seed}", budget.actor_calls
    compiled = compile_sgt(
        make_arguments(problem, resources, seed=seed, calls=calls, folder=folder, num_threads=num_threads)
    )
    scores = controls(
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
    content = summarize_run(result, scores, problem, task=task, seed=seed, actor=dspy.settings.lm.model, leaks=leaks)
    RunFolder(result.log_dir).write("summary.json", content)
    return scores
