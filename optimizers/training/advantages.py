"""Advantages of samples within their groups, for GRPO. Pure: no torch here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Final

from optimizers.core.records import ScoredSample

SPREAD_FLOOR: Final = 1e-4
"""Added to a standard deviation before it divides, as TRL 1.16 does."""

EQUAL: Final = 1e-9
"""Rewards of a group that lie this close together are equal: a difference is rounding."""


def group_advantages(samples: Sequence[ScoredSample], *, divide_by_std: bool = False) -> list[float]:
    """Each sample's advantage, in the samples' order: its reward minus the mean of its query's samples.

    With `divide_by_std`, divided by the standard deviation of the group (n - 1 in the denominator). The samples of a
    group with equal rewards have 0.0: they tell nothing apart. Sources: GRPO (arXiv 2402.03300); without the division
    Dr. GRPO (arXiv 2503.20783).

    >>> group = [ScoredSample("q", "cot", "17 x 3?", f"[cot] {n}", reward) for n, reward in enumerate([1, 0, 0, 0])]
    >>> group_advantages(group)
    [0.75, -0.25, -0.25, -0.25]
    >>> [round(each, 2) for each in group_advantages(group, divide_by_std=True)]
    [1.5, -0.5, -0.5, -0.5]
    >>> group_advantages(group[1:])
    [0.0, 0.0, 0.0]
    """
    rewards: dict[str, list[float]] = defaultdict(list)
    for sample in samples:
        rewards[sample.query].append(sample.reward)
    scale = {
        query: (fmean(found), _scale(found, divide_by_std) if max(found) - min(found) > EQUAL else 0.0)
        for query, found in rewards.items()
    }
    return [(each.reward - mean) * factor for each in samples for mean, factor in [scale[each.query]]]


def _scale(rewards: Sequence[float], divide_by_std: bool) -> float:
    return 1 / (stdev(rewards) + SPREAD_FLOOR) if divide_by_std else 1.0
