"""Outcomes -> rows: each contender against no change and against the best other, with significance. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import pstdev

from optimizers.comparison.outcomes import Outcome, Skipped, by_example
from optimizers.core.statistics import holm, mean_interval, paired_p_value
from optimizers.core.usage import RunUsage

NONE = "none"
"""The contender that every other is compared with."""

SURE = 0.05
"""A gain with a p-value below it is called better."""


@dataclass(frozen=True, slots=True)
class Row:
    """A contender's line of the table. Scores are in [0, 1]; an unknown value is None.

    `test` is the mean over the test examples on which every contender has a score, each at its mean over the seeds,
    with a 95 % `interval`; `by_seed` are the seeds' own. `gain` and `relative_gain` are against no change on the same
    examples, `p_value` is of that gain and `p_best` of the difference to the best other contender, `best_other`; both
    are adjusted by Holm's method over the table's rows. `compiling` is the mean usage a seed; `answer` is that of one
    answer, `extra_tokens` its prompt tokens above those of no change, and `latency` its seconds when no other call is
    in flight. `unanswered` counts answers that an outage prevented. `skipped` says why a contender has no values.
    """

    name: str
    test: float | None = None
    interval: tuple[float, float] | None = None
    gain: float | None = None
    relative_gain: float | None = None
    p_value: float | None = None
    p_best: float | None = None
    best_other: str = ""
    by_seed: Mapping[int, float] = field(default_factory=dict[int, float])
    spread: float | None = None
    compiling: RunUsage = field(default_factory=RunUsage)
    answer: RunUsage = field(default_factory=RunUsage)
    extra_tokens: float | None = None
    latency: float | None = None
    unanswered: int = 0
    skipped: str = ""

    @property
    def better(self) -> bool:
        """Whether the gain on no change is above 0 and significant."""
        return bool(self.gain is not None and self.gain > 0 and self.p_value is not None and self.p_value < SURE)


def rank_rows(outcomes: Sequence[Outcome], skipped: Sequence[Skipped] = (), *, seed: int = 0) -> list[Row]:
    """One row a contender, in the order of their first outcomes; skipped contenders come last.

    >>> none, best = Outcome("none", 0, {"x": 0.0, "y": 0.0}), Outcome("best", 0, {"x": 1.0, "y": 0.0})
    >>> [(row.name, row.test, row.gain, row.p_value) for row in rank_rows([none, best])]
    [('none', 0.0, None, None), ('best', 0.5, 0.5, 1.0)]
    """
    of_name: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        of_name.setdefault(outcome.name, []).append(outcome)
    scores = _on_the_same({name: by_example(own) for name, own in of_name.items()})
    tests = {name: _mean(own.values()) for name, own in scores.items()}
    others = [name for name in of_name if name != NONE]
    against_none = {name: _compare(scores[NONE], scores[name], seed) for name in others} if NONE in scores else {}
    best_of = {name: _best_other(name, tests) for name in others}
    against_best = {name: _compare(scores[best], scores[name], seed) for name, best in best_of.items() if best}
    p_value, p_best = _adjust(against_none), _adjust(against_best)
    rows: list[Row] = []
    for name, own in of_name.items():
        by_seed = {outcome.seed: _mean(outcome.answered_of(scores[name]).values()) for outcome in own}
        answers = sum(len(outcome.scores) for outcome in own)
        answer = sum((outcome.answering for outcome in own), RunUsage()) / max(1, answers)
        gain, before = (against_none[name].gain, against_none[name].before) if name in against_none else (None, 0.0)
        rows.append(
            Row(
                name=name,
                test=tests[name],
                interval=mean_interval(list(scores[name].values())),
                gain=gain,
                relative_gain=gain / before if gain is not None and before else None,
                p_value=p_value.get(name),
                p_best=p_best.get(name),
                best_other=best_of.get(name) or "",
                by_seed=by_seed,
                spread=pstdev(by_seed.values()) if len(by_seed) > 1 else None,
                compiling=sum((outcome.compiling for outcome in own), RunUsage()) / len(own),
                answer=answer,
                extra_tokens=_extra_tokens(answer, of_name.get(NONE, ())),
                latency=sorted(outcome.latency for outcome in own)[len(own) // 2],
                unanswered=answers - sum(len(outcome.answered) for outcome in own),
            )
        )
    return [*rows, *(Row(each.name, skipped=each.reason) for each in skipped)]


def _on_the_same(scores: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Each contender's scores on the examples on which all have one; a contender without any score keeps none.

    Where there is no such example, as of an outage, each keeps all its scores.
    """
    answered = [set(own) for own in scores.values() if own]
    shared = set[str].intersection(*answered) if answered else set[str]()
    if not shared:
        return {name: dict(own) for name, own in scores.items()}
    return {name: {unit: score for unit, score in own.items() if unit in shared} for name, own in scores.items()}


@dataclass(frozen=True, slots=True)
class _Pairing:
    """Two contenders on the examples that both answered: the first's score, the second's gain, and its p-value."""

    before: float
    gain: float
    p: float


def _compare(before: Mapping[str, float], after: Mapping[str, float], seed: int) -> _Pairing:
    shared = [unit for unit in before if unit in after]
    first, second = [before[unit] for unit in shared], [after[unit] for unit in shared]
    return _Pairing(_mean(first), _mean(second) - _mean(first), paired_p_value(first, second, seed=seed))


def _adjust(pairings: Mapping[str, _Pairing]) -> dict[str, float]:
    return dict(zip(pairings, holm([each.p for each in pairings.values()]), strict=True))


def _best_other(name: str, tests: Mapping[str, float]) -> str | None:
    """The other contender with the highest score; the earlier one on a tie."""
    return max((other for other in tests if other != name), key=lambda other: tests[other], default=None)


def _extra_tokens(answer: RunUsage, none: Sequence[Outcome]) -> float | None:
    answers = sum(len(outcome.scores) for outcome in none)
    if not answers:
        return None
    return answer.actor.tokens_in - sum(outcome.answering.actor.tokens_in for outcome in none) / answers


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else 0.0
