"""One run of a program on an example under given supplements, judged by the metric. Whatever it raises is a record."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import dspy
from dspy.utils.exceptions import AdapterParseError, LMError

from optimizers.ledger import Meter
from optimizers.prices import cost_of
from optimizers.queries import query_id
from optimizers.records import Query, Reward, Rollout
from optimizers.reward import Scorer
from sgt_modules.episode import Call, Given, episode
from sgt_modules.errors import MetricError
from sgt_modules.kinds import SILENCE
from sgt_modules.wrapping import supplemented


class JudgedRun(NamedTuple):
    """One finished run: its rollout (not yet any stage's), its predictors' calls by role and turn, and its cost."""

    rollout: Rollout
    calls: Sequence[Call]
    meter: Meter


def judged_run(program: dspy.Module, example: dspy.Example, index: int, given: Given, scorer: Scorer) -> JudgedRun:
    """Run the program on an example under the given supplements (None: its own generator's) and judge it."""
    began = time.perf_counter()
    prediction: object = None
    reward, error = None, ""
    with dspy.context(trace=[], disable_history=True), dspy.track_usage() as usage, episode(given) as asked:
        try:
            prediction = program(**example.inputs())
        except Exception as problem:  # noqa: BLE001 - whatever a user's program raises is a record
            reward, error = _verdict(problem), f"{type(problem).__name__}: {problem}"
    seconds = time.perf_counter() - began
    if not error:
        try:
            reward = scorer(example, prediction)
        except MetricError as problem:
            error = f"{type(problem).__name__}: {problem}"
    chosen = isinstance(given, Mapping)
    writers = set() if chosen else {each.generator.name for _, each in supplemented(program)}
    used = {name: entries for name, entries in usage.usage_data.items() if name not in writers}
    entries = [entry for of_model in used.values() for entry in of_model]
    cost = cost_of(used, (each.lm or dspy.settings.lm for each in program.predictors())) if entries else 0.0
    read, wrote = (sum(entry.get(name) or 0 for entry in entries) for name in ("prompt_tokens", "completion_tokens"))
    output = {name: str(value) for name, value in prediction.items()} if isinstance(prediction, dspy.Example) else {}
    whole = _whole(example, index)
    rollout = Rollout(whole, "", "none", SILENCE, reward, output, error, 0.0, read, wrote, seconds, cost)
    return JudgedRun(rollout, asked.ordered, Meter(1, len(entries), read, wrote, seconds, cost))


def failed_run(example: dspy.Example, index: int, error: str) -> JudgedRun:
    """A run of which nothing came back but the reason: no reward, and what it cost is not known."""
    return JudgedRun(Rollout(_whole(example, index), "", "none", SILENCE, None, error=error), [], Meter(runs=1))


def _whole(example: dspy.Example, index: int) -> Query:
    """A run as a whole stands at no predictor."""
    return Query(query_id(example, ""), index, "", "")


def _verdict(problem: Exception) -> Reward | None:
    """What an exception of the program says of the supplement: a failure once the actor has answered, else nothing."""
    if isinstance(problem, LMError):
        return None
    answered = isinstance(problem, AdapterParseError) or bool(dspy.settings.trace)
    return Reward(0.0) if answered else None
