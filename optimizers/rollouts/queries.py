"""Turns a predictor's call on an example into a query, whose id is the same in every run. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import dspy

from optimizers.core.canonical import text_of
from optimizers.core.fingerprints import content_of
from optimizers.core.records import Query, Rollout
from sgt_modules.episode import Call, Place
from sgt_modules.kinds import Supplement


class LiveRun(NamedTuple):
    """A run whose supplements were written while it ran: its rollout, and its predictor calls in order."""

    rollout: Rollout
    calls: Sequence[Call]


def query_id(
    example: dspy.Example, predictor: str, turn: int = 0, others: Sequence[tuple[Place, Supplement]] = ()
) -> str:
    """The id of a query in every run: 16 hex digits over the example's fields, the place, and the others' supplements.

    >>> query_id(dspy.Example(question="2+2?", answer="4"), "self")
    'cc48eb025a90996b'
    """
    content = text_of(content_of(example))
    read = [[*place, supplement.render()] for place, supplement in others if supplement]
    beyond = f"\n{turn}\n{json.dumps(read)}" if turn or read else ""
    return hashlib.sha256(f"{content}\n{predictor}{beyond}".encode()).hexdigest()[:16]


def query_of(
    call: Call, example: dspy.Example, index: int, calls: Sequence[Call] = (), *, joint: bool = False
) -> Query:
    """The query of a call, with the supplements that the other `calls` of its run read.

    `joint`: the id depends on the prompt and not on the others' supplements. If all places vary at once, a place may
    see a different prompt in each run, and the two sides of a pair must share theirs.
    """
    place, others = call.place, tuple((each.place, each.supplement) for each in calls if each.place != call.place)
    name = query_id(example, place.role, place.turn, others)
    if joint:
        name = hashlib.sha256(f"{name}\n{call.prompt}".encode()).hexdigest()[:16]
    return Query(name, index, place.role, call.prompt, place.turn, others)


def live_queries(runs: Sequence[LiveRun], examples: Sequence[dspy.Example]) -> list[Query]:
    """A query for each call of live runs, in which every other place reads what it read in that run."""
    return [
        query_of(call, examples[run.rollout.query.index], run.rollout.query.index, run.calls)
        for run in runs
        for call in run.calls
    ]


def with_own_prompts(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """A run's rollouts from a store that runs share, each with the prompt of this run where a run without supplements
    has it: the row of a supplement has that of the run that paid for it.

    >>> from sgt_modules.kinds import SILENCE
    >>> ours, theirs = (Query("1f3a", 0, "self", prompt) for prompt in ("Task: 2+2?", "2+2?"))
    >>> unaided = Rollout(ours, "none/train", "none", SILENCE, None)
    >>> helped = Rollout(theirs, "warm", "free", Supplement("cot", "Add."), None)
    >>> [each.query.prompt for each in with_own_prompts([unaided, helped])]
    ['Task: 2+2?', 'Task: 2+2?']
    """
    prompts = {each.query.id: each.query.prompt for each in rollouts if not each.supplement}
    return [
        replace(each, query=replace(each.query, prompt=prompts.get(each.query.id, each.query.prompt)))
        for each in rollouts
    ]
