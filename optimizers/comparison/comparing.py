"""`compare`: every contender on the same data, actor, metric and budget, each in a folder that outlives a crash."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import dspy
from dspy.utils import exceptions

from optimizers.budget import Limits
from optimizers.comparison.contenders import CONTENDERS, Bench, Contender, ContenderLike, shuffled
from optimizers.comparison.metering import Metering, unmetered
from optimizers.comparison.naming import contender_of
from optimizers.comparison.outcomes import FILE, Cost, Outcome, Skipped
from optimizers.comparison.result import Comparison
from optimizers.comparison.standing import NONE, standing
from optimizers.fingerprints import fingerprint, scope_of
from optimizers.folder import RunFolder
from optimizers.judging import JudgedRun, judged_run
from optimizers.prices import priced
from optimizers.progress import Reporter, reporter
from optimizers.queries import query_id
from optimizers.recipe import Recipe
from optimizers.result import SGTResult, Spent
from optimizers.reward import Metric, Scorer, check_metric
from optimizers.session import output_fields
from optimizers.training import Trainer
from optimizers.validation import check_program, check_splits
from sgt_modules.errors import ProviderRefusedError, SetupError, StoppedError
from sgt_modules.generator import GeneratorLike, SupplementGenerator

ATTEMPTS = 3
"""How often a test example is run until it has a score."""

ALONE = 5
"""Test examples that are run one after another, to see how long an answer takes when nothing else is asked."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A program to better, the metric that judges it, and three splits that share no example.

    The training set is to learn from, the validation set to choose on, and the test set is used once, at the end.
    """

    program: dspy.Module
    metric: Metric
    trainset: Sequence[dspy.Example]
    valset: Sequence[dspy.Example]
    testset: Sequence[dspy.Example]


@dataclass(frozen=True, slots=True)
class Budget:
    """What each contender may spend on the actor while it is compiled: calls, dollars, or without end.

    >>> Budget(actor_calls=1000).words
    '1,000 actor calls'
    """

    actor_calls: int | None = None
    usd: float | None = None

    @property
    def words(self) -> str:
        """The budget as a person reads it."""
        if self.actor_calls is not None:
            return f"{self.actor_calls:,} actor calls"
        return "no limit" if self.usd is None else f"${self.usd:,.2f}"

    @property
    def limits(self) -> Limits:
        """What the meter keeps to."""
        return Limits(self.actor_calls, self.usd)

    @staticmethod
    def of(budget: Budget | int | None) -> Budget:
        """A number is one of actor calls."""
        return budget if isinstance(budget, Budget) else Budget(budget)


@dataclass(frozen=True)
class Means:
    """What the contenders may use besides the program's LM; see `compare`."""

    reflection_lm: dspy.LM | None = None
    embedder: dspy.Embedder | None = None
    generator: GeneratorLike | None = None
    trainer: Trainer | None = None
    recipe: Recipe | None = None
    num_threads: int | None = None


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
    generator: GeneratorLike | None = None,
    reflection_lm: dspy.LM | None = None,
    recipe: Recipe | None = None,
    trainer: Trainer | None = None,
    embedder: dspy.Embedder | None = None,
    num_threads: int | None = None,
    log_dir: str | Path | None = None,
    task: str = "",
    display_progress: bool | None = None,
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
        generator: The small model that SGT trains; without one, SGT is skipped.
        reflection_lm: The LM that writes instructions for COPRO, MIPROv2, SIMBA, GEPA, InferRules and TextGrad; without
            one, they are skipped. Its calls are counted, but not in the budget of actor calls.
        recipe: SGT's options; `Recipe()` by default.
        trainer: SGT's trainer; TRL with LoRA by default.
        embedder: What KNNFewShot finds neighbours with; by default shared words, which needs no model.
        num_threads: Program runs at once; DSPy's setting by default.
        log_dir: The comparison's folder; a fresh one under `runs/` by default.
        task: The name that the table bears.
        display_progress: False is silence.

    Raises:
        SetupError: something passed in cannot work, or two splits share an example; nothing has been paid for.
    """
    means = Means(reflection_lm, embedder, generator, trainer, recipe, num_threads)
    problem = Problem(program, metric, trainset, valset, testset)
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
    display_progress: bool | None = None,
) -> Comparison:
    """As `compare`, for a task that is another one for each seed: the examples of all seeds are counted together."""
    wanted, budget, means = _checked(contenders), Budget.of(budget), means or Means()
    for problem in problems.values():
        _check(problem, budget)
    folder, view = RunFolder.at(None if log_dir is None else Path(log_dir)), reporter(display_progress)
    with folder.held():
        folder.take_up({"comparison": task})
        arenas = {
            each.name: [_Arena(each, problem, seed, folder, budget, means, view) for seed, problem in problems.items()]
            for each in wanted
        }
        for arena in (each for own in arenas.values() for each in own):
            arena.take_up()
        found = [_outcomes(own) for own in arenas.values()]
        skipped = [each for each in found if isinstance(each, Skipped)]
        rows = standing([outcome for own in found if not isinstance(own, Skipped) for outcome in own], skipped)
        result = Comparison(task, budget.words, tuple(problems), tuple(rows), folder.path)
        folder.write("comparison.json", result.content())
    return result


def _outcomes(arenas: Sequence[_Arena]) -> list[Outcome] | Skipped:
    """One contender's outcomes over the seeds; where it cannot run with one of them, it is out."""
    found: list[Outcome] = []
    for arena in arenas:
        same = None if arena.contender.seeded or not found or arena.problem is not arenas[0].problem else found[0]
        outcome = same or arena.outcome()
        if isinstance(outcome, Skipped):
            return outcome
        found.append(replace(outcome, seed=arena.seed))
    return found


