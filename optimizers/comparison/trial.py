"""One contender with one seed, in a folder that outlives a crash: compiled under its budget, then scored on test."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, replace
from statistics import median

import dspy

from optimizers.comparison.contenders import Bench, Contender, shuffled
from optimizers.comparison.metering import PaidAnswers, unmeter
from optimizers.comparison.outcomes import FILE, Outcome, Skipped
from optimizers.comparison.setup import Budget, Means, Problem
from optimizers.core.events import Reporter
from optimizers.core.fingerprints import fingerprint, generator_settings, lm_settings, read_metric, read_program
from optimizers.core.result import SGTResult
from optimizers.core.reward import Scorer
from optimizers.core.run_folder import RunFolder
from optimizers.core.usage import RunUsage, Usage, WorkSeconds
from optimizers.rollouts.judging import JudgedRun, run_and_score
from optimizers.rollouts.queries import query_id
from sgt_modules.errors import ProviderRefusedError, StoppedError
from sgt_modules.generator import SupplementGenerator

_SPLITS = ("trainset", "valset", "testset")

ATTEMPTS = 3
"""How often a test example is run until it has a score."""

ALONE = 5
"""Test examples that are run one after another, to see how long an answer takes when nothing else is asked."""


@dataclass(frozen=True)
class Arena:
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
            "program": read_program(problem.program, problem.version).mark,
            "metric": read_metric(problem.metric, problem.version).mark,
            "data": [fingerprint(split, name) for split, name in zip(splits, _SPLITS, strict=True)],
            "budget": self.budget.words,
        }
        if "proposer" in needs:
            settings["reflection_lm"] = getattr(means.reflection_lm, "model", None)
            settings["reflection_settings"] = None if means.reflection_lm is None else lm_settings(means.reflection_lm)
        if "generator" in needs and means.generator is not None:
            settings |= generator_settings(SupplementGenerator.of(means.generator))
            settings["recipe"] = None if means.recipe is None else means.recipe.recorded
        self._folder.begin_or_resume(settings)

    @property
    def _folder(self) -> RunFolder:
        return RunFolder.create(self.home.path / self.contender.name / f"seed-{self.seed}")

    def outcome(self) -> Outcome | Skipped:
        """What it came to: known already, or found out now."""
        folder = self._folder
        if (known := folder.read(FILE)) is not None:
            return Outcome.read(known, folder.path / FILE)
        answers = PaidAnswers(folder.path / "answers.sqlite", self.budget.limits)
        try:
            found = self._found(folder, answers)
        finally:
            answers.close()
        if isinstance(found, Skipped):
            return found
        content = found.content()
        folder.write(FILE, content)
        return Outcome.read(content, folder.path / FILE)  # the same as a later session reads

    def _found(self, folder: RunFolder, answers: PaidAnswers) -> Outcome | Skipped:
        bench = self._bench(folder, answers)
        if reason := bench.missing(self.contender.needs):
            return Skipped(self.contender.name, reason)
        with answers.meter_program(bench.program) as program, _aside(folder):
            try:
                with _clocked(folder) as seconds, self._compiling(answers):
                    compiled = self.contender.compile(replace(bench, program=program))
            except StoppedError:
                return self._out(f"used up its budget of {self.budget.words} before it had a program")
            except Exception as problem:  # noqa: BLE001 - whatever an optimizer raises, the other contenders go on
                if answers.is_used_up:
                    return self._out(f"used up its budget of {self.budget.words} before it had a program")
                return self._out(f"failed ({type(problem).__name__}: {str(problem).partition(chr(10))[0][:200]})")
            with contextlib.suppress(Exception):  # some programs, KNNFewShot's for one, are more than their state
                unmeter(compiled.deepcopy()).save(str(folder.path / "program.json"))
            compiling = _compiling(answers, compiled, seconds())
            answers.begin_test()
            return self._tested(compiled, answers, compiling)

    def _out(self, reason: str) -> Skipped:
        return Skipped(self.contender.name, f"seed {self.seed}: {reason}")

    def _tested(self, program: dspy.Module, answers: PaidAnswers, compiling: RunUsage) -> Outcome:
        examples, scorer, began = list(self.problem.testset), Scorer(self.problem.metric), time.perf_counter()
        with self.view.stage(f"{self._name}: test", len(examples)) as stage:

            def work(index: int) -> JudgedRun:
                run = _answered(program, examples[index], index, scorer)
                stage.advance(run.rollout)
                return run

            runs = [work(index) for index in range(min(ALONE, len(examples)))]
            alone = [run.usage.seconds for run in runs]
            runs += _in_threads(work, range(len(runs), len(examples)), self._threads)
        answering = RunUsage(
            actor=answers.usage("test"),
            generator=sum((run.generator for run in runs), Usage()),
            seconds=WorkSeconds(total=time.perf_counter() - began),
        )
        scores = {query_id(example, ""): _score(run) for example, run in zip(examples, runs, strict=True)}
        return Outcome(self.contender.name, self.seed, scores, compiling, answering, median(alone))

    def _bench(self, folder: RunFolder, answers: PaidAnswers) -> Bench:
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
            spent=lambda: answers.actor_answers,
            proposer=None if lm is None else answers.meter_lm(lm, "proposer"),
            embedder=means.embedder,
            generator=means.generator,
            trainer=means.trainer,
            recipe=means.recipe,
        )

    @property
    def _threads(self) -> int:
        return self.means.num_threads or dspy.settings.num_threads

    @property
    def _name(self) -> str:
        return f"{self.contender.name}, seed {self.seed}"

    @contextlib.contextmanager
    def _compiling(self, answers: PaidAnswers) -> Iterator[None]:
        """Inside, the actor's calls are shown as they come, of as many as the budget holds."""
        most = self.budget.actor_calls or 0
        with self.view.stage(f"{self._name}: calls to compile", most) as stage:
            answers.on_actor_answer = lambda asked: stage.move_to(asked, max(asked, most))
            yield
            stage.move_to(answers.actor_answers, answers.actor_answers)


def _answered(program: dspy.Module, example: dspy.Example, index: int, scorer: Scorer) -> JudgedRun:
    """A test example's run; one that an outage kept back is tried again."""
    for left in reversed(range(ATTEMPTS)):
        run = run_and_score(program, example, index, None, scorer)
        if run.fatal:
            raise ProviderRefusedError(f"The provider takes no call, so the comparison stopped: {run.fatal}")
        if _score(run) is not None or not left:
            return run
    raise AssertionError("ATTEMPTS is at least one")


def _score(run: JudgedRun) -> float | None:
    """A run's score; 0 where the provider refused the prompt, as a program that asks too much is no good."""
    if run.rollout.reward is not None:
        return run.rollout.reward.score
    return 0.0 if run.refused else None


def _compiling(answers: PaidAnswers, compiled: dspy.Module, seconds: float) -> RunUsage:
    results = getattr(compiled, "detailed_results", None)
    generator = results.spent.generator if isinstance(results, SGTResult) else Usage()
    return RunUsage(answers.usage("actor"), generator, answers.usage("proposer"), WorkSeconds(total=seconds))


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
