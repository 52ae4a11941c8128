"""The paired test and Holm's correction against slow versions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from recbole_eimf.core.errors import DataError
from recbole_eimf.evaluator.significance import flips_for, holm, paired_test


@pytest.mark.parametrize("seed", range(5))
def test_few_users_are_tested_over_every_assignment_of_signs(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 4, (2, 11)) / 3  # thirds: sums that are equal only up to rounding
    difference = first - second
    reached = [abs(np.dot(signs, difference)) >= abs(difference.sum()) - 1e-9
               for signs in itertools.product((-1, 1), repeat=11)]  # fmt: skip
    found = paired_test(first, second, seed)
    assert found.p_value == pytest.approx(np.mean(reached))
    assert found.difference == pytest.approx(difference.mean())
    t = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert found.confidence_interval == pytest.approx((t.low, t.high))


def test_users_whose_difference_is_zero_change_no_p_value():
    """The few others are tested over every assignment of signs, however many users there are."""
    first, second = np.random.default_rng(0).integers(0, 4, (2, 11)) / 3
    alike = np.linspace(0, 1, 500)
    found = paired_test(np.r_[first, alike], np.r_[second, alike])
    assert found.p_value == paired_test(first, second).p_value
    assert found.users == 511


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_p_values_do_not_depend_on_the_metrics_unit(unit):
    first, second = np.random.default_rng(0).integers(0, 4, (2, 11)) / 3
    found = paired_test(first * unit, second * unit)
    assert found.p_value == paired_test(first, second, 0).p_value < 1
    first, second = np.random.default_rng(1).integers(0, 4, (2, 60)) / 3
    assert paired_test(first * unit, second * unit).p_value == paired_test(first, second, 0).p_value < 1


def test_many_users_agree_with_scipys_permutation_test():
    rng = np.random.default_rng(1)
    first = (rng.random(400) < 0.30).astype(float)
    second = np.where(rng.random(400) < 0.3, (rng.random(400) < 0.15).astype(float), first)
    slow = stats.permutation_test((first, second), lambda a, b, axis: (a - b).mean(axis), permutation_type="samples",
                                  vectorized=True, n_resamples=9999, random_state=0)  # fmt: skip
    found = paired_test(first, second, 0)
    assert 0.001 < slow.pvalue < 0.5
    assert found.p_value == pytest.approx(slow.pvalue, abs=0.02)
    assert found == paired_test(first, second, 0)
    assert found.p_value == paired_test(second, first, 0).p_value


def test_equal_models_are_rarely_called_different_and_a_gain_is_seen():
    rng = np.random.default_rng(2)
    p_values = [paired_test(*rng.random((2, 60)), seed).p_value for seed in range(100)]
    assert 0 <= np.mean(np.array(p_values) < 0.05) < 0.13
    base = rng.random(500)
    better = paired_test(base + rng.normal(0.05, 0.1, 500), base, 0)
    assert better.p_value == pytest.approx(1 / 10_001)
    assert better.confidence_interval[0] > 0
    same = paired_test(base, base, 0)
    assert (same.difference, same.p_value, same.confidence_interval) == (0, 1, (0, 0))


def every_assignment(difference: np.ndarray) -> float:
    """The share of all assignments of signs whose sum is as far from zero."""
    signs = np.arange(2 ** len(difference))[:, None] >> np.arange(len(difference)) & 1
    return float((np.abs((1 - 2 * signs) @ difference) >= abs(difference.sum()) - 1e-9).mean())


@pytest.mark.parametrize("mean", [0.0, 0.15])
def test_flips_drawn_by_chance_find_the_share_of_every_assignment(mean):
    """Of both tails: draws whose sums lie to one side of the observed one alone would find about half of it."""
    difference = np.random.default_rng(11).normal(mean, 0.7, 16)
    exact = every_assignment(difference)
    assert 0.05 < exact < 0.5
    found = paired_test(difference, np.zeros(16)).p_value
    assert found == pytest.approx(exact, abs=5 * (exact * (1 - exact) / 10_000) ** 0.5)


def test_flips_are_doubled_until_they_are_enough_and_no_further():
    assert flips_for(400) == 160_000 == 20 * 400 / 0.05
    assert flips_for(401) == 320_000


@pytest.mark.parametrize("seed", range(3))
def test_a_p_value_below_what_10_000_flips_tell_is_refined_where_there_are_many_tests(seed):
    difference = np.random.default_rng(7).choice([-1, 1, 2, 3, 4], 18, p=[0.04, 0.24, 0.24, 0.24, 0.24]).astype(float)
    exact = every_assignment(difference)
    assert 1e-5 < exact < 4e-5
    alone = paired_test(difference, np.zeros(18), seed)
    assert alone.p_value == pytest.approx(1 / 10_001), "seeds of which 10,000 flips have none"
    flips = flips_for(1500)
    found = paired_test(difference, np.zeros(18), seed, flips=flips)
    assert found.p_value == pytest.approx(exact, abs=5 * (exact / flips) ** 0.5)
    assert (found.difference, found.confidence_interval) == (alone.difference, alone.confidence_interval)
    assert paired_test(difference, np.zeros(18), seed, flips=flips_for(250)) == alone


def test_where_no_flips_could_tell_the_p_value_is_a_bound_on_all_assignments():
    for number in (19, 20):
        exact = every_assignment(np.ones(number))
        found = paired_test(np.ones(number), np.zeros(number), flips=20_000)
        assert exact <= found.p_value <= 1 / 20_001
    flips = flips_for(800)
    found = paired_test(np.ones(60), np.zeros(60), flips=flips)
    assert found.p_value == pytest.approx(2 * np.exp(-30), rel=1e-6, abs=0)
    assert 2.0 ** (1 - 60) < found.p_value < 1 / (1 + flips)
    assert paired_test(np.ones(9000), np.zeros(9000), flips=flips).p_value > 0


def test_flips_do_not_change_a_p_value_that_10_000_tell():
    rng = np.random.default_rng(4)
    first, second = rng.random((2, 60))
    assert paired_test(first, second, flips=flips_for(900)) == paired_test(first, second)


def test_one_clear_difference_of_a_thousand_tests_is_significant():
    rng = np.random.default_rng(5)
    base = rng.random(400)
    clear = base + rng.normal(0.05, 0.1, 400)
    others = np.linspace(0.1, 1, 999)
    for flips, sure in ((10_000, False), (flips_for(1000), True)):
        adjusted = holm(np.array([paired_test(clear, base, flips=flips).p_value, *others]))
        assert (adjusted[0] < 0.05) == sure
        assert (adjusted[1:] > 0.05).all()
    assert flips_for(1000) >= 20 * 1000 / 0.05


def test_seeds_are_averaged_per_user_and_users_without_a_target_dropped():
    rng = np.random.default_rng(3)
    first, second = rng.random((3, 40)), rng.random((2, 40))
    first[:, 7] = np.nan
    second[:, [7, 9]] = np.nan
    kept = [u for u in range(40) if u not in (7, 9)]
    found = paired_test(first, second, 4)
    assert found == paired_test(first.mean(0)[kept], second.mean(0)[kept], 4)
    assert found.users == 38


@pytest.mark.parametrize("seed", range(3))
def test_rows_of_one_user_change_sign_together(seed):
    rng = np.random.default_rng(seed)
    user = rng.integers(9, size=40) * 7  # nine users, in no order, with other numbers of rows
    first, second = rng.integers(0, 4, (2, 40)) / 3
    first[3] = np.nan
    there = [row for row in range(40) if row != 3]
    names = sorted({user[row] for row in there})
    sums = [sum(first[row] - second[row] for row in there if user[row] == name) for name in names]
    mean = sum(sums) / 39
    reached = [abs(sum(sign * one for sign, one in zip(signs, sums))) >= abs(sum(sums)) - 1e-9
               for signs in itertools.product((-1, 1), repeat=len(names))]  # fmt: skip
    # the cluster-robust variance of a mean: G / (G - 1) sum_g (sum of u's residuals)^2 / n^2
    apart = [sum(first[row] - second[row] - mean for row in there if user[row] == name) for name in names]
    deviation = (len(names) / (len(names) - 1) * sum(one**2 for one in apart)) ** 0.5 / 39
    margin = stats.t.ppf(0.975, len(names) - 1) * deviation
    found = paired_test(first, second, seed, user)
    assert found.p_value == pytest.approx(np.mean(reached))
    assert (found.difference, found.users) == (pytest.approx(mean), len(names))
    assert found.confidence_interval == pytest.approx((mean - margin, mean + margin))


def test_one_row_for_each_user_is_the_plain_test_and_copies_of_a_row_prove_nothing():
    rng = np.random.default_rng(5)
    first, second = rng.random((2, 12))
    plain = paired_test(first, second, 0)
    assert paired_test(first, second, 0, 3 * np.arange(12)) == plain
    often = paired_test(np.repeat(first, 20), np.repeat(second, 20), 0, np.repeat(np.arange(12), 20))
    assert often.p_value == plain.p_value
    assert often.confidence_interval == pytest.approx(plain.confidence_interval)
    assert paired_test(np.repeat(first, 20), np.repeat(second, 20), 0).p_value < plain.p_value
    with pytest.raises(DataError, match="11 users named"):
        paired_test(first, second, 0, np.arange(11))


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(DataError, match="3 users on one side, 2 on the other. Compare"):
        paired_test(np.zeros(3), np.zeros(2), 0, np.arange(3))
    with pytest.raises(DataError, match="no user"):
        paired_test(np.array([np.nan, 1.0]), np.array([1.0, np.nan]), 0)
    two = paired_test(np.array([1.0, 0.25]), np.array([0.5, 0.0]), 0)
    t = stats.ttest_1samp([0.5, 0.25], 0).confidence_interval(0.95)
    assert (two.p_value, two.confidence_interval) == (0.5, pytest.approx((t.low, t.high)))
    alone = paired_test(np.array([1.0]), np.array([0.5]), 0)
    assert (alone.p_value, alone.confidence_interval) == (1, (-np.inf, np.inf))


@pytest.mark.parametrize("seed", range(4))
def test_holm_agrees_with_stepping_down_by_hand(seed):
    p_values = np.random.default_rng(seed).random(9).round(1) / 20
    adjusted = holm(p_values)
    for level in np.linspace(0.001, 0.7, 200):
        rejected, left = set(), sorted(range(9), key=lambda i: p_values[i])
        while left and p_values[left[0]] <= level / len(left) + 1e-15:  # Holm's procedure at this level
            rejected.add(left.pop(0))
        assert set(np.flatnonzero(adjusted <= level + 1e-12)) == rejected
    assert holm(np.array([0.9, 0.8])).tolist() == [1, 1]
    assert len(holm(np.array([]))) == 0
    assert holm([0.01, 0.5, 0.03]).tolist() == [0.03, 0.5, 0.06]
