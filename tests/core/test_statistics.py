"""Intervals and p-values against values derived by hand."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizers.comparison.leaderboard import rank_rows
from optimizers.comparison.outcomes import TrialOutcome
from optimizers.core.statistics import holm, mcnemar, mean_interval, paired_p_value, wilson_interval

Z = 1.959963984540054  # the normal distribution's 97.5 % point


def test_the_interval_is_wilson_s_formula() -> None:
    """(p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)"""
    successes, trials = 30, 200
    share, pull = successes / trials, Z**2 / trials
    spread = Z * math.sqrt(share * (1 - share) / trials + pull / (4 * trials))
    low, high = ((share + pull / 2 + sign * spread) / (1 + pull) for sign in (-1, 1))
    assert wilson_interval(successes, trials) == pytest.approx((low, high))


@settings(deadline=None)
@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_share_and_stays_between_nought_and_one(count: tuple[int, int]) -> None:
    low, high = wilson_interval(*count)
    assert 0.0 <= low <= count[0] / count[1] + 1e-12
    assert count[0] / count[1] - 1e-12 <= high <= 1.0


def test_nothing_tried_says_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_more_confidence_is_a_wider_interval() -> None:
    narrow, wide = wilson_interval(5, 10, confidence=0.5), wilson_interval(5, 10, confidence=0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


@pytest.mark.parametrize("count", [(3, 2), (-1, 2)])
def test_impossible_counts_are_refused(count: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="Expected 0 <= successes <= trials"):
        wilson_interval(*count)


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_twice_the_smaller_tail_of_fair_coins(gained: int, lost: int) -> None:
    flips = gained + lost
    tail = sum(math.comb(flips, k) for k in range(min(gained, lost) + 1)) / 2**flips
    assert mcnemar(gained, lost) == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar(gained, lost) == mcnemar(lost, gained)


def test_negative_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 0"):
        mcnemar(-1, 2)


def test_holm_adjusts_as_in_his_example() -> None:
    """Smallest p times 4, the next times 3, and so on, none below the one before: Holm (1979), section 3."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_binary_scores_are_tested_by_mcnemar_and_others_by_permutation() -> None:
    """Darwin's maize: 15 pairs of plants, in eighths of an inch; 863 of 2**14 sign flips are as far: Fisher (1935)."""
    crossed = [188, 96, 168, 176, 153, 172, 177, 163, 146, 173, 186, 168, 177, 184, 96]
    selfed = [139, 163, 160, 160, 147, 149, 149, 122, 132, 144, 130, 144, 102, 124, 144]
    exact = 2 * 863 / 2**15
    assert paired_p_value(selfed, crossed) == pytest.approx(exact, abs=3 * math.sqrt(exact * (1 - exact) / 9_999))
    assert paired_p_value([0, 0, 1, 0, 0, 0], [1, 1, 0, 1, 1, 1]) == mcnemar(5, 1)


def test_a_permutation_test_of_few_pairs_is_exact() -> None:
    """All four differences are positive, so 2 of 2**4 flips are as far from nought."""
    assert paired_p_value([0.1, 0.2, 0.3, 0.4], [0.2, 0.4, 0.6, 0.8]) == pytest.approx(2 / 16)
    assert paired_p_value([0.3, 0.4], [0.3, 0.4]) == 1.0


def test_paired_scores_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="got 1 and 2"):
        paired_p_value([0.0], [0.0, 1.0])


def test_the_interval_of_a_mean_is_students() -> None:
    """4.303 is t's 97.5 % point with 2 degrees of freedom; the standard deviation of .4, .5, .6 is .1."""
    low, high = mean_interval([0.4, 0.5, 0.6])
    half = 4.30265 * 0.1 / math.sqrt(3)
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-5)
    assert mean_interval([1.0, 0.0, 1.0, 1.0]) == wilson_interval(3, 4)
    assert mean_interval([0.5] * 10) == wilson_interval(5, 10)
    assert mean_interval([]) == (0.0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["binary", "graded"])
def test_of_a_thousand_comparisons_of_equals_at_most_five_in_a_hundred_are_called_better(kind: str) -> None:
    """Contenders like `none` in each: what a row calls `better` (p < .05 after Holm, and above it)."""
    rng = random.Random(f"null-{kind}")
    false = 0
    for _ in range(1_000):
        hard = [rng.random() for _ in range(60)]  # questions differ, contenders do not
        outcomes = [
            TrialOutcome(name, 0, {str(unit): _drawn(rng, share, kind) for unit, share in enumerate(hard)})
            for name in (("none", "one", "two", "three") if kind == "binary" else ("none", "one"))
        ]
        false += any(row.better for row in rank_rows(outcomes))
    assert false <= 50


@pytest.mark.parametrize(("kind", "count"), [("binary", 60), ("binary", 240), ("graded", 40), ("seeds", 120)])
def test_ninety_five_of_a_hundred_intervals_hold_the_true_mean(kind: str, count: int) -> None:
    """Binary scores at .3, .5 and .8; graded ones around .5; and means of three seeds on questions that differ."""
    rng = random.Random(f"coverage-{kind}-{count}")
    held, trials = 0, 3_000
    for trial in range(trials):
        share = (0.3, 0.5, 0.8)[trial % 3]
        if kind == "binary":
            mean, values = share, [float(rng.random() < share) for _ in range(count)]
        elif kind == "graded":
            mean, values = 0.5, [rng.betavariate(2, 2) for _ in range(count)]
        else:
            mean = 0.5
            values = [sum(rng.random() < hard for _ in range(3)) / 3 for hard in [rng.random() for _ in range(count)]]
        low, high = mean_interval(values)
        held += low <= mean <= high
    assert 0.93 <= held / trials <= 0.97


def _drawn(rng: random.Random, share: float, kind: str) -> float:
    return float(rng.random() < share) if kind == "binary" else round((share + rng.random()) / 2, 3)
