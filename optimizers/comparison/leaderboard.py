"""Ranks contenders: compares each with no change and with the best other contender, with p-values. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import stdev

from optimizers.comparison.outcomes import SkippedContender, TrialOutcome, average_by_example
from optimizers.core.clusters import count_clusters
from optimizers.core.paired_scores import find_paired, pair_scores_by_example
from optimizers.core.statistics import holm, mean_interval, paired_p_value, smallest_difference
from optimizers.core.usage import RunUsage

NO_CHANGE = "none"
"""The contender that leaves the program unchanged. All others are compared with it."""

SIGNIFICANT_P = 0.05
"""A gain with a p-value below it is significant."""


@dataclass(frozen=True, slots=True)
class Row:
    """A contender's row of the table. Scores are in [0, 1]; an unknown value is None.

    Scores are means over the test examples for which every contender has a score. `test`, with a 95 % `interval`,
    averages the seeds of each example first; `by_seed` has the mean of each seed, `spread` their sample standard
    deviation. `questions` counts these examples, `clusters` their clusters, which the interval and the tests allow for.

    `gain` and `relative_gain` compare with no change. `p_value` tests the gain, `p_best` the difference from the best
    other contender, `best_other`; both are adjusted by Holm's method over the table's rows. `smallest_gain` is the
    smallest gain that these questions can see, with 80 % power at 5 %.

    `compiling` is the mean usage per seed, `answer` the mean usage per answer. `extra_tokens` are the prompt tokens of
    an answer above those of no change, `latency` its seconds while no other call is in flight. `unanswered` counts the
    answers that an outage prevented. `skipped` says why a contender has no values, `stopped` in which phase the budget
    ended its runs of SGT, and how many. `errors` counts the answers that failed by the error's type, in all seeds;
    `error` is one of them.
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
    smallest_gain: float | None = None
    questions: int = 0
    clusters: int = 0
    stopped: str = ""
    errors: Mapping[str, int] = field(default_factory=dict[str, int])
    error: str = ""

    @property
    def better(self) -> bool:
        """Whether the gain over no change is above 0 and significant."""
        return bool(
            self.gain is not None and self.gain > 0 and self.p_value is not None and self.p_value < SIGNIFICANT_P
        )


