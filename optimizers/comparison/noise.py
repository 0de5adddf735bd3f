"""How noisy one run's reward is, from several runs of the same supplements, and what the gain is without it. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from optimizers.core.statistics import gain_interval


@dataclass(frozen=True, slots=True)
class Noise:
    """The rewards of `questions` whose supplements were each run `runs` times.

    `within` is the mean variance of a question's rewards over its runs (unbiased; the mean square within of a one-way
    analysis of variance); `agreement` the share of pairs of runs of a question that were rewarded alike; `reliability`
    the intraclass correlation ICC(1,1) of Shrout and Fleiss (Psychological Bulletin 86, 1979): what of a single run's
    variance is the questions'. An actor that always answers the same has 0, 1 and 1.

    A mean gain is not biased by noise, only less sure; `gain` is that of the questions' means over all runs, against
    their one run without a supplement, with a 95 % interval. What noise makes smaller is the gain in standard
    deviations: `effect` is the mean gain of single runs over its standard deviation between questions, `corrected` is
    Spearman's correction for attenuation (American Journal of Psychology 15, 1904): the same with `within` taken out of
    the variance. Either is None where nothing varies.
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
        """What was found, as a person reads it."""
        low, high = self.gain_interval
        text = (
            f"{self.runs} runs of the same supplements agree in {self.agreement:.1%}; the variance within a question "
            f"is {self.within:.4f} (reliability {self.reliability:.3f}), and the gain over all runs {self.gain:+.3f} "
            f"({low:+.3f}..{high:+.3f})"
        )
        if self.effect is None or self.corrected is None:
            return f"{text}."
        return f"{text}: {self.effect:+.2f} standard deviations, {self.corrected:+.2f} without the noise."


def noise_of(runs: Sequence[Sequence[float]], before: Sequence[float]) -> Noise:
    """What several runs say: in each the questions' rewards, in the same order as theirs without a supplement.

    >>> found = noise_of([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]], before=[0.0, 0.0, 0.0])
    >>> round(found.within, 4), round(found.agreement, 4), round(found.gain, 4)  # variances 0, .5, 0
    (0.1667, 0.6667, 0.8333)
    """
    count, times = len(before), len(runs)
    if times < 2 or not count or any(len(run) != count for run in runs):
        raise ValueError(f"Expected two or more runs of the same questions, got {times} of {count}.")
    of_question = list(zip(*runs, strict=True))
    means = [sum(own) / times for own in of_question]
    within = sum(_variance(own) for own in of_question) / count
    between = times * _variance(means)
    pairs = [one == other for own in of_question for one, other in combinations(own, 2)]
    whole = between + (times - 1) * within
    single = sum(_variance(_gains(before, run)) for run in runs) / times
    gain = sum(_gains(before, means)) / count
    return Noise(
        times,
        count,
        within,
        sum(pairs) / len(pairs),
        1.0 if not within else max(0.0, (between - within) / whole),
        gain,
        gain_interval(before, means),
        gain / math.sqrt(single) if single > 0 else None,
        gain / math.sqrt(single - within) if single - within > _NOTHING else None,
    )


_NOTHING = 1e-12


def _gains(before: Sequence[float], after: Sequence[float]) -> list[float]:
    return [second - first for first, second in zip(before, after, strict=True)]


def _variance(values: Sequence[float]) -> float:
    """The unbiased variance; 0 of fewer than two."""
    if len(values) < 2:
        return 0.0
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1)