@dataclass(frozen=True)
class _Arena:
    """One contender with one seed, in its folder."""

    contender: Contender
    problem: Problem
    seed: int
    home: RunFolder
    budget: Budget
    means: Means
    view: Reporter

    def take_up(self) -> None:
        """Raise `RunFolderError` where the folder holds the same contender under other conditions."""
        problem, needs, means = self.problem, self.contender.needs, self.means
        splits = (problem.trainset, problem.valset, problem.testset)
        settings: dict[str, object] = {
            "scope": scope_of(problem.program, problem.metric),
            "data": [fingerprint(split) for split in splits],
            "budget": self.budget.words,
        }
        if "proposer" in needs:
            settings["reflection_lm"] = getattr(means.reflection_lm, "model", None)
        if "generator" in needs and means.generator is not None:
            settings["generator"] = SupplementGenerator.of(means.generator).identity
            settings["recipe"] = None if means.recipe is None else means.recipe.recorded
        self._folder.take_up(settings)

    @property
    def _folder(self) -> RunFolder:
        return RunFolder.at(self.home.path / self.contender.name / f"seed-{self.seed}")

    def outcome(self) -> Outcome | Skipped:
        """What it came to: known already, or found out now."""
        folder = self._folder
        if (known := folder.read(FILE)) is not None:
            return Outcome.read(known, folder.path / FILE)
        metering = Metering(folder.path / "answers.sqlite", self.budget.limits)
        try:
            found = self._found(folder, metering)
        finally:
            metering.close()
        if isinstance(found, Outcome):
            folder.write(FILE, found.content())
        return found

    def _found(self, folder: RunFolder, metering: Metering) -> Outcome | Skipped:
        bench = self._bench(folder, metering)
        if reason := bench.missing(self.contender.needs):
            return Skipped(self.contender.name, reason)
        with metering.acting(bench.program) as program, _aside(folder):
            try:
                with _clocked(folder) as seconds, self._stage("compiling", 1):
                    compiled = self.contender.compile(replace(bench, program=program))
            except StoppedError:
                return self._out(f"used up its budget of {self.budget.words} before it had a program")
            except Exception as problem:  # noqa: BLE001 - whatever an optimizer raises, the other contenders go on
                if metering.used_up:
                    return self._out(f"used up its budget of {self.budget.words} before it had a program")
                return self._out(f"failed ({type(problem).__name__}: {str(problem).partition(chr(10))[0][:200]})")
            with contextlib.suppress(Exception):  # some programs, KNNFewShot's for one, are more than their state
                unmetered(compiled.deepcopy()).save(str(folder.path / "program.json"))
            compiling = _compiling(metering, compiled, seconds())
            metering.test()
            return self._tested(compiled, metering, compiling)

    def _out(self, reason: str) -> Skipped:
        return Skipped(self.contender.name, f"seed {self.seed}: {reason}")

    def _tested(self, program: dspy.Module, metering: Metering, compiling: Cost) -> Outcome:
        examples, scorer, began = list(self.problem.testset), Scorer(self.problem.metric), time.perf_counter()
        with self._stage("test", len(examples)) as tick:

            def work(index: int) -> JudgedRun:
                run = _answered(program, examples[index], index, scorer)
                tick(run)
                return run

            runs = [work(index) for index in range(min(ALONE, len(examples)))]
            alone = [run.meter.seconds for run in runs]
            runs += _in_threads(work, range(len(runs), len(examples)), self._threads)
        paid = metering.spent("test")
        answering = Cost(
            actor_calls=paid.calls,
            actor_in=paid.tokens_in,
            actor_out=paid.tokens_out,
            generator_in=sum(run.written[0] for run in runs),
            generator_out=sum(run.written[1] for run in runs),
            usd=paid.cost,
            seconds=time.perf_counter() - began,
        )
        scores = {query_id(example, ""): _score(run) for example, run in zip(examples, runs, strict=True)}
        return Outcome(self.contender.name, self.seed, scores, compiling, answering, median(alone))

    def _bench(self, folder: RunFolder, metering: Metering) -> Bench:
        means, lm = self.means, self.means.reflection_lm
        return Bench(
            program=self.problem.program,
            trainset=shuffled(self.problem.trainset, self.seed),
            valset=list(self.problem.valset),
            metric=self.problem.metric,
            seed=self.seed,
            calls=self.budget.actor_calls,
            folder=folder.path,
            num_threads=self._threads,
            spent=lambda: metering.asked,
            proposer=None if lm is None else metering.metered(lm, "proposer"),
            embedder=means.embedder,
            generator=means.generator,
            trainer=means.trainer,
            recipe=means.recipe,
        )

    @property
    def _threads(self) -> int:
        return self.means.num_threads or dspy.settings.num_threads

    @contextlib.contextmanager
    def _stage(self, what: str, total: int) -> Iterator[Callable[[JudgedRun], None]]:
        with self.view.stage(f"{self.contender.name}, seed {self.seed}: {what}", total) as stage:
            yield lambda run: stage.advance(run.rollout)
            if total == 1:
                stage.advance()


