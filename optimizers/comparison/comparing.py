"""`compare`: every contender on the same data, actor, metric and budget, each in a folder that outlives a crash."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import dspy

from optimizers.comparison.contenders import CONTENDERS, Contender, ContenderLike
from optimizers.comparison.leaderboard import NONE, rank_rows
from optimizers.comparison.naming import contender_of
from optimizers.comparison.outcomes import Outcome, Skipped
from optimizers.comparison.page import FILE as PAGE
from optimizers.comparison.result import FILE, Comparison
from optimizers.comparison.setup import Budget, Means, Problem
from optimizers.comparison.trial import Arena
from optimizers.core.events import Reporter
from optimizers.core.fingerprints import read_metric, read_program, warn_of_unread
from optimizers.core.interrupts import exit_on_interrupt
from optimizers.core.prices import has_price
from optimizers.core.reward import Metric
from optimizers.core.run_folder import RunFolder
from optimizers.core.validation import check_program, check_splits
from optimizers.observe.progress import Display, reporter
from optimizers.session import check_judged
from optimizers.sgt.recipe import Recipe
from optimizers.training.trainer import Trainer
from sgt_modules.errors import SetupError
from sgt_modules.generator import GeneratorLike
from sgt_modules.lms import PROPOSAL_TOKENS, LMLike, acting_as, lm_named


def compare(
    program: dspy.Module,
    trainset: Sequence[dspy.Example],
    valset: Sequence[dspy.Example],
    testset: Sequence[dspy.Example],
    metric: Metric,
    contenders: Sequence[ContenderLike] | None = None,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    budget: Budget | int | None = None,
    actor: LMLike | None = None,
    generator: GeneratorLike | None = None,
    reflection_lm: LMLike | None = None,
    recipe: Recipe | None = None,
    trainer: Trainer | None = None,
    embedder: dspy.Embedder | None = None,
    num_threads: int | None = None,
    log_dir: str | Path | None = None,
    task: str = "",
    display_progress: Display = None,
    version: str = "",
) -> Comparison:
    """Compile the program with every contender and score each on the test set; the program itself stays as it was.

    Each contender gets the same LM (DSPy's, or the predictors' own), data and budget, once a seed, and a meter that
    begins at nought: what one asked is not free for the next. It is compiled in `<log_dir>/<name>/seed-<n>`, where
    each answer that was paid for is kept, so that a comparison which was cut short goes on; contenders that were
    finished are not run again. One that cannot run here is in the table, with the reason.

    Args:
        program: Any DSPy program. `none`, which is always among the contenders, is the program as it is.
        trainset: What a contender learns from.
        valset: What it chooses on.
        testset: What it is scored on, once, at the end.
        metric: Any DSPy metric; see `SGTTeleprompter`.
        contenders: Names of `CONTENDERS`, a `Contender`, or any `Teleprompter`; all of `CONTENDERS` by default.
        seeds: A contender that draws is compiled once for each.
        budget: Actor calls each contender may make while it is compiled, or a `Budget` in dollars; None for no limit,
            and DSPy's own sizes.
        actor: The frozen LM, or its name: LiteLLM's, a model's folder, or `local:HUB_ID`. By default DSPy's, or the
            predictors' own.
        generator: The small model that SGT trains; without one, SGT is skipped.
        reflection_lm: The LM that writes instructions for COPRO, MIPROv2, SIMBA, GEPA, InferRules and TextGrad, or its
            name; without one, they are skipped. Its calls are counted, but not in the budget of actor calls.
        recipe: SGT's options; `Recipe()` by default.
        trainer: SGT's trainer; TRL with LoRA by default.
        embedder: What KNNFewShot finds neighbours with; by default shared words, which needs no model.
        num_threads: Program runs at once; DSPy's setting by default.
        log_dir: The comparison's folder; a fresh one under `runs/` by default.
        task: The name that the table bears.
        display_progress: False is silence; a function is called with a `Snapshot` now and then.
        version: A word for code of program or metric that cannot be read; see `SGTTeleprompter`.

    Raises:
        SetupError: something passed in cannot work, or two splits share an example; nothing has been paid for.
    """
    proposer = None if reflection_lm is None else lm_named(reflection_lm, max_new_tokens=PROPOSAL_TOKENS)
    means = Means(proposer, embedder, generator, trainer, recipe, num_threads)
    problem = Problem(program, metric, trainset, valset, testset, version)
    with acting_as(dspy.settings.lm if actor is None else lm_named(actor)):
        return compare_problems(
            dict.fromkeys(_checked_seeds(seeds), problem),
            contenders,
            budget=budget,
            means=means,
            log_dir=log_dir,
            task=task or type(program).__name__,
            display_progress=display_progress,
        )


def compare_problems(
    problems: Mapping[int, Problem],
    contenders: Sequence[ContenderLike] | None = None,
    *,
    budget: Budget | int | None = None,
    means: Means | None = None,
    log_dir: str | Path | None = None,
    task: str = "",
    settings: Mapping[str, object] | None = None,
    display_progress: Display = None,
) -> Comparison:
    """As `compare`, for a task that is another one for each seed: the examples of all seeds are counted together.

    `settings` are recorded in the folder's `run.json`; a comparison that goes on must have the same.
    """
    wanted, budget, means = _checked(contenders), Budget.of(budget), means or Means()
    for problem in problems.values():
        _check(problem, budget)
    folder, view = RunFolder.create(None if log_dir is None else Path(log_dir)), reporter(display_progress)
    with folder.lock(), view.run(), exit_on_interrupt(view.say):
        folder.begin_or_resume({"comparison": task, **(settings or {})})
        arenas = {
            each.name: [Arena(each, problem, seed, folder, budget, means, view) for seed, problem in problems.items()]
            for each in wanted
        }
        _say_unread(problems.values(), view)
        for arena in (each for own in arenas.values() for each in own):
            arena.take_up()
        found = [_outcomes(own) for own in arenas.values()]
        skipped = [each for each in found if isinstance(each, Skipped)]
        rows = rank_rows([outcome for own in found if not isinstance(own, Skipped) for outcome in own], skipped)
        result = Comparison(task, budget.words, tuple(problems), tuple(rows), folder.path)
        folder.write(FILE, result.content())
        result.to_html(folder.path / PAGE)
    return result


def _say_unread(problems: Iterable[Problem], view: Reporter) -> None:
    """Say once what of a program or metric cannot be read, where no version stands for it."""
    for problem in problems:
        unread = [*read_program(problem.program).unread, *read_metric(problem.metric).unread]
        if unread and not problem.version:
            view.say(warn_of_unread(unread))
            return


def _outcomes(arenas: Sequence[Arena]) -> list[Outcome] | Skipped:
    """One contender's outcomes over the seeds; where it cannot run with one of them, it is out."""
    found: list[Outcome] = []
    for arena in arenas:
        same = None if arena.contender.seeded or not found or arena.problem is not arenas[0].problem else found[0]
        outcome = same or arena.outcome()
        if isinstance(outcome, Skipped):
            return outcome
        found.append(replace(outcome, seed=arena.seed))
    return found


