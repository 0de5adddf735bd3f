"""`sgt bench`: a whole compile of SGT and its comparison on a task, with any actor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult

from optimizers.comparison import Budget, Comparison, Problem, compare_problems
from optimizers.comparison.conditions import Means
from optimizers.comparison.contenders import ContenderLike
from optimizers.comparison.embedded import SETTINGS
<<<<<<< HEAD
from optimizers.recipe import AUTO, Recipe
from optimizers.tasks.calling import EMBEDDED
=======
from optimizers.recipe import Recipe
from optimizers.tasks.calling import actor_of
>>>>>>> 3513da5 (An actor, a reflection LM and sgt's other LMs may be a folder or local:HUB_ID; their unreadable answers are not asked for again)
from optimizers.tasks.definition import Task
from optimizers.tasks.house_terms import TASK as HOUSE_TERMS
from optimizers.tasks.judge import Judge
from optimizers.training import Trainer
from optimizers.trl_trainer import TRLTrainer
from sgt_modules.embedded import embedded_generator
from sgt_modules.embedded.models import embedded_folder
from sgt_modules.generator import GeneratorLike
from sgt_modules.lms import EMBEDDED, PROPOSAL_TOKENS, LMLike, acting_as, lm_named

CONTENDERS = ("none", "sgt")
"""Who is compared where nobody else is named."""

_TOY = (
    "The generator is the embedded one, which knows house terms and little else: it shows that the way works. "
    "Name a real one for figures that mean something, such as Qwen/Qwen3-1.7B."
)


@dataclass(frozen=True)
class Bench:
    """A finished bench: the comparison, how the splits were drawn, and what is to be told of it. It prints as a table.

    `judge` tells of the judge LM where one judged: its model, how many answers it judged, and how far it agreed with
    exact match.
    """

    comparison: Comparison
    splits: Mapping[str, Any]
    notes: Sequence[str] = ()
    judge: Mapping[str, Any] | None = None

    def content(self) -> dict[str, Any]:
        """The bench as JSON holds it: a comparison's keys, with `splits`, `notes` and `judge`."""
        return {**self.comparison.content(), "splits": self.splits, "notes": list(self.notes), "judge": self.judge}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The comparison's table, then what is to be told."""
        yield self.comparison
        yield from self.notes
        if self.judge:
            yield "The judge: " + ", ".join(f"{name} {value}" for name, value in self.judge.items())


def run(
    task: Task,
    actor: LMLike,
    *,
    data_dir: str | Path | None = None,
    limit: int | None = None,
    contenders: Sequence[ContenderLike] = CONTENDERS,
    seeds: Sequence[int] = (0,),
    split_seed: int = 0,
    budget: Budget | int | None = None,
    generator: GeneratorLike = EMBEDDED,
    trainer: Trainer | None = None,
    recipe: Recipe | None = None,
    reflection_lm: LMLike | None = None,
    num_threads: int | None = None,
    log_dir: str | Path | None = None,
    display_progress: bool | None = None,
) -> Bench:
    """Compile the task's program with each contender for this actor, and score all on the same test questions.

    `actor` and `reflection_lm` are LMs or their names, as `lm_named` reads them; a model's folder and `local:HUB_ID`
    run in this process.

    Splits are drawn by `split_seed`, the same for all seeds, and recorded in the folder's `run.json`: a bench that goes
    on must have the same. `limit` cuts each of the three splits. With `generator="embedded"` the small model that comes
    with the package is trained; the recipe is `Recipe.auto(AUTO)` by default. The other arguments are those of
    `compare`.

    Raises:
        SetupError: something cannot work; nothing has been paid for.
    """
    lm = actor_of(actor, task) if isinstance(actor, str) else actor
    proposer = None if reflection_lm is None else lm_named(reflection_lm, max_new_tokens=PROPOSAL_TOKENS)
    splits = task.splits(data_dir, seed=split_seed, limit=limit)
    notes = list(splits.notes)
    problem = Problem(task.new_program(), task.metric, splits.train, splits.val, splits.test)
    if generator == EMBEDDED:
        generator, trainer = embedded_generator(), trainer or _small_trainer(task)
        notes += [_TOY] if task.name != HOUSE_TERMS.name else []
<<<<<<< HEAD
    means = Means(reflection_lm, None, generator, trainer, recipe or Recipe.auto(AUTO), num_threads)
    with _acting(actor):
=======
    means = Means(proposer, None, generator, trainer, recipe or Recipe.auto("light"), num_threads)
    with acting_as(lm):
>>>>>>> 3513da5 (An actor, a reflection LM and sgt's other LMs may be a folder or local:HUB_ID; their unreadable answers are not asked for again)
        found = compare_problems(
            dict.fromkeys(seeds, problem),
            contenders,
            budget=budget,
            means=means,
            log_dir=log_dir,
            task=task.name,
            settings={"splits": splits.record},
            display_progress=display_progress,
        )
    return Bench(found, splits.record, notes, _of_judge(task))


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
