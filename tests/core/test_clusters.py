"""Clustered intervals and tests: against values derived by hand, against statsmodels, and by simulation."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from statistics_check import (
    SHARES,
    Design,
    clustered_interval,
    count_false_positives,
    cover_gains,
    cover_means,
    independent_interval,
    measure_power,
    simulate_seed_tests,
)

from optimizers.core.clusters import compute_sign_flip_p, count_clusters, estimate_mean, find_shared
from optimizers.core.statistics import (
    compare_seeds,
    gain_interval,
    mcnemar,
    mean_interval,
    paired_p_value,
    smallest_difference,
)

SHAPES = ((3, 20, 9), (5, 20, 9), (1, 30, 9))
DESIGNS = [Design(*shape, correlation) for shape in SHAPES for correlation in (0.0, 0.5)]
"""`benchmarks/statistics_check.py` has more simulations and more designs."""


@pytest.mark.parametrize("design", DESIGNS, ids=str)
def test_of_a_thousand_null_comparisons_of_clustered_questions_at_most_five_in_a_hundred_are_significant(
    design: Design,
) -> None:
    assert count_false_positives(design, 1_000, np.random.default_rng(3)) <= 0.05


@pytest.mark.parametrize("design", DESIGNS, ids=str)
def test_ninety_five_of_a_hundred_intervals_of_clustered_questions_hold_the_true_score_and_gain(design: Design) -> None:
    rng = np.random.default_rng(0)
    assert 0.93 <= cover_means(design, clustered_interval(design), 600, rng, SHARES) <= 0.97
    assert 0.93 <= cover_gains(design, 600, rng) <= 0.97


def test_questions_that_count_as_independent_although_they_are_not_mislead() -> None:
    design, rng = Design(3, 20, 9, 0.5), np.random.default_rng(0)
    assert cover_means(design, independent_interval, 100, rng, SHARES) < 0.8
    assert count_false_positives(design, 100, rng, clustered=False) > 0.2


def test_a_true_gain_of_the_smallest_size_is_found_in_four_of_five_cases() -> None:
    _, power = measure_power(Design(3, 20, 9, 0.5), 500, np.random.default_rng(0))
    assert 0.74 <= power <= 0.86


@pytest.mark.parametrize("of_seeds", [0.0, 0.1])
def test_the_test_over_eight_seeds_holds_its_level_also_if_seeds_differ(of_seeds: float) -> None:
    """Student's t has a level of 5 % if means are normal, so the share may pass .05 by the simulation's own error."""
    tests = simulate_seed_tests(Design(8, 8, 5, 0.5, of_seeds), 4_000, np.random.default_rng(0))
    false = sum(each.p_value < 0.05 for each in tests) / 4_000
    assert false <= 0.05 + 2 * (0.05 * 0.95 / 4_000) ** 0.5
    assert 0.93 <= sum(each.interval[0] <= 0 <= each.interval[1] for each in tests) / 4_000 <= 0.97


def test_the_variance_is_statsmodels_cluster_robust_one_if_all_clusters_have_one_size() -> None:
    """Then CR1's factor, clusters / (clusters - 1), is that of CR2."""
    from statsmodels.regression.linear_model import OLS

    values, numbers = np.random.default_rng(0).random(60), np.repeat(np.arange(12), 5)
    fitted = OLS(values, np.ones(60)).fit(cov_type="cluster", cov_kwds={"groups": numbers})
    found = estimate_mean(values.tolist(), numbers.tolist())
    assert found.variance == pytest.approx(float(fitted.cov_params()[0, 0]))
    assert found.df == pytest.approx(11)


def test_unequal_clusters_have_fewer_degrees_of_freedom() -> None:
    sizes = [40, 2, 2, 2, 2, 2]
    numbers = [number for number, size in enumerate(sizes) for _ in range(size)]
    found = estimate_mean([random.Random(number).random() for number in numbers], numbers)
    assert 1 <= found.df < 2.5


