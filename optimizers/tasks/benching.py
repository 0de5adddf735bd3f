"""`sgt bench`: a whole compile of SGT and its comparison on a task, with any actor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import dspy
from rich.console import Console, ConsoleOptions, RenderResult

from optimizers.comparison import Budget, Comparison, Controls, Problem, compare_problems
from optimizers.comparison.contenders import ContenderLike
from optimizers.comparison.scored_run import sgt_controls
from optimizers.comparison.setup import Means
from optimizers.comparison.summary import label_in_supplement
from optimizers.sgt.recipe import AUTO, Recipe
from optimizers.tasks.calling import actor_of
from optimizers.tasks.definition import Task
from optimizers.tasks.house_terms import TASK as HOUSE_TERMS
from optimizers.tasks.judge import Judge
from optimizers.training.embedded import SETTINGS
from optimizers.training.trainer import ON_A_CPU, Trainer
from optimizers.training.trl_trainer import TRLTrainer
from sgt_modules.embedded import embedded_generator
from sgt_modules.embedded.models import embedded_folder
from sgt_modules.generator import GeneratorLike, SupplementGenerator
from sgt_modules.lms import EMBEDDED, LOCAL, PROPOSAL_TOKENS, LMLike, acting_as, lm_named
from sgt_modules.local.engine import LocalEngine
from sgt_modules.local.loading import bfloat16_is_fast, on_cpu

CONTENDERS = ("none", "sgt")
"""The contenders by default with the embedded generator."""

REAL_CONTENDERS = (*CONTENDERS, "labeled_fewshot", "bootstrap_fewshot", "knn_fewshot")
"""The contenders by default with a generator of your own: those that need neither another LM nor another package."""

QUICK_LIMIT, QUICK_RECIPE = 24, Recipe(rounds=1, warm_samples=1, pool_samples=1, concat=1, direct_samples=4)
"""Examples in each split, and SGT's options, of a run that only shows the whole way."""

_TOY = (
    "The generator is the embedded one, which knows house terms and little else: it shows that the way works. "
    "Name a real one for figures that mean something, such as Qwen/Qwen3-1.7B."
)


@dataclass(frozen=True)
class Bench:
    """A finished bench: the comparison, how the splits were drawn, and what is to be told of it. It prints as a table.

    `judge` tells of the judge LM where one judged: its model, how many answers it judged, and how far it agreed with
    exact match. `controls` are those of SGT, a seed each, where they were asked for.
    """

    comparison: Comparison
    splits: Mapping[str, Any]
    notes: Sequence[str] = ()
    judge: Mapping[str, Any] | None = None
    controls: Sequence[Controls] = ()

    def content(self) -> dict[str, Any]:
        """The bench as JSON holds it: a comparison's keys, with `splits`, `notes`, `judge`, and `controls` a seed."""
        more = {"controls": [each.content() for each in self.controls]} if self.controls else {}
        told = {"splits": self.splits, "notes": list(self.notes), "judge": self.judge}
        return {**self.comparison.content(), **told, **more}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The comparison's table, then what is to be told."""
        yield self.comparison
        yield from self.controls
        yield from self.notes
        if self.judge:
            yield "The judge: " + ", ".join(f"{name} {value}" for name, value in self.judge.items())


