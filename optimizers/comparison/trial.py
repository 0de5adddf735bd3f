"""Runs a trial, one contender with one seed: compiles within the budget, then scores on the test set.

A trial resumes from its folder after a crash.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import median

import dspy

from optimizers.comparison.contenders import Contender, ContenderArguments, make_arguments
from optimizers.comparison.metering import PaidAnswers, unmeter
from optimizers.comparison.outcomes import OUTCOME_FILE, SkippedContender, TrialOutcome
from optimizers.comparison.setup import Budget, Problem, Resources
from optimizers.core.concurrency import map_in_threads
from optimizers.core.error_types import error_name
from optimizers.core.events import EventBus
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
"""How often a test example runs at most until it has a score."""

LATENCY_EXAMPLES = 5
"""Test examples that run one after another, to measure the latency of an answer."""

LATENCIES_FILE = "latencies.json"
"""Where a trial keeps the seconds of those answers, by the example's place in the test set."""

_COMPILE_CLOCK, _TEST_CLOCK = "clock.json", "test_clock.json"


@dataclass(frozen=True)
class Trial:
    """One contender with one seed, in its own folder inside that of the comparison, `home`."""

    contender: Contender
    problem: Problem
    seed: int
    home: RunFolder
    budget: Budget
    resources: Resources
    bus: EventBus

    def check_folder(self) -> None:
        """Records the settings in the folder; raises `RunFolderError` if it has a trial with other settings."""
        problem, needs, resources = self.problem, self.contender.needs, self.resources
        splits = (problem.trainset, problem.valset, problem.testset)
        settings: dict[str, object] = {
            "program": read_program(problem.program, problem.version).mark,
            "metric": read_metric(problem.metric, problem.version).mark,
            "data": [fingerprint(split, name) for split, name in zip(splits, _SPLITS, strict=True)],
            "budget": self.budget.words,
        }
        if "proposer" in needs:
            settings["reflection_lm"] = getattr(resources.reflection_lm, "model", None)
            settings["reflection_settings"] = (
                None if resources.reflection_lm is None else lm_settings(resources.reflection_lm)
            )
        if "generator" in needs and resources.generator is not None:
            settings |= generator_settings(SupplementGenerator.of(resources.generator))
            settings["recipe"] = None if resources.recipe is None else resources.recipe.recorded
        self._folder.begin_or_resume(settings)

    @property
    def _folder(self) -> RunFolder:
        return RunFolder.create(self.home.path / self.contender.name / f"seed-{self.seed}")

    def run(self) -> TrialOutcome | SkippedContender:
        """Returns the outcome in the folder, or runs the trial."""
        folder = self._folder
        if (stored := folder.read(OUTCOME_FILE)) is not None:
            return TrialOutcome.read(stored, folder.path / OUTCOME_FILE)
        answers = PaidAnswers(folder.path / "answers.sqlite", self.budget.limits)
        try:
            outcome = self._compile_and_test(folder, answers)
        finally:
            answers.close()
        if isinstance(outcome, SkippedContender):
            return outcome
        content = outcome.content()
        folder.write(OUTCOME_FILE, content)
        return TrialOutcome.read(content, folder.path / OUTCOME_FILE)  # the same as a later session reads

    def _compile_and_test(self, folder: RunFolder, answers: PaidAnswers) -> TrialOutcome | SkippedContender:
        inputs = self._make_inputs(folder, answers)
        if reason := inputs.explain_missing(self.contender.needs):
            return SkippedContender(self.contender.name, reason)
        with answers.meter_program(inputs.program) as program, _redirect_output(folder):
            try:
                with _clock(folder, _COMPILE_CLOCK) as seconds, self._show_compile_calls(answers):
                    compiled = self.contender.compile(replace(inputs, program=program))
            except StoppedError:
                return self._skip(f"used up its budget of {self.budget.words} before it had a program")
            except Exception as problem:  # noqa: BLE001 - an optimizer's error does not stop the other contenders
                if answers.is_used_up:
                    return self._skip(f"used up its budget of {self.budget.words} before it had a program")
                return self._skip(f"failed ({type(problem).__name__}: {str(problem).partition(chr(10))[0][:200]})")
            with contextlib.suppress(Exception):  # not every program can be saved, for example not KNNFewShot's
                unmeter(compiled.deepcopy()).save(str(folder.path / "program.json"))
            compiling = _compute_compile_usage(answers, compiled, seconds())
            answers.begin_test()
            return self._test(folder, compiled, answers, compiling)

    def _skip(self, reason: str) -> SkippedContender:
        return SkippedContender(self.contender.name, f"seed {self.seed}: {reason}")

    def _test(self, folder: RunFolder, program: dspy.Module, answers: PaidAnswers, compiling: RunUsage) -> TrialOutcome:
        examples, scorer = list(self.problem.testset), Scorer(self.problem.metric)
        runs, latencies = list[JudgedRun](), list[float]()
        with _clock(folder, _TEST_CLOCK) as seconds, self.bus.work(f"{self._name}: test", len(examples)) as shown:

            def work(index: int) -> JudgedRun:
                run = _run_example(program, examples[index], index, scorer)
                shown.advance(run.rollout)
                return run

            for index in range(min(LATENCY_EXAMPLES, len(examples))):
                runs.append(work(index))
                latencies.append(_keep_latency(folder, index, runs[index]))
            runs += map_in_threads(work, range(len(runs), len(examples)), threads=self._threads)
        answering = RunUsage(
            actor=answers.usage("test"),
            generator=sum((run.generator for run in runs), Usage()),
            seconds=WorkSeconds(total=seconds()),
        )
        scores = {query_id(example, ""): _score_run(run) for example, run in zip(examples, runs, strict=True)}
        errors = [run.rollout.error for run in runs if run.rollout.error]
        return TrialOutcome(
            self.contender.name,
            self.seed,
            scores,
            compiling,
            answering,
            median(latencies),
            stopped=_find_stop(program),
            errors=dict(Counter(map(error_name, errors))),
            error=" ".join(errors[0].split()) if errors else "",
        )

    def _make_inputs(self, folder: RunFolder, answers: PaidAnswers) -> ContenderArguments:
        lm, calls = self.resources.reflection_lm, self.budget.actor_calls
        inputs = make_arguments(
            self.problem, self.resources, seed=self.seed, calls=calls, folder=folder.path, num_threads=self._threads
        )
        proposer = None if lm is None else answers.meter_lm(lm, "proposer")
        return replace(inputs, count_calls=lambda: answers.actor_answers, proposer=proposer)

    @property
    def _threads(self) -> int:
        return self.resources.num_threads or dspy.settings.num_threads

    @property
    def _name(self) -> str:
        return f"{self.contender.name}, seed {self.seed}"

    @contextlib.contextmanager
    def _show_compile_calls(self, answers: PaidAnswers) -> Iterator[None]:
        """Shows the number of actor calls while a contender compiles, out of those in the budget."""
        most = self.budget.actor_calls or 0
        with self.bus.work(f"{self._name}: calls to compile", most, is_limit=True) as work:
            answers.on_actor_answer = lambda asked: work.move_to(asked, max(asked, most))
            yield
            work.move_to(answers.actor_answers, answers.actor_answers)