def _checked(contenders: Sequence[ContenderLike] | None) -> list[Contender]:
    """The contenders themselves, no change first; raises `SetupError` where two have one name."""
    wanted = [contender_of(each) for each in (CONTENDERS if contenders is None else contenders)]
    if NONE not in {each.name for each in wanted}:
        wanted.insert(0, CONTENDERS[NONE])
    names = [each.name for each in wanted]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SetupError(f"Two contenders are called {', '.join(twice)}. Give each a name: Contender(name, compile).")
    return wanted


def _checked_seeds(seeds: Sequence[int]) -> list[int]:
    if not seeds or len(set(seeds)) < len(seeds):
        raise SetupError(f"Expected at least one seed and none twice, got {list(seeds)}.")
    return list(seeds)


def _check(problem: Problem, budget: Budget) -> None:
    """Everything that can be known to fail before anything is paid for."""
    check_splits(problem.trainset, problem.valset, problem.testset)
    check_program(problem.program, problem.trainset)
    check_judged(problem.program, problem.metric, problem.trainset[0])
    lms = {id(lm): lm for each in problem.program.predictors() if (lm := each.lm or dspy.settings.lm)}
    for lm in lms.values():
        if budget.usd is not None and not has_price(lm):
            raise SetupError(f"A budget in dollars needs a known price, and {lm.model} has none. Give actor calls.")
