"""Intervals for scores, paired tests for two programs on the same examples, and Holm's adjustment.

Questions are independent unless `clusters` says which ones share a cluster, such as a term. Then intervals are
cluster-robust, and tests flip the signs of whole clusters. `benchmarks/statistics_check.py` checks both by simulation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from optimizers.core.clusters import ClusterMean, Clusters, compute_sign_flip_p, estimate_mean, find_shared

POWER, LEVEL = 0.8, 0.05
"""The power and the two-sided level of the smallest difference that a design can see."""


def wilson_interval(successes: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a share, (low, high) in [0, 1]; (0, 1) for 0 trials.

    >>> low, high = wilson_interval(8, 10)
    >>> round(low, 3), round(high, 3)
    (0.49, 0.943)
    >>> wilson_interval(0, 0)
    (0.0, 1.0)
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"Expected 0 <= successes <= trials, got {successes} of {trials}.")
    return _wilson(successes, trials, confidence) if trials else (0.0, 1.0)


@lru_cache(maxsize=4096)
def _wilson(successes: int, trials: int, confidence: float) -> tuple[float, float]:
    """SciPy's interval, milliseconds each: a page asks for the same few many times."""
    from scipy.stats import binomtest

    interval = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(gained: int, lost: int) -> float:
    """Exact McNemar p-value (two-sided) of two programs on the same examples.

    `gained` counts the examples that only the second solved, `lost` those that only the first solved. Under the null
    hypothesis both are equally likely, so the p-value is that of the sign test: twice the smaller tail of
    Binomial(gained + lost, 1/2), at most 1.

    >>> mcnemar(5, 0)  # 2 * (1/2)**5
    0.0625
    >>> mcnemar(3, 3), mcnemar(0, 0)
    (1.0, 1.0)
    """
    if min(gained, lost) < 0:
        raise ValueError(f"Expected two counts of at least 0, got {gained} and {lost}.")
    if gained + lost == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost, 0.5).pvalue)


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation in [-1, 1], with mean ranks for ties; 0.0 if either side is constant.

    >>> round(spearman([-0.1, 0.0, 0.0, 0.2], [-1, 0, 0, 1]), 3), spearman([1, 2], [3, 3])
    (1.0, 0.0)
    """
    if len(set(first)) < 2 or len(set(second)) < 2:
        return 0.0
    from scipy.stats import spearmanr

    return float(cast("Any", spearmanr(first, second)).statistic)


def mean_interval(
    values: Sequence[float], *, clusters: Clusters | None = None, confidence: float = 0.95
) -> tuple[float, float]:
    """An interval for the mean of scores in [0, 1], (low, high): Wilson's if all are 0 or 1, else Student's t.

    The t interval is clipped to [0, 1]. It has no width if all scores are equal; then Wilson's interval for a share of
    that size is used. If questions share clusters: Wilson's interval for as many independent questions as would give
    the mean the same variance, with Student's t quantile (Dean and Pagano, Journal of Survey Statistics and
    Methodology 3, 2015). With a single cluster nothing is known of the variance, and the interval is (0, 1).

    >>> [round(end, 3) for end in mean_interval([1.0] * 8 + [0.0] * 2)]
    [0.49, 0.943]
    >>> [round(end, 3) for end in mean_interval([0.2, 0.4, 0.6])]  # .4 +- 4.303 * .2 / sqrt(3)
    [0.0, 0.897]
    >>> [round(end, 3) for end in mean_interval([1.0] * 8 + [0.0] * 2, clusters="aabbccddee")]  # five, not ten
    [0.223, 0.982]
    """
    if not values:
        return 0.0, 1.0
    shared = find_shared(clusters, len(values))
    if shared is not None:
        return _interval_of_clusters(estimate_mean(values, shared), confidence)
    count, mean = len(values), sum(values) / len(values)
    if _binary(values) or count == 1 or len(set(values)) == 1:
        return wilson_interval(min(count, round(mean * count)), count, confidence=confidence)
    from scipy.stats import t

    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1) / count)
    half = float(t.ppf((1 + confidence) / 2, count - 1)) * spread
    return max(0.0, mean - half), min(1.0, mean + half)


def _interval_of_clusters(found: ClusterMean, confidence: float) -> tuple[float, float]:
    """Wilson's interval for the effective number of questions; one question a cluster if the scores do not vary."""
    quantile, mean = found.quantile((1 + confidence) / 2), found.mean
    if not found.df:
        return 0.0, 1.0
    pull = quantile**2 / _effective_questions(found, mean * (1 - mean))
    centre = (mean + pull / 2) / (1 + pull)
    half = math.sqrt(pull * (mean * (1 - mean) + pull / 4)) / (1 + pull)
    return max(0.0, centre - half), min(1.0, centre + half)


