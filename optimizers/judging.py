"""One run of a program on an example under given supplements, judged by the metric. Whatever it raises is a record."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, NamedTuple

import dspy
from dspy.utils.exceptions import AdapterParseError

from optimizers.kept_answers import again, kept
from optimizers.ledger import Meter
from optimizers.outages import LMCalls, heard, is_permanent, is_single_call, says_nothing
from optimizers.prices import cost_of
from optimizers.queries import query_id
from optimizers.records import Query, Reward, Rollout
from optimizers.reward import Scorer
from sgt_modules.episode import Call, Given, episode
from sgt_modules.errors import MetricError
from sgt_modules.kinds import SILENCE
from sgt_modules.redaction import redacted
from sgt_modules.wrapping import supplemented


class JudgedRun(NamedTuple):
    """One finished run: its rollout (not yet any stage's), its predictors' calls by role and turn, and its cost.

    `fatal`: why no further run can have a reward, in the provider's words (a wrong key, no such model, no credit).
    `written`: tokens that the program's own generator read and wrote.
    """

    rollout: Rollout
    calls: Sequence[Call]
    meter: Meter
    fatal: str = ""
    written: tuple[int, int] = (0, 0)


def judged_run(program: dspy.Module, example: dspy.Example, index: int, given: Given, scorer: Scorer) -> JudgedRun:
    """Run the program on an example under the given supplements (None: its own generator's) and judge it.

    A run with an outage has no reward, whatever the program or the metric made of it; errors are kept without keys.
    """
    began = time.perf_counter()
    prediction: object = None
    problem: Exception | None = None
    reward = None
    with dspy.context(trace=[], disable_history=True), dspy.track_usage() as usage, episode(given) as asked:
        calls, single = LMCalls(usage), is_single_call(program)
        try:
            with heard(calls) if single else _heard_by(calls):
                prediction = program(**example.inputs())
        except Exception as raised:  # noqa: BLE001 - whatever a user's program raises is a record
            problem, reward = raised, _verdict(raised, calls)
        calls.ended(problem, prediction)
    seconds = time.perf_counter() - began
    answer = kept(prediction, program) if problem is None and calls.outage is None else ""
    output = {name: str(value) for name, value in prediction.items()} if isinstance(prediction, dspy.Example) else {}
    if problem is None:
        reward, problem = _judged(example, prediction, scorer, calls)
    if calls.outage is not None:
        reward, problem = None, calls.outage
    error = "" if problem is None else redacted(f"{type(problem).__name__}: {problem}", _lms(program))
    chosen = isinstance(given, Mapping)
    writers = set() if chosen else {each.generator.name for _, each in supplemented(program)}
    used = {name: entries for name, entries in usage.usage_data.items() if name not in writers}
    entries = [entry for of_model in used.values() for entry in of_model]
    asked_of = [getattr(program, "predict", program)] if single else program.predictors()
    cost = cost_of(used, (each.lm or dspy.settings.lm for each in asked_of)) if entries else 0.0
    (read, wrote), written = _tokens(entries), _tokens(e for name in writers for e in usage.usage_data.get(name, []))
    whole = _whole(example, index)
    rollout = Rollout(whole, "", "none", SILENCE, reward, output, error, 0.0, read, wrote, seconds, cost, answer=answer)
    meter = Meter(1, len(entries), read, wrote, seconds, cost)
    return JudgedRun(rollout, asked.ordered, meter, _fatal(program, calls), written)


def judged_again(program: dspy.Module, example: dspy.Example, rollout: Rollout, scorer: Scorer) -> Rollout | None:
    """A rollout of the same answer, judged by this metric and nothing asked of the actor; None where none was kept.

    A run in which the actor failed has no answer, and fails by any metric.
    """
    if rollout.error and rollout.reward is not None:
        return rollout
    prediction = again(rollout.output, rollout.answer, program)
    if prediction is None:
        return None
    with dspy.track_usage() as usage:
        calls = LMCalls(usage)
    reward, problem = _judged(example, prediction, scorer, calls)
    if calls.outage is not None:
        reward, problem = None, calls.outage
    error = "" if problem is None else redacted(f"{type(problem).__name__}: {problem}", _lms(program))
    return replace(rollout, reward=reward, error=error)


def _judged(
    example: dspy.Example, prediction: object, scorer: Scorer, calls: LMCalls
) -> tuple[Reward | None, Exception | None]:
    """The metric's reward, or why it has none."""
    try:
        with _heard_by(calls):  # a metric may ask a judge
            return scorer(example, prediction), None
    except MetricError as raised:
        return None, raised


def _tokens(entries: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
    """Tokens read and written, of tracked usage."""
    read = wrote = 0
    for entry in entries:
        read += entry.get("prompt_tokens") or 0
        wrote += entry.get("completion_tokens") or 0
    return read, wrote


def _heard_by(calls: LMCalls) -> AbstractContextManager[None]:
    return dspy.context(callbacks=[*dspy.settings.callbacks, calls])


def failed_run(example: dspy.Example, index: int, error: str) -> JudgedRun:
    """A run of which nothing came back but the reason: no reward, and what it cost is not known."""
    return JudgedRun(Rollout(_whole(example, index), "", "none", SILENCE, None, error=error), [], Meter(runs=1))


def _whole(example: dspy.Example, index: int) -> Query:
    """A run as a whole stands at no predictor."""
    return Query(query_id(example, ""), index, "", "")


def _verdict(problem: Exception, calls: LMCalls) -> Reward | None:
    """What an exception of the program says of the supplement: a failure once the actor has answered, else nothing."""
    if says_nothing(problem):
        return None
    answered = isinstance(problem, AdapterParseError) or calls.answered or bool(dspy.settings.trace)
    return Reward(0.0) if answered else None


def _fatal(program: dspy.Module, calls: LMCalls) -> str:
    """Why no further run can do better; empty while one may."""
    if calls.outage is None or not is_permanent(calls.outage):
        return ""
    said = f"{type(calls.outage).__name__}: {calls.outage}"
    return redacted(said, _lms(program)).partition("\n")[0]


def _lms(program: dspy.Module) -> list[object]:
    """Every LM whose keys an error of this program may repeat."""
    writers = (getattr(each.generator.engine, "lm", None) for _, each in supplemented(program))
    return [dspy.settings.lm, *(each.lm for each in program.predictors()), *writers]