def rank_rows(
    outcomes: Sequence[TrialOutcome],
    skipped: Sequence[SkippedContender] = (),
    *,
    seed: int = 0,
    clusters: Mapping[str, Hashable | None] | None = None,
) -> list[Row]:
    """Returns a row per contender, in the order of their first outcomes; skipped contenders come last.

    `clusters` are by the ids of the test examples; an example without one, or with None, is its own cluster.

    >>> none, best = TrialOutcome("none", 0, {"x": 0.0, "y": 0.0}), TrialOutcome("best", 0, {"x": 1.0, "y": 0.0})
    >>> [(row.name, row.test, row.gain, row.p_value) for row in rank_rows([none, best])]
    [('none', 0.0, None, None), ('best', 0.5, 0.5, 1.0)]
    """
    of_name: dict[str, list[TrialOutcome]] = {}
    clusters = clusters or {}
    for outcome in outcomes:
        of_name.setdefault(outcome.name, []).append(outcome)
    scores = _keep_shared_examples({name: average_by_example(own) for name, own in of_name.items()})
    tests = {name: _average(own.values()) for name, own in scores.items()}
    others = [name for name in of_name if name != NO_CHANGE]
    with_none = {
        name: _compare_paired_scores(scores[NO_CHANGE], scores[name], seed, clusters)
        for name in others
        if NO_CHANGE in scores
    }
    best_of = {name: _find_best_other(name, tests) for name in others}
    with_best = {
        name: _compare_paired_scores(scores[best], scores[name], seed, clusters)
        for name, best in best_of.items()
        if best
    }
    p_value, p_best = _adjust_p_values(with_none), _adjust_p_values(with_best)
    rows: list[Row] = []
    for name, own in of_name.items():
        by_seed = {outcome.seed: _average(outcome.select_scores(scores[name]).values()) for outcome in own}
        answers = sum(len(outcome.scores) for outcome in own)
        answer = sum((outcome.answering for outcome in own), RunUsage()) / max(1, answers)
        gain, before = (with_none[name].gain, with_none[name].before) if name in with_none else (None, 0.0)
        of_example = [clusters.get(unit) for unit in scores[name]]
        rows.append(
            Row(
                name=name,
                test=tests[name],
                interval=mean_interval(list(scores[name].values()), clusters=of_example),
                gain=gain,
                relative_gain=gain / before if gain is not None and before else None,
                p_value=p_value.get(name),
                p_best=p_best.get(name),
                best_other=best_of.get(name) or "",
                by_seed=by_seed,
                spread=stdev(by_seed.values()) if len(by_seed) > 1 else None,
                compiling=sum((outcome.compiling for outcome in own), RunUsage()) / len(own),
                answer=answer,
                extra_tokens=_count_extra_tokens(answer, of_name.get(NO_CHANGE, ())),
                latency=sorted(outcome.latency for outcome in own)[len(own) // 2],
                unanswered=answers - sum(len(outcome.known_scores) for outcome in own),
                smallest_gain=with_none[name].smallest if name in with_none else None,
                questions=len(of_example),
                clusters=count_clusters(of_example),
                stopped=_describe_stops(own),
                errors=dict(sum((Counter(outcome.errors) for outcome in own), Counter[str]())),
                error=next((outcome.error for outcome in own if outcome.error), ""),
            )
        )
    return [*rows, *(Row(each.name, skipped=each.reason) for each in skipped)]


def _describe_stops(outcomes: Sequence[TrialOutcome]) -> str:
    """Say in which phases the budget ended runs; empty if it ended none.

    >>> _describe_stops([TrialOutcome("sgt", 0, {}, stopped="round 1"), TrialOutcome("sgt", 1, {})])
    'round 1 (1 of 2)'
    """
    phases = Counter(outcome.stopped for outcome in outcomes if outcome.stopped)
    return ", ".join(f"{phase} ({count} of {len(outcomes)})" for phase, count in phases.items())


def _keep_shared_examples(scores: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Drops the examples for which a contender has no score; contenders without any score are ignored.

    If no example remains, for example after an outage, each contender keeps all its scores.
    """
    examples = [set(own) for own in scores.values() if own]
    shared = set[str].intersection(*examples) if examples else set[str]()
    if not shared:
        return {name: dict(own) for name, own in scores.items()}
    return {name: {unit: score for unit, score in own.items() if unit in shared} for name, own in scores.items()}


@dataclass(frozen=True, slots=True)
class _PairedResult:
    """Two contenders on their shared examples: the first one's score, the second one's gain, p-value and resolution."""

    before: float
    gain: float
    p: float
    smallest: float | None


def _compare_paired_scores(
    before: Mapping[str, float], after: Mapping[str, float], seed: int, clusters: Mapping[str, Hashable | None]
) -> _PairedResult:
    first, second = pair_scores_by_example(before, after)
    before_mean = _average(first)
    own = [clusters.get(unit) for unit in find_paired(before, after)]
    p = paired_p_value(first, second, clusters=own, seed=seed)
    return _PairedResult(
        before_mean, _average(second) - before_mean, p, smallest_difference(first, second, clusters=own)
    )


def _adjust_p_values(results: Mapping[str, _PairedResult]) -> dict[str, float]:
    return dict(zip(results, holm([each.p for each in results.values()]), strict=True))


def _find_best_other(name: str, tests: Mapping[str, float]) -> str | None:
    """Returns the other contender with the highest score; the earlier one on a tie."""
    return max((other for other in tests if other != name), key=lambda other: tests[other], default=None)


def _count_extra_tokens(answer: RunUsage, none: Sequence[TrialOutcome]) -> float | None:
    answers = sum(len(outcome.scores) for outcome in none)
    if not answers:
        return None
    return answer.actor.tokens_in - sum(outcome.answering.actor.tokens_in for outcome in none) / answers


def _average(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else 0.0