def _effective_questions(found: ClusterMean, variance: float) -> float:
    """How many independent questions of this variance give the mean its variance; one a cluster if that is 0."""
    return variance / found.variance if min(variance, found.variance) > _ROUNDING else float(found.clusters)


_ROUNDING = 1e-12
"""A variance below it is a rounding error."""


def gain_interval(
    before: Sequence[float], after: Sequence[float], *, clusters: Clusters | None = None, confidence: float = 0.95
) -> tuple[float, float]:
    """An interval for the mean gain of two programs on the same examples, in their order: (low, high) in [-1, 1].

    If every score is 0 or 1, Agresti and Min's interval for a difference of matched proportions (Statistics in Medicine
    24, 2005): Wald's, with half an example added to each cell of the two-by-two table. Otherwise Student's t of the
    differences. The t interval has no width if all differences are equal; then Agresti and Min's is used. If questions
    share clusters: Agresti and Min's for as many independent questions as would give the mean gain the same variance,
    with Student's t quantile.

    >>> [round(end, 3) for end in gain_interval([0.0] * 10, [1.0] * 4 + [0.0] * 6)]  # 4/12 +- 1.96 sqrt(.3056 / 12)
    [0.021, 0.646]
    >>> [round(end, 3) for end in gain_interval([0.1, 0.2, 0.3], [0.3, 0.6, 0.9])]  # .4 +- 4.303 * .2 / sqrt(3)
    [-0.097, 0.897]
    """
    differences = _differences(before, after)
    if not differences:
        return -1.0, 1.0
    shared = find_shared(clusters, len(differences))
    if shared is not None:
        return _gain_interval_of_clusters(estimate_mean(differences, shared), confidence)
    from scipy.stats import norm, t

    count, total = len(differences), sum(differences)
    if (_binary(before) and _binary(after)) or len(set(differences)) == 1:
        mean = total / (count + 2)
        variance = (sum(each**2 for each in differences) + 1) / (count + 2) - mean**2
        half = float(norm.ppf((1 + confidence) / 2)) * math.sqrt(variance / (count + 2))
    else:
        mean = total / count
        spread = math.sqrt(sum((each - mean) ** 2 for each in differences) / (count - 1) / count)
        half = float(t.ppf((1 + confidence) / 2, count - 1)) * spread
    return max(-1.0, mean - half), min(1.0, mean + half)


def _gain_interval_of_clusters(found: ClusterMean, confidence: float) -> tuple[float, float]:
    quantile = found.quantile((1 + confidence) / 2)
    if not found.df:
        return -1.0, 1.0
    count = _effective_questions(found, found.squares - found.mean**2)
    mean = found.mean * count / (count + 2)
    variance = (found.squares * count + 1) / (count + 2) - mean**2
    half = quantile * math.sqrt(variance / (count + 2))
    return max(-1.0, mean - half), min(1.0, mean + half)


