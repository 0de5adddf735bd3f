"""Intervals and p-values against values derived by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizers.statistics import mcnemar, wilson_interval

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
