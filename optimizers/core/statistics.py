"""Intervals for scores, paired tests for two programs on the same examples, and Holm's adjustment."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EXACT = 13
"""With at most this many differences, a permutation test uses all sign flips (8,192 at most)."""

FLIPS = 9_999
"""The number of random sign flips if there are more differences."""


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


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float]:
    """An interval for the mean of scores in [0, 1], (low, high): Wilson's if all are 0 or 1, else Student's t.

    The t interval is clipped to [0, 1]. It has no width if all scores are equal; then Wilson's interval for a share of
    that size is used.

    >>> [round(end, 3) for end in mean_interval([1.0] * 8 + [0.0] * 2)]
    [0.49, 0.943]
    >>> [round(end, 3) for end in mean_interval([0.2, 0.4, 0.6])]  # .4 +- 4.303 * .2 / sqrt(3)
    [0.0, 0.897]
    """
    if not values:
        return 0.0, 1.0
    count, mean = len(values), sum(values) / len(values)
    if _binary(values) or count == 1 or len(set(values)) == 1:
        return wilson_interval(min(count, round(mean * count)), count, confidence=confidence)
    from scipy.stats import t

    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1) / count)
    half = float(t.ppf((1 + confidence) / 2, count - 1)) * spread
    return max(0.0, mean - half), min(1.0, mean + half)


def gain_interval(before: Sequence[float], after: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float]:
    """An interval for the mean gain of two programs on the same examples, in their order: (low, high) in [-1, 1].

    If every score is 0 or 1, Agresti and Min's interval for a difference of matched proportions (Statistics in Medicine
    24, 2005): Wald's, with half an example added to each cell of the two-by-two table. Otherwise Student's t of the
    differences. The t interval has no width if all differences are equal; then Agresti and Min's is used.

    >>> [round(end, 3) for end in gain_interval([0.0] * 10, [1.0] * 4 + [0.0] * 6)]  # 4/12 +- 1.96 sqrt(.3056 / 12)
    [0.021, 0.646]
    >>> [round(end, 3) for end in gain_interval([0.1, 0.2, 0.3], [0.3, 0.6, 0.9])]  # .4 +- 4.303 * .2 / sqrt(3)
    [-0.097, 0.897]
    """
    differences = _differences(before, after)
    if not differences:
        return -1.0, 1.0
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


def paired_p_value(before: Sequence[float], after: Sequence[float], *, seed: int = 0) -> float:
    """p-value (two-sided) of two programs' scores on the same examples, in their order.

    Exact McNemar if every score is 0 or 1, else a paired permutation test of the mean difference, which flips the sign
    of each difference: in all ways if at most `EXACT` scores differ, else in `FLIPS` random ways from `seed`.

    >>> paired_p_value([0, 0, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1])
    0.0625
    >>> round(paired_p_value([0.1, 0.2, 0.3], [0.6, 0.7, 0.8]), 3)  # 2 of 2**3 ways are as far from 0
    0.25
    """
    differences = [each for each in _differences(before, after) if each]
    if _binary(before) and _binary(after):
        gained = sum(second > first for first, second in zip(before, after, strict=True))
        lost = sum(second < first for first, second in zip(before, after, strict=True))
        return mcnemar(gained, lost)
    if not differences:
        return 1.0
    import numpy as np

    apart, count = np.array(differences), len(differences)
    if count <= EXACT:
        ways = np.array(list(itertools.product((-1, 1), repeat=count)))
        return float(np.mean(_at_least_as_far(ways @ apart, apart)))
    flipped = np.random.default_rng(seed).integers(0, 2, size=(FLIPS, count), dtype=np.int8)
    return float(1 + np.sum(_at_least_as_far(apart.sum() - 2 * (flipped.astype(np.float64) @ apart), apart))) / (
        FLIPS + 1
    )


def _at_least_as_far(sums: NDArray[np.float64], apart: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which sums are at least as far from 0 as the sum of the differences, except for rounding."""
    return abs(sums) >= abs(apart.sum()) - 1e-9


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
