"""`compare`: runs every contender on the same data, actor, metric and budget; resumes from its folder."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import dspy

from optimizers.comparison.contenders import CONTENDERS, Contender, ContenderLike
from optimizers.comparison.differences import measure_differences
from optimizers.comparison.find_contender import find_contender
from optimizers.comparison.leaderboard import NO_CHANGE, rank_rows
from optimizers.comparison.outcomes import SkippedContender, TrialOutcome
from optimizers.comparison.page import PAGE_FILE
from optimizers.comparison.result import COMPARISON_FILE, Comparison
from optimizers.comparison.setup import Budget, Problem, Resources
from optimizers.comparison.trial import Trial
from optimizers.core.events import EventBus
from optimizers.core.fingerprints import read_metric, read_program, warn_of_unread
from optimizers.core.interrupts import exit_on_interrupt
from optimizers.core.reward import Metric
from optimizers.core.run_folder import RunFolder
from optimizers.observe.progress import Display, build_views
from optimizers.rollouts.queries import query_id
from optimizers.sgt.recipe import Recipe
from optimizers.training.trainer import Trainer
from sgt_modules.errors import SetupError
from sgt_modules.generator import GeneratorLike
from sgt_modules.lms import PROPOSAL_TOKENS, LMLike, acting_as, check_lm, lm_named


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
    cluster: Callable[[dspy.Example], Hashable | None] | None = None,
) -> Comparison:
    """Compiles the program with every contender, and scores each result on the test set.

    Each contender gets the same LM (DSPy's, or the predictors' own), data and budget, once per seed, and a meter that
    starts at 0: answers that one contender paid for are not free for the next. The program itself stays unchanged.

    Each contender and seed has the folder `<log_dir>/<name>/seed-<n>`, which keeps every paid answer. A comparison that
    was interrupted resumes from there, and finished contenders do not run again. A contender that cannot run is in the
    table with the reason.

    Args:
        program: Any DSPy program. The contender `none`, which always runs, is this program.
        trainset: Examples from which a contender learns.
        valset: Examples on which it selects.
        testset: Examples on which its result is scored, once, at the end.
        metric: Any DSPy metric; see `SGTTeleprompter`.
        contenders: Names in `CONTENDERS`, `ABLATIONS` or `VARIANTS`, `Contender`s, or any `Teleprompter`s; all of
            `CONTENDERS` by default.
        seeds: A contender with random choices compiles once for each seed.
        budget: Maximum number of actor calls to compile one contender, or a `Budget` in dollars; None for no limit and
            the optimizers' default sizes.
        actor: The frozen LM, or its name: LiteLLM's, a model's folder, or `local:HUB_ID`. By default DSPy's, or the
            predictors' own.
        generator: The small model that SGT trains; without it, SGT is skipped.
        reflection_lm: The LM that writes instructions for COPRO, MIPROv2, SIMBA, GEPA, InferRules and TextGrad, or its
            name; without it, they are skipped. Its calls are counted, but not in the budget of actor calls.
        recipe: SGT's options; `Recipe()` by default.
        trainer: SGT's trainer; TRL with LoRA by default.
        embedder: Embeds examples for KNNFewShot; by default `embed_words`, which needs no model.
        num_threads: Number of concurrent program runs; DSPy's setting by default.
        log_dir: The comparison's folder; a fresh one under `runs/` by default.
        task: The title of the table.
        display_progress: False shows nothing; a function is called with a `Snapshot` periodically.
        version: Identifies code of the program or metric that cannot be read; see `SGTTeleprompter`.
        cluster: Returns what a test question shares with others, such as its document, or None; see `Problem`.

    Raises:
        SetupError: an argument cannot work, or two splits share an example; nothing has been paid for.
    """
    proposer = None if reflection_lm is None else lm_named(reflection_lm, max_new_tokens=PROPOSAL_TOKENS)
    resources = Resources(proposer, embedder, generator, trainer, recipe, num_threads)
    problem = Problem(program, metric, trainset, valset, testset, version, cluster)
    with acting_as(dspy.settings.lm if actor is None else lm_named(actor)):
        return compare_problems(
            dict.fromkeys(check_seeds(seeds), problem),
            contenders,
            budget=budget,
            resources=resources,
            log_dir=log_dir,
            task=task or type(program).__name__,
            display_progress=display_progress,
        )


def compare_problems(
    problems: Mapping[int, Problem],
    contenders: Sequence[ContenderLike] | None = None,
    *,
    budget: Budget | int | None = None,
    resources: Resources | None = None,
    log_dir: str | Path | None = None,
    task: str = "",
    settings: Mapping[str, object] | None = None,
    display_progress: Display = None,
) -> Comparison:
    """Compares as `compare` does, with a separate problem for each seed; the table covers the examples of all seeds.

    `settings` are recorded in the folder's `run.json`; a resumed comparison must have the same settings.
    """
    selection, budget, resources = _find_contenders(contenders), Budget.of(budget), resources or Resources()
    limits = budget.limits
    for problem in problems.values():
        problem.check(in_dollars=limits.cost_usd is not None)
    check_lm(resources.reflection_lm)
    bus = EventBus(build_views(display_progress))
    folder = RunFolder.create(log_dir)
    with folder.lock(), bus.run(), exit_on_interrupt(bus.say):
        folder.begin_or_resume({"comparison": task, **(settings or {})})
        trials = {
            each.name: [
                Trial(each, problem, seed, folder, budget, resources, bus) for seed, problem in problems.items()
            ]
            for each in selection
        }
        _say_unread(problems.values(), bus)
        for trial in (each for own in trials.values() for each in own):
            trial.check_folder()
        results = [_run_trials(own) for own in trials.values()]
        skipped = [each for each in results if isinstance(each, SkippedContender)]
        outcomes = [outcome for each in results if not isinstance(each, SkippedContender) for outcome in each]
        clusters = _find_clusters(problems.values())
        rows = rank_rows(outcomes, skipped, clusters=clusters)
        differences = tuple(measure_differences(outcomes, clusters))
        result = Comparison(task, budget.words, tuple(problems), tuple(rows), folder.path, differences)
        folder.write(COMPARISON_FILE, result.content())
        result.to_html(folder.path / PAGE_FILE)
    return result


def _find_clusters(problems: Iterable[Problem]) -> dict[str, Hashable | None]:
    """Returns the cluster of each test example by its id; two problems, such as two worlds, share no cluster."""
    found: dict[str, Hashable | None] = {}
    for number, problem in enumerate({id(each): each for each in problems}.values()):
        for example, cluster in zip(problem.testset, problem.find_clusters(problem.testset), strict=True):
            found.setdefault(query_id(example, ""), None if cluster is None else (number, cluster))
    return found


def _say_unread(problems: Iterable[Problem], bus: EventBus) -> None:
    """Reports once which parts of a program or metric cannot be read, if no version identifies them."""
    for problem in problems:
        unread = [*read_program(problem.program).unread, *read_metric(problem.metric).unread]
        if unread and not problem.version:
            bus.say(warn_of_unread(unread))
            return


def _run_trials(trials: Sequence[Trial]) -> list[TrialOutcome] | SkippedContender:
    """Runs one contender's trials, one per seed; skips the contender if it cannot run with one of the seeds."""
    outcomes: list[TrialOutcome] = []
    for trial in trials:
        is_repetition = bool(outcomes) and not trial.contender.seeded and trial.problem is trials[0].problem
        outcome = outcomes[0] if is_repetition else trial.run()
        if isinstance(outcome, SkippedContender):
            return outcome
        outcomes.append(replace(outcome, seed=trial.seed))
    return outcomes


def _find_contenders(contenders: Sequence[ContenderLike] | None) -> list[Contender]:
    """Returns the contenders, with `none` first unless it is among them; raises `SetupError` if two share a name."""
    selection = [find_contender(each) for each in (CONTENDERS if contenders is None else contenders)]
    if NO_CHANGE not in {each.name for each in selection}:
        selection.insert(0, CONTENDERS[NO_CHANGE])
    names = [each.name for each in selection]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise SetupError(
            f"Two contenders are called {', '.join(repeated)}. Give each a name: Contender(name, compile)."
        )
    return selection


def check_seeds(seeds: Sequence[int]) -> Sequence[int]:
    """Returns the seeds; raises `SetupError` if there are none, or one twice."""
    if not seeds or len(set(seeds)) < len(seeds):
        raise SetupError(f"Expected at least one seed, each only once, got {list(seeds)}.")
    return seeds