def _run_example(program: dspy.Module, example: dspy.Example, index: int, scorer: Scorer) -> JudgedRun:
    """Runs a test example; tries again after an outage."""
    for left in reversed(range(ATTEMPTS)):
        run = run_and_score(program, example, index, None, scorer)
        if run.fatal:
            raise ProviderRefusedError(f"The provider refuses all calls, so the comparison stopped: {run.fatal}")
        if _score_run(run) is not None or not left:
            return run
    raise AssertionError("ATTEMPTS is at least one")


def _score_run(run: JudgedRun) -> float | None:
    """Returns the score of a run; 0 if the provider refused its prompt, for example as too long. None for an outage."""
    if run.rollout.reward is not None:
        return run.rollout.reward.score
    return 0.0 if run.refused else None


def _keep_latency(folder: RunFolder, index: int, run: JudgedRun) -> float:
    """Returns the seconds of an answer when it was paid; a resumed trial reads the answer from its file at once."""
    known = folder.read(LATENCIES_FILE) or {}
    seconds = float(known.get(str(index), run.usage.seconds))
    if _score_run(run) is not None:
        folder.write(LATENCIES_FILE, known | {str(index): seconds})
    return seconds


def _compute_compile_usage(answers: PaidAnswers, compiled: dspy.Module, seconds: float) -> RunUsage:
    result = getattr(compiled, "detailed_results", None)
    generator = result.spent.generator if isinstance(result, SGTResult) else Usage()
    return RunUsage(answers.usage("actor"), generator, answers.usage("proposer"), WorkSeconds(total=seconds))


def _find_stop(compiled: dspy.Module) -> str:
    """Return the phase in which a budget ended the run of SGT behind a program; empty if it ended by itself."""
    result = getattr(compiled, "detailed_results", None)
    found = re.match(r"Stopped in (.+?):", result.stopped) if isinstance(result, SGTResult) else None
    return found[1] if found else ""


@contextlib.contextmanager
def _clock(folder: RunFolder, file: str) -> Iterator[Callable[[], float]]:
    """Yields a function that returns the seconds so far, in all sessions; keeps them in a file of the folder."""
    before = float((folder.read(file) or {}).get("seconds", 0.0))
    began = time.perf_counter()

    def seconds() -> float:
        return before + time.perf_counter() - began

    try:
        yield seconds
    finally:
        folder.write(file, {"seconds": seconds()})


@contextlib.contextmanager
def _redirect_output(folder: RunFolder) -> Iterator[None]:
    """Writes what optimizers print to the folder's `said.txt`."""
    with (
        (folder.path / "said.txt").open("a", encoding="utf-8") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        yield
