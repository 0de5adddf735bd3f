"""Outcomes -> rows: how a contender stands beside no change and the best other, and how sure that is. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import pstdev

from optimizers.comparison.outcomes import Cost, Outcome, Skipped, by_example
from optimizers.core.statistics import holm, mean_interval, paired_p

NONE = "none"
"""The contender that all are measured against."""

SURE = 0.05
"""A p-value below it is called better."""


@dataclass(frozen=True, slots=True)
class Row:
    """A contender's standing. Scores are in [0, 1]; what could not be found out is None.

    `test` is the mean over the test examples on which every contender has a score, each at its mean over the seeds,
    with a 95 % `interval`; `by_seed` are the seeds' own. `gain` and `relative_gain` are against no change on the same
    examples, `p_value` is of
    that gain and `p_best` of the difference to the best other contender, `best_other`; both are adjusted by Holm's
    method over the table's rows. `compiling` is the mean a seed; `answer` is one answer's cost, `extra_tokens` of it
    are prompt tokens that no change does not read, and `latency` its seconds when nothing else is asked. `unanswered`
    counts answers that an outage kept back. `skipped` says why there is nothing else.
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
    compiling: Cost = field(default_factory=Cost)
    answer: Cost = field(default_factory=Cost)
    extra_tokens: float | None = None
    latency: float | None = None
    unanswered: int = 0
    skipped: str = ""

    @property
    def better(self) -> bool:
        """Whether it is better than no change, and that is hardly luck."""
        return bool(self.gain is not None and self.gain > 0 and self.p_value is not None and self.p_value < SURE)


def standing(outcomes: Sequence[Outcome], skipped: Sequence[Skipped] = (), *, seed: int = 0) -> list[Row]:
    """A row a contender, in the order in which they first come; those that were skipped come last.

    >>> none, best = Outcome("none", 0, {"x": 0.0, "y": 0.0}), Outcome("best", 0, {"x": 1.0, "y": 0.0})
    >>> [(row.name, row.test, row.gain, row.p_value) for row in standing([none, best])]
    [('none', 0.0, None, None), ('best', 0.5, 0.5, 1.0)]
    """
    of_name: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        of_name.setdefault(outcome.name, []).append(outcome)
    scores = _on_the_same({name: by_example(own) for name, own in of_name.items()})
    tests = {name: _mean(own.values()) for name, own in scores.items()}
    others = [name for name in of_name if name != NONE]
    against_none = {name: _paired(scores[NONE], scores[name], seed) for name in others} if NONE in scores else {}
    best_of = {name: _best_other(name, tests) for name in others}
    against_best = {name: _paired(scores[best], scores[name], seed) for name, best in best_of.items() if best}
    p_value, p_best = _adjusted(against_none), _adjusted(against_best)
    rows: list[Row] = []
    for name, own in of_name.items():
        by_seed = {outcome.seed: _mean(outcome.answered_of(scores[name]).values()) for outcome in own}
        answers = sum(len(outcome.scores) for outcome in own)
        answer = sum((outcome.answering for outcome in own), Cost()) / max(1, answers)
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
                compiling=sum((outcome.compiling for outcome in own), Cost()) / len(own),
                answer=answer,
                extra_tokens=_extra(answer, of_name.get(NONE, ())),
                latency=sorted(outcome.latency for outcome in own)[len(own) // 2],
                unanswered=answers - sum(len(outcome.answered) for outcome in own),
            )
        )
    return [*rows, *(Row(each.name, skipped=each.reason) for each in skipped)]


def _on_the_same(scores: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Each contender's scores on the examples on which all have one; one without any score is left as it is.

    Where an outage left no such example, each keeps all it has.
    """
    known = [set(own) for own in scores.values() if own]
    shared = set[str].intersection(*known) if known else set[str]()
    if not shared:
        return {name: dict(own) for name, own in scores.items()}
    return {name: {unit: score for unit, score in own.items() if unit in shared} for name, own in scores.items()}


@dataclass(frozen=True, slots=True)
class _Pairing:
    """Two contenders on the examples that both answered: the first's score, the second's gain, and its p-value."""

    before: float
    gain: float
    p: float


def _paired(before: Mapping[str, float], after: Mapping[str, float], seed: int) -> _Pairing:
    shared = [unit for unit in before if unit in after]
    first, second = [before[unit] for unit in shared], [after[unit] for unit in shared]
    return _Pairing(_mean(first), _mean(second) - _mean(first), paired_p(first, second, seed=seed))


def _adjusted(pairings: Mapping[str, _Pairing]) -> dict[str, float]:
    return dict(zip(pairings, holm([each.p for each in pairings.values()]), strict=True))


def _best_other(name: str, tests: Mapping[str, float]) -> str | None:
    """The highest score but its own; the earlier one on a tie."""
    return max((other for other in tests if other != name), key=lambda other: tests[other], default=None)


def _extra(answer: Cost, none: Sequence[Outcome]) -> float | None:
    answers = sum(len(outcome.scores) for outcome in none)
    if not answers:
        return None
    return answer.actor_in - sum(outcome.answering.actor_in for outcome in none) / answers


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0
