"""Runs a program on one example with given supplements and scores the answer. An exception becomes a record."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import NamedTuple

import dspy
from dspy.utils.exceptions import AdapterParseError

from optimizers.core.budget import current_reservation
from optimizers.core.counting import Answers, BudgetReached, CallGate, count_calls, split_by_writer
from optimizers.core.prices import cost_of
from optimizers.core.records import Effort, Query, Reward, Rollout
from optimizers.core.reward import Scorer
from optimizers.core.usage import Usage
from optimizers.rollouts.kept_answers import dump_answer, load_answer, text_of_value
from optimizers.rollouts.outages import (
    LMCalls,
    is_permanent,
    is_provider_failure,
    is_single_call,
    was_refused,
    watch_fallback,
)
from optimizers.rollouts.queries import query_id
from sgt_modules.calling import call_program
from sgt_modules.episode import Call, Episode, SupplementSource, episode
from sgt_modules.errors import MetricError, SetupError, StoppedError
from sgt_modules.kinds import SILENCE
from sgt_modules.saving.redaction import redact
from sgt_modules.wrapping import supplemented_predictors


class JudgedRun(NamedTuple):
    """One finished run: its rollout (of no stage yet), its predictor calls by role and turn, and its usage.

    `fatal`: the provider's message, if no further run can succeed (a wrong key, no such model, no credit).
    `generator`: usage of the program's own generator. `used_up`: why the budget ended the run. `lost`: an error
    message if the program called a predictor in a thread without the run's context. `refused`: the provider refused a
    prompt (too long, filtered); the supplement is the cause only if the same example is answered without it.
    """

    rollout: Rollout
    calls: Sequence[Call]
    usage: Usage
    fatal: str = ""
    generator: Usage = Usage()
    used_up: str = ""
    lost: str = ""
    refused: bool = False


RunFunction = Callable[[int, SupplementSource], JudgedRun]
"""Runs the program on the example at an index with the given supplements, and returns the scored run."""


class ThreadRunner:
    """Does each run in the calling thread: right for models behind HTTP and on this machine."""

    def check(self, program: dspy.Module, scorer: Scorer, examples: Sequence[dspy.Example]) -> None:
        """Nothing to check: threads share their objects."""

    def judge(
        self, program: dspy.Module, scorer: Scorer, examples: Sequence[dspy.Example], *, at_once: int
    ) -> RunFunction:
        """As `Runner`: the function that runs and scores one of these examples in the calling thread."""

        def judge(index: int, given: SupplementSource) -> JudgedRun:
            return run_and_score(program, examples[index], index, given, scorer)

        return judge


def run_and_score(
    program: dspy.Module, example: dspy.Example, index: int, given: SupplementSource, scorer: Scorer
) -> JudgedRun:
    """Run the program on an example with the given supplements (None: its own generator's) and score its answer.

    A run with an outage has no reward, even if the program handled the error; API keys are removed from error texts.
    Each LM call is checked against the run's reservation, if there is one (see `optimizers.core.budget`). A run that
    the budget ends has no reward.
    """
    began = time.perf_counter()
    prediction: object = None
    problem: Exception | None = None
    reward, single = None, is_single_call(program)
    keys = [] if single or given is None else [each.run_key for _, each in supplemented_predictors(program)]
    with dspy.context(trace=[], disable_history=True), count_calls() as counter, episode(given, keys) as asked:
        gate = CallGate(counter, None if single else current_reservation())
        calls = LMCalls(gate)
        try:
            with watch_fallback(calls) if single else _watch_calls(calls):
                prediction = call_program(program, dict(example.inputs().items()))
        except BudgetReached:
            pass
        except Exception as raised:  # noqa: BLE001 - whatever a user's program raises is a record
            problem, reward = raised, _reward_of_failure(raised, calls)
        calls.end_run(problem, prediction)
    refused = reward is None and problem is not None and was_refused(problem, calls.outage)
    seconds = time.perf_counter() - began
    unfinished = _why_unfinished(gate, asked)
    answered = problem is None and unfinished is None
    answer = dump_answer(prediction, program) if answered and calls.outage is None else ""
    fields = dict(prediction.items()) if isinstance(prediction, dspy.Example) else {}
    output = {name: text_of_value(value) for name, value in fields.items()}
    if answered:
        reward, problem = _score(example, prediction, scorer, calls)
    if unfinished is not None or calls.outage is not None:
        reward, problem = None, unfinished or calls.outage
    error = "" if problem is None else redact(f"{type(problem).__name__}: {problem}", _lms(program))
    chosen = isinstance(given, Mapping)
    writers = set() if chosen else {each.generator.name for _, each in supplemented_predictors(program)}
    own, theirs = split_by_writer(counter.answers, writers)
    paid = sum((each.usage for each in own), Usage(1, seconds=seconds))
    paid = replace(paid, cost=paid.cost + _cost_by_name(program, [each for each in own if each.lm is None]))
    read, wrote = paid.tokens_in, paid.tokens_out
    generator = sum((each.usage for each in theirs), Usage())
    whole = _run_query(example, index)
    steps = max(1, len(own)) if single else gate.steps
    effort = Effort(read + wrote, steps, seconds) if steps != 1 else None
    rollout = Rollout(
        whole,
        "",
        "none",
        SILENCE,
        reward,
        output,
        error,
        0.0,
        read,
        wrote,
        seconds,
        paid.cost,
        answer=answer,
        effort=effort,
    )
    refused, fatal = refused and unfinished is None, _fatal_reason(program, calls)
    return JudgedRun(rollout, asked.ordered, paid, fatal, generator, gate.refusal, asked.lost, refused)


def _why_unfinished(gate: CallGate, asked: Episode) -> Exception | None:
    """Why a run did not finish, if it did not: the budget ended it, or a supplement was lost."""
    if asked.lost:
        return SetupError(asked.lost)
    return StoppedError(gate.refusal) if gate.refusal else None


def _cost_by_name(program: dspy.Module, answers: Sequence[Answers]) -> float:
    """The dollars of answers whose price is only known by the names of the program's LMs."""
    if not answers:
        return 0.0
    lms = [each.lm or dspy.settings.lm for each in program.predictors()]
    return sum(cost_of({each.model: [each.entry]}, lms) for each in answers)


def rescore(program: dspy.Module, example: dspy.Example, rollout: Rollout, scorer: Scorer) -> Rollout | None:
    """Score a rollout's stored answer with this metric, without a new run; None if the answer was not stored.

    A run in which the actor failed has no answer, and has reward 0.0 under any metric.
    """
    if rollout.error and rollout.reward is not None:
        return rollout
    prediction = load_answer(rollout.output, rollout.answer, program)
    if prediction is None:
        return None
    with count_calls() as counter:
        calls = LMCalls(CallGate(counter, None))
        reward, problem = _score(example, prediction, scorer, calls)
    if calls.outage is not None:
        reward, problem = None, calls.outage
    error = "" if problem is None else redact(f"{type(problem).__name__}: {problem}", _lms(program))
    return replace(rollout, reward=reward, error=error)


def _score(
    example: dspy.Example, prediction: object, scorer: Scorer, calls: LMCalls
) -> tuple[Reward | None, Exception | None]:
    """The metric's reward, or the error if it gave none."""
    try:
        with _watch_calls(calls):  # a metric may call an LM as judge
            return scorer(example, prediction), None
    except MetricError as raised:
        return None, raised


def _watch_calls(calls: LMCalls) -> AbstractContextManager[None]:
    return dspy.context(callbacks=[*dspy.settings.callbacks, calls])


def failed_run(example: dspy.Example, index: int, error: str) -> JudgedRun:
    """A run that returned nothing: no reward, unknown cost, and the reason as its error."""
    return JudgedRun(Rollout(_run_query(example, index), "", "none", SILENCE, None, error=error), [], Usage(runs=1))


def _run_query(example: dspy.Example, index: int) -> Query:
    """The query of a whole run, which belongs to no predictor."""
    return Query(query_id(example, ""), index, "", "")


def _reward_of_failure(problem: Exception, calls: LMCalls) -> Reward | None:
    """Reward 0.0 for an exception after the actor answered; None if the exception is not the supplement's fault."""
    if is_provider_failure(problem):
        return None
    answered = isinstance(problem, AdapterParseError) or calls.answered or bool(dspy.settings.trace)
    return Reward(0.0) if answered else None


def _fatal_reason(program: dspy.Module, calls: LMCalls) -> str:
    """Why every further run would fail too; empty if one may succeed."""
    if calls.outage is None or not is_permanent(calls.outage):
        return ""
    said = f"{type(calls.outage).__name__}: {calls.outage}"
    return redact(said, _lms(program)).partition("\n")[0]


def _lms(program: dspy.Module) -> list[object]:
    """The LMs whose API keys may occur in an error of this program."""
    writers = (getattr(each.generator.engine, "lm", None) for _, each in supplemented_predictors(program))
    return [dspy.settings.lm, *(each.lm for each in program.predictors()), *writers]
