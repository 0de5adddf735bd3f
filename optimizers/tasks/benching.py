"""Compiles a task's program with SGT and other contenders for any actor, and compares them (`sgt bench`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import dspy
from rich.console import Console, ConsoleOptions, RenderResult

from optimizers.comparison import Budget, Comparison, Controls, Problem, compare_problems
from optimizers.comparison.comparing import check_seeds
from optimizers.comparison.contenders import ContenderLike
from optimizers.comparison.setup import Resources
from optimizers.comparison.sgt_controls import score_sgt_controls
from optimizers.comparison.summary import contains_label
from optimizers.sgt.recipe import AUTO, Recipe
from optimizers.tasks.calling import load_actor
from optimizers.tasks.definition import Task
from optimizers.tasks.house_terms import HOUSE_TERMS
from optimizers.tasks.judge import Judge
from optimizers.tasks.splitting import Sizes
from optimizers.training.embedded import SETTINGS
from optimizers.training.trainer import ON_A_CPU, Trainer
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules.embedded import embedded_generator
from sgt_modules.embedded.models import embedded_folder
from sgt_modules.generator import GeneratorLike, SupplementGenerator
from sgt_modules.lms import EMBEDDED, PROPOSAL_TOKENS, LMLike, acting_as, lm_named
from sgt_modules.local.devices import bfloat16_is_fast, runs_on_cpu
from sgt_modules.local.engine import LocalEngine

EMBEDDED_CONTENDERS = ("none", "sgt")
"""The default contenders with the embedded generator."""

REAL_CONTENDERS = (*EMBEDDED_CONTENDERS, "labeled_fewshot", "bootstrap_fewshot", "knn_fewshot")
"""The default contenders with your own generator: those that need neither another LM nor another package."""

QUICK_LIMIT, QUICK_RECIPE = 24, Recipe(rounds=1, warm_samples=1, pool_samples=1, concat=1, direct_samples=4)
"""Examples per split, and SGT's options, for a run that only shows that every step works."""

_EMBEDDED_NOTE = (
    "The embedded generator knows house terms and little else: this bench only shows that every step works. "
    "Name a real generator for meaningful figures, such as Qwen/Qwen3-1.7B."
)


@dataclass(frozen=True)
class BenchResult:
    """The comparison of a bench, how its splits were drawn, and notes for the reader. It prints as a table.

    `judge` describes the judge LM, if one judged: its model, how many answers it judged, and how often it agreed with
    exact match. `controls` holds SGT's controls, one entry per seed, if they were requested.
    """

    comparison: Comparison
    splits: Mapping[str, Any]
    notes: Sequence[str] = ()
    judge: Mapping[str, Any] | None = None
    controls: Sequence[Controls] = ()

    def content(self) -> dict[str, Any]:
        """Return the JSON form: a comparison's keys, with `splits`, `notes`, `judge`, and `controls` per seed."""
        more = {"controls": [each.content() for each in self.controls]} if self.controls else {}
        details = {"splits": self.splits, "notes": list(self.notes), "judge": self.judge}
        return {**self.comparison.content(), **details, **more}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Show the comparison's table, then the controls, the notes and the judge."""
        yield self.comparison
        yield from self.controls
        yield from self.notes
        if self.judge:
            yield "The judge: " + ", ".join(f"{name} {value}" for name, value in self.judge.items())


