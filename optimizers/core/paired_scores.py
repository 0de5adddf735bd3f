"""Pairs the scores of two programs on the same examples; an example that either has no score on is left out. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar, cast

from optimizers.core.clusters import Clusters
from optimizers.core.records import Rollout

_Key = TypeVar("_Key", bound=Hashable)


class PairedRewards(NamedTuple):
    """Rewards of two stages on the questions that both answered, in one order.

    `right` counts the questions that only the second stage won, `wrong` those that only the first won.
    """

    before: list[float]
    after: list[float]
    right: int
    wrong: int


def pair_rewards(before: Iterable[Rollout], after: Iterable[Rollout], threshold: float = 1.0) -> PairedRewards:
    """The rewards of two stages, given their rollouts in the same order."""
    first, second = pair_scores(before, after)
    both = list(zip(first, second, strict=True))
    right = sum(one < threshold <= other for one, other in both)
    wrong = sum(other < threshold <= one for one, other in both)
    return PairedRewards(first, second, right, wrong)


def pair_scores(before: Iterable[Rollout], after: Iterable[Rollout]) -> tuple[list[float], list[float]]:
    """The scores of both on the examples for which both have one, given rollouts in the same order."""
    both = [
        (first.reward.score, second.reward.score)
        for first, second in zip(before, after, strict=True)
        if first.reward is not None and second.reward is not None
    ]
    return [one for one, _ in both], [other for _, other in both]


def pair_scores_by_example(
    before: Mapping[_Key, float | None], after: Mapping[_Key, float | None]
) -> tuple[list[float], list[float]]:
    """The same for scores by example, in the order of the first.

    >>> pair_scores_by_example({"x": 0.0, "y": 1.0, "z": None}, {"y": 0.5, "x": 1.0, "z": 1.0})
    ([0.0, 1.0], [1.0, 0.5])
    """
    both = find_paired(before, after)
    return [cast("float", before[key]) for key in both], [cast("float", after[key]) for key in both]


def find_paired(before: Mapping[_Key, float | None], after: Mapping[_Key, float | None]) -> list[_Key]:
    """The examples on which both have a score, in the order of the first."""
    return [key for key in before if before[key] is not None and after.get(key) is not None]


def select_clusters(clusters: Clusters | None, *runs: Sequence[Rollout]) -> Clusters:
    """Returns the clusters of the examples for which all runs have a score."""
    known = [all(each.reward is not None for each in rollouts) for rollouts in zip(*runs, strict=True)]
    own = [None] * len(known) if clusters is None else clusters
    return [cluster for cluster, has_score in zip(own, known, strict=True) if has_score]
