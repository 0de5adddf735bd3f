"""Questions that share a cluster, such as a term: the mean of clustered values, and a test over clusters. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sgt_modules.errors import SetupError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Clusters = Sequence[Hashable | None]
"""The cluster of each question, in the questions' order; None for a question that is its own cluster."""

EXACT = 13
"""With at most this many differences, a permutation test uses all sign flips (8,192 at most)."""

FLIPS = 9_999
"""The number of random sign flips if there are more differences."""

_COUNTABLE = 100_000
"""Whole differences that add up to at most this are counted exactly, however many they are."""


def find_clusters(cluster: Callable[[Any], Hashable | None] | None, examples: Sequence[Any]) -> list[Hashable | None]:
    """The cluster of each example; None for one that is its own, and for all without a function.

    Raises `SetupError` for a function that fails, or returns what cannot be compared.

    >>> find_clusters(lambda example: example["term"], [{"term": "zoka"}, {"term": None}])
    ['zoka', None]
    """
    if cluster is None:
        return [None] * len(examples)
    try:
        found = [cluster(each) for each in examples]
        hash(tuple(found))
    except Exception as error:
        raise SetupError(
            "Expected cluster as a function of an example that returns what it shares with others, such as a name, or "
            f"None, got {type(error).__name__}: {error}. Return a text or a number."
        ) from error
    return found


def number_clusters(clusters: Clusters) -> list[int]:
    """Returns the number of each question's cluster, from 0 in the order of their first questions.

    >>> number_clusters(["zoka", None, "zoka", None, "mibu"])
    [0, 1, 0, 2, 3]
    """
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(object() if each is None else each, len(numbers)) for each in clusters]


def number_splits(
    cluster: Callable[[Any], Hashable | None], splits: Mapping[str, Sequence[Any]]
) -> dict[str, list[int]]:
    """Returns the number of each example's cluster by split, as a run's folder holds them; raises as `find_clusters`.

    >>> number_splits(lambda example: example["term"], {"val": [{"term": "zoka"}, {"term": None}, {"term": "zoka"}]})
    {'val': [0, 1, 0]}
    """
    return {name: number_clusters(find_clusters(cluster, examples)) for name, examples in splits.items()}


def count_clusters(clusters: Clusters) -> int:
    """Returns how many clusters there are; a None counts as one.

    >>> count_clusters(["zoka", None, "zoka", None])
    3
    """
    return len(set(number_clusters(clusters)))


def find_shared(clusters: Clusters | None, count: int) -> list[int] | None:
    """Returns the clusters' numbers if two of the `count` questions share one, else None: then all are independent.

    Raises `ValueError` if there are not as many clusters as questions.

    >>> find_shared(["a", "b"], 2), find_shared(["a", "a"], 2)
    (None, [0, 0])
    """
    if clusters is None:
        return None
    if len(clusters) != count:
        raise ValueError(f"Expected a cluster for each of {count} questions, got {len(clusters)}.")
    numbers = number_clusters(clusters)
    return numbers if max(numbers, default=0) + 1 < count else None


@dataclass(frozen=True, slots=True)
class ClusterMean:
    """The mean of clustered values, the `variance` of this mean, its degrees of freedom, and the number of clusters.

    `squares` is the mean of the squared values. With one cluster the variance is unknown: infinite, with 0 degrees.
    """

    mean: float
    variance: float
    df: float
    clusters: int
    squares: float

    def quantile(self, probability: float) -> float:
        """Returns Student's t quantile for these degrees of freedom; infinite with one cluster."""
        if self.df <= 0:
            return float("inf")
        from scipy.special import stdtrit

        return float(stdtrit(self.df, probability))


def estimate_mean(values: Sequence[float], numbers: Sequence[int]) -> ClusterMean:
    """Estimates the mean of values whose clusters have these numbers, with its cluster-robust variance.

    The variance is CR2 of Bell and McCaffrey (Survey Methodology 28, 2002) for a model with an intercept only: the sum
    over clusters of (sum of residuals)**2 / (1 - share of the questions), over the squared number of questions. The
    degrees of freedom are their Satterthwaite approximation, for the intraclass correlation that the values show. With
    clusters of equal size they are the number of clusters minus 1.

    >>> found = estimate_mean([1, 1, 0, 0, 1, 1], [0, 0, 1, 1, 2, 2])
    >>> round(found.mean, 3), round(found.variance, 3), round(found.df, 3)  # means 1, 0, 1: variance (1/3) / 3
    (0.667, 0.111, 2.0)
    """
    import numpy as np

    scores = np.asarray(values, dtype=np.float64)
    sizes = np.bincount(numbers).astype(np.float64)
    total, mean = float(len(scores)), float(scores.mean())
    squares = float((scores**2).mean())
    if len(sizes) < 2:
        return ClusterMean(mean, float("inf"), 0.0, 1, squares)
    residuals = np.bincount(numbers, weights=scores - mean).astype(np.float64)
    shares = sizes / total
    variance = float((residuals**2 / (1 - shares)).sum()) / total**2
    within = _estimate_correlation(scores, sizes, residuals)
    return ClusterMean(mean, variance, _satterthwaite(sizes, within), len(sizes), squares)