def saving_interval(
    before: Sequence[float],
    after: Sequence[float],
    *,
    clusters: Sequence[str] | None = None,
    confidence: float = 0.95,
    samples: int = 9_999,
    seed: int = 0,
) -> tuple[float, float]:
    """An interval for the share saved, 1 - sum(after) / sum(before), of two programs' costs on the same examples.

    A paired percentile bootstrap, seeded: it draws examples with replacement, or whole clusters, if examples share
    them. `before` has at least one example and no sum of zero; the interval is (-inf, 1) with a single cluster.

    >>> saving_interval([4, 4, 4, 4], [3, 3, 3, 3])
    (0.25, 0.25)
    >>> [round(end, 2) for end in saving_interval([8, 8, 4, 4], [4, 4, 4, 4], clusters="aabb")]
    [0.0, 0.5]
    """
    import numpy as np

    groups = {name: n for n, name in enumerate(dict.fromkeys(clusters if clusters is not None else range(len(before))))}
    of_group = [groups[name] for name in (clusters if clusters is not None else range(len(before)))]
    sums = np.array([np.bincount(of_group, weights=costs) for costs in (before, after)])
    if len(groups) < 2:
        return -math.inf, 1.0
    drawn = np.random.default_rng(seed).integers(len(groups), size=(samples, len(groups)))
    before_drawn, after_drawn = sums[:, drawn].sum(axis=2)
    low, high = np.quantile(1 - after_drawn / before_drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def paired_p_value(
    before: Sequence[float], after: Sequence[float], *, clusters: Clusters | None = None, seed: int = 0
) -> float:
    """p-value (two-sided) of two programs' scores on the same examples, in their order.

    Exact McNemar if every score is 0 or 1, else a paired permutation test of the mean difference, which flips the sign
    of each difference: in all ways if at most 13 scores differ, else in 9,999 random ways from `seed`. If questions
    share clusters, the test flips the signs of whole clusters: see `compute_sign_flip_p`.

    >>> paired_p_value([0, 0, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1])
    0.0625
    >>> round(paired_p_value([0.1, 0.2, 0.3], [0.6, 0.7, 0.8]), 3)  # 2 of 2**3 ways are as far from 0
    0.25
    >>> paired_p_value([0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1], clusters="aabbcc")  # 2 of 2**3 ways: three, not six
    0.25
    """
    differences = _differences(before, after)
    shared = find_shared(clusters, len(differences))
    if shared is not None:
        import numpy as np

        return compute_sign_flip_p(np.bincount(shared, weights=differences).tolist(), seed=seed)
    if _binary(before) and _binary(after):
        gained = sum(second > first for first, second in zip(before, after, strict=True))
        lost = sum(second < first for first, second in zip(before, after, strict=True))
        return mcnemar(gained, lost)
    return compute_sign_flip_p(differences, seed=seed)


def smallest_difference(
    before: Sequence[float], after: Sequence[float], *, clusters: Clusters | None = None
) -> float | None:
    """The smallest mean difference that these questions can see: with 80 % power, at a two-sided level of 5 %.

    (t(.975) + t(.8)) standard errors of the mean difference, which is cluster-robust if questions share clusters
    (Bloom, Evaluation Review 19, 1995). None where the differences do not vary or there is a single cluster.

    >>> round(smallest_difference([0.1, 0.2, 0.3], [0.3, 0.6, 0.9]), 3)  # (4.303 + 1.061) * .2 / sqrt(3)
    0.619
    """
    differences = _differences(before, after)
    if not differences:
        return None
    shared = find_shared(clusters, len(differences))
    found = estimate_mean(differences, range(len(differences)) if shared is None else shared)
    if not found.df or found.variance <= _ROUNDING:
        return None
    return (found.quantile(1 - LEVEL / 2) + found.quantile(POWER)) * math.sqrt(found.variance)


@dataclass(frozen=True, slots=True)
class SeedTest:
    """Paired differences by seed: their mean with a 95 % `interval`, its p-value, and the smallest that they can see.

    `deviation` is the sample standard deviation of the differences, `smallest` has 80 % power at a two-sided 5 %.
    """

    seeds: int
    difference: float
    deviation: float
    interval: tuple[float, float]
    p_value: float
    smallest: float | None


def compare_seeds(differences: Sequence[float]) -> SeedTest:
    """Student's paired t test of differences, one a seed; each lies in [-1, 1].

    If all are equal, t has no width: then the exact sign-flip test, and the interval [-1, 1]. One seed has p 1.

    >>> found = compare_seeds([0.1, 0.2, 0.3, 0.2])  # t = .2 / (.0816 / 2) = 4.899 with 3 degrees of freedom
    >>> round(found.p_value, 3), [round(end, 3) for end in found.interval], round(found.smallest, 3)
    (0.016, [0.07, 0.33], 0.17)
    """
    if not differences:
        raise ValueError("Expected the differences of at least one seed, got none.")
    found = estimate_mean(differences, range(len(differences)))
    if not found.df or found.variance <= _ROUNDING:
        p = compute_sign_flip_p(differences)
        return SeedTest(len(differences), found.mean, 0.0, (-1.0, 1.0), p, None)
    from scipy.special import stdtr

    error = math.sqrt(found.variance)
    half = found.quantile(0.975) * error
    p = 2 * float(stdtr(found.df, -abs(found.mean) / error))
    interval = max(-1.0, found.mean - half), min(1.0, found.mean + half)
    smallest = (found.quantile(1 - LEVEL / 2) + found.quantile(POWER)) * error
    return SeedTest(len(differences), found.mean, error * math.sqrt(len(differences)), interval, p, smallest)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of one family of tests, adjusted by Holm's method.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03, 0.005])]
    [0.03, 0.06, 0.06, 0.02]
    """
    if len(p_values) < 2:
        return list(p_values)
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in cast("Any", multipletests(p_values, method="holm"))[1]]


def _differences(before: Sequence[float], after: Sequence[float]) -> list[float]:
    if len(before) != len(after):
        raise ValueError(f"Expected as many scores before as after, got {len(before)} and {len(after)}.")
    return [second - first for first, second in zip(before, after, strict=True)]


def _binary(values: Sequence[float]) -> bool:
    return all(value in (0, 1) for value in values)
