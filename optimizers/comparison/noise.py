"""Estimates the noise of the reward from repeated runs of the same supplements, and the gain without noise. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from optimizers.core.clusters import Clusters
from optimizers.core.statistics import gain_interval


@dataclass(frozen=True, slots=True)
class Noise:
    """The noise of the reward: `questions` questions, each with `runs` runs of its supplement.

    - `within`: the mean over questions of the variance of a question's rewards (unbiased; the mean square within of a
      one-way analysis of variance). 0 for a deterministic actor.
    - `agreement`: the share of pairs of runs of one question with equal rewards. 1 for a deterministic actor.
    - `reliability`: the intraclass correlation ICC(1,1) of Shrout and Fleiss (Psychological Bulletin 86, 1979), the
      share of a single run's variance that is between questions. 1 for a deterministic actor.
    - `gain`, with a 95 % `gain_interval`: the mean of a question's rewards over all runs, minus its reward in the one
      run without a supplement, averaged over questions. Noise does not bias it, but widens the interval.
    - `effect`: the mean gain of single runs, divided by its standard deviation between questions. Noise makes it
      smaller. None without variance.
    - `corrected`: the effect without noise, by Spearman's correction for attenuation (American Journal of Psychology
      15, 1904), which subtracts `within` from the variance. None without variance.
    """

    runs: int
    questions: int
    within: float
    agreement: float
    reliability: float
    gain: float
    gain_interval: tuple[float, float]
    effect: float | None
    corrected: float | None

    @property
    def words(self) -> str:
        """Describes the noise in one sentence."""
        low, high = self.gain_interval
        text = (
            f"{self.runs} runs of the same supplements agree in {self.agreement:.1%}; the variance within a question "
            f"is {self.within:.4f} (reliability {self.reliability:.3f}), and the gain over all runs {self.gain:+.3f} "
            f"({low:+.3f}..{high:+.3f})"
        )
        if self.effect is None or self.corrected is None:
            return f"{text}."
        return f"{text}: {self.effect:+.2f} standard deviations, {self.corrected:+.2f} without the noise."


def estimate_noise(runs: Sequence[Sequence[float]], before: Sequence[float], clusters: Clusters | None = None) -> Noise:
    """Estimates the noise from several runs; `before` has the rewards without supplements. All in the questions' order.

    >>> noise = estimate_noise([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]], before=[0.0, 0.0, 0.0])
    >>> round(noise.within, 4), round(noise.agreement, 4), round(noise.gain, 4)  # variances 0, .5, 0
    (0.1667, 0.6667, 0.8333)
    """
    count, times = len(before), len(runs)
    if times < 2 or not count or any(len(run) != count for run in runs):
        raise ValueError(f"Expected two or more runs of the same questions, got {times} of {count}.")
    by_question = list(zip(*runs, strict=True))
    means = [sum(rewards) / times for rewards in by_question]
    within = sum(_compute_variance(rewards) for rewards in by_question) / count
    between = times * _compute_variance(means)
    pairs = [one == other for rewards in by_question for one, other in combinations(rewards, 2)]
    total = between + (times - 1) * within
    single = sum(_compute_variance(_subtract(before, run)) for run in runs) / times
    gain = sum(_subtract(before, means)) / count
    return Noise(
        times,
        count,
        within,
        sum(pairs) / len(pairs),
        1.0 if not within else max(0.0, (between - within) / total),
        gain,
        gain_interval(before, means, clusters=clusters),
        gain / math.sqrt(single) if single > 0 else None,
        gain / math.sqrt(single - within) if single - within > _ROUNDING else None,
    )


_ROUNDING = 1e-12
"""A variance below it is a rounding error."""


def _subtract(before: Sequence[float], after: Sequence[float]) -> list[float]:
    return [second - first for first, second in zip(before, after, strict=True)]


def _compute_variance(values: Sequence[float]) -> float:
    """Returns the unbiased variance; 0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1)
