"""How sure a score is: an interval for one, and a paired test for two on the same examples."""

from __future__ import annotations


def wilson_interval(successes: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a share, (low, high) in [0, 1]; (0, 1) when nothing was tried.

    >>> low, high = wilson_interval(8, 10)
    >>> round(low, 3), round(high, 3)
    (0.49, 0.943)
    >>> wilson_interval(0, 0)
    (0.0, 1.0)
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"Expected 0 <= successes <= trials, got {successes} of {trials}.")
    if not trials:
        return 0.0, 1.0
    from scipy.stats import binomtest

    interval = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(gained: int, lost: int) -> float:
    """Exact McNemar p-value (two-sided) of two programs on the same examples.

    `gained`: examples only the second solved; `lost`: only the first. Under the null hypothesis either is as likely,
    so the p-value is that of the sign test: twice the smaller tail of Binomial(gained + lost, 1/2), at most 1.

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