def run(
    task: Task,
    actor: LMLike,
    *,
    data_dir: str | Path | None = None,
    limit: int | None = None,
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
) -> Bench:
    """Compile the task's program with each contender for this actor, and score all on the same test questions.

    `actor` and `reflection_lm` are LMs or their names, as `lm_named` reads them; a model's folder and `local:HUB_ID`
    run in this process.

    Splits are drawn by `split_seed`, the same for all seeds, and recorded in the folder's `run.json`: a bench that goes
    on must have the same. `limit` cuts each of the three splits. With `generator="embedded"` the small model that comes
    with the package is trained; the recipe is `Recipe.auto(AUTO)` by default. The contenders are by default
    `CONTENDERS`, or with a generator of your own `REAL_CONTENDERS`; their training examples hold the task's gold
    outputs, which SGT's prompts never do. `controls` scores SGT's controls too, each kind always on validation, and
    writes `summary.json` into the folder of SGT's run. `quick` is `QUICK_LIMIT` and `QUICK_RECIPE`. The other arguments
    are those of `compare`.

    Raises:
        SetupError: something cannot work; nothing has been paid for.
    """
    lm = actor_of(actor, task) if isinstance(actor, str) else actor
    proposer = None if reflection_lm is None else lm_named(reflection_lm, max_new_tokens=PROPOSAL_TOKENS)
    splits = task.splits(data_dir, seed=split_seed, limit=QUICK_LIMIT if quick and limit is None else limit)
    problem = Problem(task.new_program(), task.metric, _labeled(task, splits.train), splits.val, splits.test)
    toy = generator == EMBEDDED
    small, trainer = _trained(task, generator, trainer)
    recipe = recipe or (QUICK_RECIPE if quick else Recipe.auto(AUTO))
    means = Means(proposer, None, small, trainer, recipe, num_threads)
    with acting_as(lm):
        found = compare_problems(
            dict.fromkeys(seeds, problem),
            (CONTENDERS if toy else REAL_CONTENDERS) if contenders is None else contenders,
            budget=budget,
            means=means,
            log_dir=log_dir,
            task=task.name,
            settings={"splits": splits.record},
            display_progress=display_progress,
        )
        tried = controls and any(row.name == "sgt" and not row.skipped for row in found.rows)
        scored = [
            sgt_controls(
                found.log_dir,
                problem,
                task=task.name,
                seed=seed,
                budget=Budget.of(budget),
                means=means,
                num_threads=num_threads or dspy.settings.num_threads,
                leaks=partial(_gold_in, task),
                display_progress=display_progress,
            )
            for seed in (seeds if tried else ())
        ]
    notes = [*splits.notes, *([_TOY] if toy and task.name != HOUSE_TERMS.name else [])]
    return Bench(found, splits.record, notes, _of_judge(task), scored)


def _labeled(task: Task, examples: Sequence[dspy.Example]) -> list[dspy.Example]:
    """The examples with the task's gold outputs, which few-shot contenders show; inputs stay what they were."""
    if not task.shows_gold:
        return list(examples)
    return [
        example.copy(**{name: value for name, value in task.golden(example).items() if name not in example})
        for example in examples
    ]


def _gold_in(task: Task, example: dspy.Example, supplement: str) -> bool:
    """Whether a supplement holds one of the example's gold outputs as whole words."""
    return label_in_supplement(dspy.Example(**dict(task.golden(example).items())).with_inputs(), supplement)


def _trained(task: Task, generator: GeneratorLike, trainer: Trainer | None) -> tuple[GeneratorLike, Trainer | None]:
    """The generator, and a trainer that suits it where none is given."""
    if generator == EMBEDDED:
        return embedded_generator(), trainer or _small_trainer(task)
    if not isinstance(generator, (str, Path)):
        return generator, trainer
    model = str(generator).removeprefix(LOCAL)
    LocalEngine(model).check()
    halved = on_cpu("auto") and bfloat16_is_fast()
    settings = replace(ON_A_CPU, bf16=halved) if on_cpu("auto") else None
    sampler = SupplementGenerator(model, dtype="bfloat16" if halved else "auto")
    return sampler, trainer or TRLTrainer(model, settings)


def _small_trainer(task: Task) -> TRLTrainer:
    """What suits the embedded generator; other texts than its own it reads letter by letter, so rows are long."""
    letters = replace(SETTINGS, sft_epochs=3, dpo_epochs=1, max_length=4096, batch_size=8)
    return TRLTrainer(embedded_folder("generator"), SETTINGS if task.name == HOUSE_TERMS.name else letters)


def _of_judge(task: Task) -> dict[str, Any] | None:
    if not isinstance(task.metric, Judge):
        return None
    found = task.metric.agreement
    return {
        "model": task.metric.lm.model,
        "unread": task.metric.unread,
        "answers": found.answers if found else 0,
        "agrees_with_exact_match": found.share if found else None,
        "kappa": found.kappa if found else None,
    }