def run_bench(
    task: Task,
    actor: LMLike,
    *,
    data_dir: str | Path | None = None,
    limit: Sizes | int | None = None,
    contenders: Sequence[ContenderLike] | None = None,
    seeds: Sequence[int] = (0,),
    split_seed: int = 0,
    budget: Budget | int | None = None,
    generator: GeneratorLike = EMBEDDED,
    trainer: Trainer | None = None,
    recipe: Recipe | None = None,
    reflection_lm: LMLike | None = None,
    controls: bool = False,
    quick: bool = False,
    num_threads: int | None = None,
    log_dir: str | Path | None = None,
    display_progress: bool | None = None,
) -> BenchResult:
    """Compile the task's program with each contender for this actor, and score all on the same test questions.

    `actor` and `reflection_lm` are LMs or names that `lm_named` reads; a model's folder and `local:HUB_ID` run in this
    process.

    Splits are drawn by `split_seed`, are the same for all seeds, and are recorded in the folder's `run.json`; resuming
    a bench needs the same splits. `limit` is the maximum size of each split, or `Sizes` of the
    three. `generator="embedded"` trains the small
    model that comes with the package. The recipe is `Recipe.auto(AUTO)` by default. The contenders are
    `EMBEDDED_CONTENDERS` by default, or `REAL_CONTENDERS` with your own generator; their training examples hold the
    task's gold outputs, which SGT's prompts never show. `controls` also scores SGT's controls (each kind by itself runs
    on validation), and writes `summary.json` into the folder of SGT's run. `quick` applies `QUICK_LIMIT` and
    `QUICK_RECIPE`. The other arguments are those of `compare`.

    Raises:
        SetupError: the settings cannot work; no call has been paid.
    """
    seeds = check_seeds(seeds)
    lm = load_actor(actor, task) if isinstance(actor, str) else actor
    proposer = None if reflection_lm is None else lm_named(reflection_lm, max_new_tokens=PROPOSAL_TOKENS)
    splits = task.splits(data_dir, seed=split_seed, limit=QUICK_LIMIT if quick and limit is None else limit)
    trainset = _add_gold_outputs(task, splits.train)
    problem = Problem(task.new_program(), task.metric, trainset, splits.val, splits.test, cluster=task.cluster)
    is_embedded = generator == EMBEDDED
    small_model, trainer = _choose_generator(task, generator, trainer)
    recipe = recipe or (QUICK_RECIPE if quick else Recipe.auto(AUTO))
    resources = Resources(proposer, None, small_model, trainer, recipe, num_threads)
    with acting_as(lm):
        comparison = compare_problems(
            dict.fromkeys(seeds, problem),
            (EMBEDDED_CONTENDERS if is_embedded else REAL_CONTENDERS) if contenders is None else contenders,
            budget=budget,
            resources=resources,
            log_dir=log_dir,
            task=task.name,
            settings={"splits": splits.record},
            display_progress=display_progress,
        )
        has_sgt = controls and any(row.name == "sgt" and not row.skipped for row in comparison.rows)
        sgt_scores = [
            score_sgt_controls(
                comparison.log_dir,
                problem,
                task=task.name,
                seed=seed,
                budget=Budget.of(budget),
                resources=resources,
                num_threads=num_threads or dspy.settings.num_threads,
                leaks=partial(_leaks_gold, task),
                display_progress=display_progress,
            )
            for seed in (seeds if has_sgt else ())
        ]
    notes = [*splits.notes, *([_EMBEDDED_NOTE] if is_embedded and task.name != HOUSE_TERMS.name else [])]
    return BenchResult(comparison, splits.record, notes, _summarize_judge(task), sgt_scores)


def _add_gold_outputs(task: Task, examples: Sequence[dspy.Example]) -> list[dspy.Example]:
    """Return the examples with the task's gold outputs, which few-shot contenders show; inputs stay unchanged."""
    if not task.shows_gold:
        return list(examples)
    return [
        example.copy(**{name: value for name, value in task.gold_prediction(example).items() if name not in example})
        for example in examples
    ]


def _leaks_gold(task: Task, example: dspy.Example, supplement: str) -> bool:
    """Return whether a supplement holds one of the example's gold outputs as whole words."""
    return contains_label(dspy.Example(**dict(task.gold_prediction(example).items())).with_inputs(), supplement)


def _choose_generator(
    task: Task, generator: GeneratorLike, trainer: Trainer | None
) -> tuple[GeneratorLike, Trainer | None]:
    """Return the generator, and a trainer that suits it if none is given."""
    if generator == EMBEDDED:
        return embedded_generator(), trainer or _embedded_trainer(task)
    if not isinstance(generator, (str, Path)):
        return generator, trainer
    model = LocalEngine(generator)
    model.check()
    uses_bfloat16 = runs_on_cpu("auto") and bfloat16_is_fast()
    settings = replace(ON_A_CPU, bf16=uses_bfloat16) if runs_on_cpu("auto") else None
    sampler = SupplementGenerator(model.model, dtype="bfloat16" if uses_bfloat16 else "auto")
    return sampler, trainer or TRLTrainer(model.model, settings)


def _embedded_trainer(task: Task) -> TRLTrainer:
    """Return a trainer for the embedded generator.

    The generator reads texts of other tasks letter by letter, so their rows are long.
    """
    letters = replace(SETTINGS, sft_epochs=3, dpo_epochs=1, max_length=4096, batch_size=8)
    return TRLTrainer(embedded_folder("generator"), SETTINGS if task.name == HOUSE_TERMS.name else letters)


def _summarize_judge(task: Task) -> dict[str, Any] | None:
    """Return the judge LM, its number of answers and its agreement with exact match; None without a judge."""
    if not isinstance(task.metric, Judge):
        return None
    agreement = task.metric.agreement
    return {
        "model": task.metric.lm.model,
        "unread": task.metric.unread,
        "answers": agreement.answers if agreement else 0,
        "agrees_with_exact_match": agreement.share if agreement else None,
        "kappa": agreement.kappa if agreement else None,
    }