def _estimate_correlation(
    scores: NDArray[np.float64], sizes: NDArray[np.float64], residuals: NDArray[np.float64]
) -> float:
    """Returns the intraclass correlation in [0, 1] by the analysis of variance; 0 if no cluster has two questions."""
    total, count = sizes.sum(), len(sizes)
    if total == count:
        return 0.0
    centred = scores - scores.mean()
    between_sum = float((residuals**2 / sizes).sum())
    between, within = between_sum / (count - 1), (float((centred**2).sum()) - between_sum) / (total - count)
    typical = (total - (sizes**2).sum() / total) / (count - 1)
    spread = between + (typical - 1) * within
    return min(1.0, max(0.0, (between - within) / spread)) if spread > 0 else 0.0


def _satterthwaite(sizes: NDArray[np.float64], correlation: float) -> float:
    """Returns the degrees of freedom of CR2: (trace)**2 / sum of squares, of the covariance of its terms."""
    import numpy as np

    total, shares = sizes.sum(), sizes / sizes.sum()
    sums = sizes + correlation * sizes * (sizes - 1)  # the variance of each cluster's sum
    covariance = np.diag(sums) - np.outer(sums, shares) - np.outer(shares, sums) + np.outer(shares, shares) * sums.sum()
    scale = 1 / (total * np.sqrt(1 - shares))
    terms = covariance * np.outer(scale, scale)
    return float(np.trace(terms) ** 2 / (terms**2).sum())


def compute_sign_flip_p(sums: Sequence[float], *, seed: int = 0) -> float:
    """p-value (two-sided) of a sign-flip test over independent clusters' summed differences.

    Under the null hypothesis each sum is as likely as its negative. All sign flips count if at most `EXACT` sums
    differ from 0, or if the sums are whole numbers, as of right and wrong answers; else `FLIPS` random ones from
    `seed`.

    >>> round(compute_sign_flip_p([3, 2, 2, 0]), 3)  # 2 of 2**3 ways are as far from 0
    0.25
    >>> compute_sign_flip_p([1.0] * 20) == 2 / 2**20
    True
    """
    import numpy as np

    apart = np.array([each for each in sums if abs(each) > 1e-12])
    if not len(apart):
        return 1.0
    if np.all(apart == np.rint(apart)) and abs(apart).sum() <= _COUNTABLE:
        return _count_whole_sums(np.rint(np.abs(apart)).astype(int), int(abs(apart.sum())))
    flips = _draw_flips(len(apart), seed)
    far = np.abs(flips @ apart) >= abs(apart.sum()) - 1e-9
    return float(far.mean()) if len(apart) <= EXACT else float(1 + far.sum()) / (FLIPS + 1)


def _count_whole_sums(sizes: NDArray[np.int64], distance: int) -> float:
    """Returns the share of all sign flips whose sum is at least `distance` from 0, for sizes of at least 1."""
    import numpy as np

    total = int(sizes.sum())
    shares, reach = np.zeros(2 * total + 1), 0
    shares[total] = 1.0
    for size in sorted(sizes.tolist()):
        reach += size
        inner = shares[total - reach + size : total + reach - size + 1] / 2
        shares[total - reach : total + reach + 1] = 0.0
        shares[total - reach : total + reach - 2 * size + 1] += inner
        shares[total - reach + 2 * size : total + reach + 1] += inner
    return float(min(1.0, 2 * shares[total + distance :].sum())) if distance else 1.0


@lru_cache(maxsize=2)
def _draw_flips(count: int, seed: int) -> NDArray[np.float64]:
    """Returns rows of signs: all of them for few differences, else random ones."""
    import numpy as np

    if count <= EXACT:
        return np.array(list(itertools.product((-1.0, 1.0), repeat=count)))
    flipped = np.random.default_rng(seed).integers(0, 2, size=(FLIPS, count), dtype=np.int8)
    return np.where(flipped == 0, 1.0, -1.0)
