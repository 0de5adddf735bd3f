"""Uses the outcomes in a user's own log as free rollouts of the training examples. Pure."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import dspy

from optimizers.core.records import Candidate, Query, Reward, Rollout
from sgt_modules.errors import SetupError
from sgt_modules.kinds import Supplement, parse
from sgt_modules.menu import Menu

SOURCE = "logged"
"""The pool of candidates from a log."""


@dataclass(frozen=True, slots=True)
class LoggedOutcome:
    """A row of a log: the program's inputs, the supplement that its predictor read, and the score of the answer.

    `supplement` is the text as it was read, `[kind] text` or without a kind. `score` is in [0, 1], as the compile's own
    metric would score it; `feedback` is the metric's text, if any.

    >>> LoggedOutcome({"question": "2+2?"}, "[cot] Count on your fingers.", 1.0).score
    1.0
    """

    inputs: Mapping[str, object]
    supplement: str | Supplement
    score: float
    feedback: str = ""


@dataclass(frozen=True, slots=True)
class Log:
    """The outcomes of a log by training example: each supplement once, with the mean score of its rows.

    `note` says how many rows are used, and why others are not; empty without a log.
    """

    outcomes: Mapping[int, Mapping[Supplement, Reward]] = field(default_factory=dict[int, Mapping[Supplement, Reward]])
    note: str = ""

    def rollouts(self, queries: Sequence[Query], stage: str) -> list[Rollout]:
        """The outcomes as free rollouts of these queries in a stage."""
        return [
            Rollout(query, stage, SOURCE, supplement, reward)
            for query in queries
            for supplement, reward in self.outcomes.get(query.index, {}).items()
        ]

    def candidates(self, queries: Sequence[Query]) -> list[Candidate]:
        """The supplements as candidates for these queries."""
        return [Candidate(each.query, each.supplement, SOURCE) for each in self.rollouts(queries, "")]


def read_log(
    logged: Sequence[LoggedOutcome],
    trainset: Sequence[dspy.Example],
    valset: Sequence[dspy.Example] = (),
    *,
    menu: Menu = Menu(),  # noqa: B008 - an empty one, frozen
) -> Log:
    """Read the rows whose inputs are those of a training example; with a `menu`, only rows with one of its choices.

    Rows that match a validation example are left out, as training must not learn from validation. Raises `SetupError`
    for an invalid row, with its number, and if no row is left.

    >>> train = [dspy.Example(question=f"{n}+1?", answer=str(n + 1)).with_inputs("question") for n in range(2)]
    >>> rows = [LoggedOutcome({"question": f"{n}+1?"}, "Add one.", score) for n, score in ((1, 1), (1, 0), (7, 1))]
    >>> log = read_log(rows, train)
    >>> log.outcomes
    {1: {Supplement(kind='free', text='Add one.'): Reward(score=0.5, feedback='')}}
    >>> log.note
    'From the log, 2 of 3 rows join the warm start and round 1, as 1 outcome that costs no call; 1 row matches no \
training example.'
    """
    if not logged:
        return Log()
    positions = _positions(trainset)
    names = sorted({tuple(sorted(example.inputs().keys())) for example in trainset})
    validation = _positions(valset)
    by_example: dict[int, dict[Supplement, list[LoggedOutcome]]] = defaultdict(lambda: defaultdict(list))
    joined, left = 0, Counter[str]()
    for number, row in enumerate(logged):
        supplement = _check_row(row, number, names)
        key = _key(row.inputs)
        choice = menu.same(supplement) if menu else supplement
        if key not in positions:
            left["a validation example" if key in validation else "no training example"] += 1
        elif choice is None:
            left["none of the given texts"] += 1
        else:
            joined += 1
            for index in positions[key]:
                by_example[index][choice].append(row)
    rest = _describe_left_out(left)
    if not joined:
        raise SetupError(
            f"Expected logged rows of training examples, got {_count_rows(len(logged))} of which {rest}. Give "
            "rows whose inputs equal those of an example in trainset, or leave logged out."
        )
    outcomes = {index: {s: _mean_reward(rows) for s, rows in of.items()} for index, of in sorted(by_example.items())}
    count = sum(map(len, outcomes.values()))
    return Log(
        outcomes,
        f"From the log, {joined} of {_count_rows(len(logged))} {'joins' if joined == 1 else 'join'} the warm start and "
        f"round 1, as {count} outcome{'s' if count != 1 else ''} that cost{'s' if count == 1 else ''} no call"
        f"{f'; {rest}' if rest else ''}.",
    )


def _check_row(row: LoggedOutcome, number: int, names: Sequence[tuple[str, ...]]) -> Supplement:
    """The supplement of a row; raises `SetupError` for an invalid row."""
    where = f"logged[{number}]"
    if not isinstance(row, LoggedOutcome):
        raise SetupError(f"Expected a LoggedOutcome in {where}, got {row!r}. Write LoggedOutcome(inputs, text, score).")
    if not isinstance(row.inputs, Mapping) or tuple(sorted(row.inputs)) not in names:
        given = sorted(row.inputs) if isinstance(row.inputs, Mapping) else row.inputs
        raise SetupError(
            f"Expected the inputs {' or '.join(map(str, map(list, names)))} in {where}, got {given}. Name all fields "
            "that with_inputs(...) names in trainset, and no other."
        )
    score: object = row.score
    if not isinstance(score, int | float) or not math.isfinite(score) or not 0 <= score <= 1:
        raise SetupError(f"Expected a score in [0, 1] in {where}, got {score!r}. Scale it as your metric does.")
    said: object = row.supplement
    supplement = parse(said) if isinstance(said, str) else said
    if not isinstance(supplement, Supplement) or not supplement:
        raise SetupError(
            f"Expected a supplement in {where}, got {said!r}. Leave out rows without one: the compile runs the program "
            "without supplements itself."
        )
    return supplement


def _positions(examples: Sequence[dspy.Example]) -> dict[str, list[int]]:
    """The positions of the examples with each inputs."""
    positions: dict[str, list[int]] = defaultdict(list)
    for index, example in enumerate(examples):
        positions[_key(dict(example.inputs().items()))].append(index)
    return positions


def _key(inputs: Mapping[str, object]) -> str:
    return json.dumps(dict(inputs), sort_keys=True, default=str)


def _mean_reward(rows: Sequence[LoggedOutcome]) -> Reward:
    feedback = [row.feedback for row in rows if row.feedback]
    return Reward(sum(float(row.score) for row in rows) / len(rows), feedback[-1] if feedback else "")


def _describe_left_out(left: Mapping[str, int]) -> str:
    verbs = {"none of the given texts": ("has", "have")}
    parts = [(count, what, verbs.get(what, ("matches", "match"))) for what, count in left.items() if count]
    return ", ".join(f"{_count_rows(count)} {verb[count != 1]} {what}" for count, what, verb in parts)


def _count_rows(count: int) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"