def _answered(program: dspy.Module, example: dspy.Example, index: int, scorer: Scorer) -> JudgedRun:
    """A test example's run; one that an outage kept back is tried again."""
    for left in reversed(range(ATTEMPTS)):
        run = judged_run(program, example, index, None, scorer)
        if run.fatal:
            raise ProviderRefusedError(f"The provider takes no call, so the comparison stopped: {run.fatal}")
        if _score(run) is not None or not left:
            return run
    raise AssertionError("ATTEMPTS is at least one")


def _score(run: JudgedRun) -> float | None:
    """A run's score; 0 where the actor took no such prompt, as a program that asks too much is no good."""
    if run.rollout.reward is not None:
        return run.rollout.reward.score
    raised = getattr(exceptions, run.rollout.error.partition(":")[0], None)
    refused = (exceptions.LMInvalidRequestError, exceptions.LMUnsupportedFeatureError)
    return 0.0 if isinstance(raised, type) and issubclass(raised, refused) else None


def _compiling(metering: Metering, compiled: dspy.Module, seconds: float) -> Cost:
    actor, proposer = metering.spent("actor"), metering.spent("proposer")
    results = getattr(compiled, "detailed_results", None)
    spent = results.spent if isinstance(results, SGTResult) else Spent()
    return Cost(
        actor.calls,
        actor.tokens_in,
        actor.tokens_out,
        proposer.calls,
        proposer.tokens_in,
        proposer.tokens_out,
        spent.generator_in,
        spent.generator_out,
        actor.cost + proposer.cost,
        seconds,
    )


@contextlib.contextmanager
def _clocked(folder: RunFolder) -> Iterator[Callable[[], float]]:
    """Inside, the folder's clock goes; gives how long it went in all sessions."""
    before = float((folder.read("clock.json") or {}).get("seconds", 0.0))
    began = time.perf_counter()

    def seconds() -> float:
        return before + time.perf_counter() - began

    try:
        yield seconds
    finally:
        folder.write("clock.json", {"seconds": seconds()})


@contextlib.contextmanager
def _aside(folder: RunFolder) -> Iterator[None]:
    """Inside, what optimizers print goes to the folder's `said.txt`."""
    with (
        (folder.path / "said.txt").open("a", encoding="utf-8") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        yield


def _in_threads(work: Callable[[int], JudgedRun], indices: Sequence[int], threads: int) -> list[JudgedRun]:
    """`work` for each index, in order, under the caller's `dspy.context`; the first exception is raised."""
    with ThreadPoolExecutor(max(1, threads)) as pool:
        return [each.result() for each in [pool.submit(copy_context().run, work, index) for index in indices]]


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
    own_forward = not type(problem.program).__module__.startswith("dspy.")
    check_metric(problem.metric, problem.trainset[0], output_fields(problem.program), more_fields=own_forward)
    lms = {id(lm): lm for each in problem.program.predictors() if (lm := each.lm or dspy.settings.lm)}
    for lm in lms.values():
        if budget.usd is not None and not priced(lm):
            raise SetupError(f"A budget in dollars needs a known price, and {lm.model} has none. Give actor calls.")