def test_whole_sums_are_counted_over_all_sign_flips() -> None:
    sums = [5, -3, 2, 2, 1, 1, 4]
    ways = [
        abs(sum(sign * each for sign, each in zip(signs, sums, strict=True)))
        for signs in itertools.product((-1, 1), repeat=7)
    ]
    exact = sum(way >= abs(sum(sums)) for way in ways) / len(ways)
    assert compute_sign_flip_p(sums) == pytest.approx(exact)
    assert compute_sign_flip_p([each + 0.0 for each in sums]) == pytest.approx(exact)
    assert compute_sign_flip_p([each / 10 for each in sums]) == pytest.approx(exact)


def test_sums_of_one_are_mcnemar_s_test() -> None:
    assert compute_sign_flip_p([1] * 14 + [-1] * 5) == pytest.approx(mcnemar(14, 5))
    assert compute_sign_flip_p([]) == compute_sign_flip_p([0, 0]) == compute_sign_flip_p([3]) == 1.0


def test_random_flips_of_many_graded_sums_are_near_the_exact_share() -> None:
    sums = [0.1] * 16 + [-0.1] * 4
    assert compute_sign_flip_p(sums) == pytest.approx(mcnemar(16, 4), abs=0.005)


def test_questions_that_share_nothing_keep_their_results() -> None:
    before, after = [0.0, 1.0, 0.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0, 0.0, 1.0]
    for clusters in (None, list("abcdef"), [None] * 6):
        assert paired_p_value(before, after, clusters=clusters) == mcnemar(3, 1)
        assert gain_interval(before, after, clusters=clusters) == gain_interval(before, after)
        assert mean_interval(after, clusters=clusters) == mean_interval(after)


def test_twice_the_same_questions_teach_nothing_more() -> None:
    """Each question is there twice, in one cluster: the p-value is that of the questions once."""
    before, after = [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    doubled = paired_p_value(before * 2, after * 2, clusters=list(range(7)) * 2)
    assert doubled == pytest.approx(mcnemar(6, 1))
    low, high = mean_interval(after * 2, clusters=list(range(7)) * 2)
    assert high - low > mean_interval(after * 2)[1] - mean_interval(after * 2)[0]


def test_one_cluster_shows_nothing() -> None:
    assert mean_interval([1.0, 0.0, 1.0], clusters="aaa") == (0.0, 1.0)
    assert gain_interval([0.0] * 3, [1.0] * 3, clusters="aaa") == (-1.0, 1.0)
    assert paired_p_value([0.0] * 3, [1.0] * 3, clusters="aaa") == 1.0
    assert smallest_difference([0.0] * 3, [1.0, 0.0, 1.0], clusters="aaa") is None


def test_scores_without_variance_have_an_interval_of_as_many_questions_as_clusters() -> None:
    assert mean_interval([1.0] * 20, clusters=list(range(10)) * 2)[0] == pytest.approx(
        1 / (1 + 2.2622**2 / 10), abs=1e-4
    )  # 2.2622 is Student's t quantile with 9 degrees of freedom
    low, high = gain_interval([0.5] * 20, [0.5] * 20, clusters=list(range(10)) * 2)
    assert low == pytest.approx(-high)
    assert 0 < high < 0.5


def test_clusters_must_be_as_many_as_questions() -> None:
    with pytest.raises(ValueError, match="a cluster for each of 3 questions, got 2"):
        find_shared(["a", "b"], 3)
    assert count_clusters([None, None, "a", "a"]) == 3


def test_seeds_without_variance_are_tested_by_sign_flips() -> None:
    assert compare_seeds([0.0, 0.0, 0.0]).p_value == 1.0
    assert compare_seeds([0.25] * 8).p_value == 2 / 2**8
    assert compare_seeds([0.25]).p_value == 1.0
    with pytest.raises(ValueError, match="at least one seed"):
        compare_seeds([])
