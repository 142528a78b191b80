"""Intervals and tests equal scipy's and hand computations, cover what they claim, and find what was planted alone."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import stats

from vitprobe_jax.metrics.statistics import Interval, PairedTest, bootstrap_means, holm, paired_test, paired_tests

NO_DIFFERENCE = Interval(0.0, 0.0, 0.0)
# Sums in another order: a few units in the last place of numbers near 1.
EXACT = 1e-12


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_interval_is_scipys_up_to_the_draws(level):
    values = np.random.default_rng(0).normal(0.6, 0.2, 40)
    low, high = bootstrap_means(values[:, None], resamples=20_000, level=level)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, confidence_level=level, method="percentile", rng=1
    ).confidence_interval
    # The deviation of a bootstrap quantile over draws, times 5: the mean's error is 0.2 / sqrt(40), and a 2.5% quantile of
    # 20,000 normal draws deviates by 0.02 of that.
    assert low[0] == pytest.approx(expected.low, abs=5 * 0.02 * 0.2 / math.sqrt(40))
    assert high[0] == pytest.approx(expected.high, abs=5 * 0.02 * 0.2 / math.sqrt(40))


def test_interval_is_that_of_resampled_rows_in_a_plain_loop():
    values = np.random.default_rng(1).random((9, 3))
    picks = np.random.default_rng(5).integers(9, size=(200, 9))  # the documented draw: rows with replacement
    means = np.stack([values[rows].mean(axis=0) for rows in picks])
    low, high = bootstrap_means(values, seed=5, resamples=200, level=0.9)
    np.testing.assert_allclose(low, np.quantile(means, 0.05, axis=0), rtol=0, atol=EXACT)
    np.testing.assert_allclose(high, np.quantile(means, 0.95, axis=0), rtol=0, atol=EXACT)


def test_missing_values_are_left_out_of_each_resample():
    values = np.random.default_rng(2).random((12, 2))
    values[[0, 3, 4, 7, 8], 1] = np.nan
    picks = np.random.default_rng(0).integers(12, size=(300, 12))
    means = np.array([np.nanmean(values[rows, 1]) for rows in picks if not np.isnan(values[rows, 1]).all()])
    low, high = bootstrap_means(values, resamples=300)
    assert low[1] == pytest.approx(np.quantile(means, 0.025), abs=EXACT)
    assert high[1] == pytest.approx(np.quantile(means, 0.975), abs=EXACT)
    alone = bootstrap_means(values[:, :1], resamples=300)
    assert (low[0], high[0]) == pytest.approx((alone[0][0], alone[1][0]), abs=EXACT)


def test_a_resample_without_any_concept_of_a_sparse_column_is_left_out():
    values = np.full((6, 2), np.nan)
    values[:, 0], values[0, 1] = np.arange(6), 0.25
    low, high = bootstrap_means(values)
    assert (low[1], high[1]) == (0.25, 0.25)


def test_columns_without_values_and_tables_without_rows_have_no_interval():
    low, high = bootstrap_means(np.array([[0.5, np.nan], [0.7, np.nan]]))
    assert np.isfinite([low[0], high[0]]).all()
    assert np.isnan([low[1], high[1]]).all()
    assert np.isnan(bootstrap_means(np.empty((0, 3)))).all()
    assert bootstrap_means(np.empty((4, 0)))[0].shape == (0,)


def test_intervals_cover_the_true_mean_as_often_as_they_say():
    """A percentile interval of 60 normal values covers 94.4%; 1,500 of them hit within four deviations of that."""
    values = np.random.default_rng(3).normal(0.3, 1.0, (60, 1500))
    low, high = bootstrap_means(values, resamples=1000)
    covered = np.mean((low <= 0.3) & (high >= 0.3))
    assert abs(covered - 0.944) < 4 * math.sqrt(0.944 * 0.056 / 1500)


def test_all_columns_see_the_same_resamples():
    """So a column that is another one plus a constant has the same interval plus that constant."""
    column = np.random.default_rng(4).random(30)
    low, high = bootstrap_means(np.stack([column, column + 2.0], axis=1))
    np.testing.assert_allclose([low[1] - low[0], high[1] - high[0]], 2.0, atol=EXACT)


def test_many_columns_and_rows_in_blocks_are_as_in_one(monkeypatch):
    values = np.random.default_rng(6).random((40, 11))
    values[values < 0.1] = np.nan
    whole = bootstrap_means(values, resamples=50)
    monkeypatch.setattr("vitprobe_jax.metrics.statistics._BLOCK", 150)  # 3 columns and 3 resamples at a time
    np.testing.assert_allclose(bootstrap_means(values, resamples=50), whole, rtol=0, atol=EXACT)


def test_seed_decides_and_nothing_else():
    values = np.random.default_rng(7).random((20, 2))
    np.testing.assert_array_equal(bootstrap_means(values, seed=3), bootstrap_means(values, seed=3))
    assert not np.array_equal(bootstrap_means(values, seed=3), bootstrap_means(values, seed=4))


@settings(deadline=None)  # the two cores may be busy
@given(npst.arrays(np.float64, st.tuples(st.integers(1, 15), st.just(2)), elements=st.floats(0, 1)))
def test_paired_test_is_scipys_and_antisymmetric(scores):
    first, second = scores.T
    test, mirrored = paired_test(first, second), paired_test(second, first)
    differences = np.round(first - second, 12)
    assert test.difference.mean == pytest.approx(np.mean(first - second), abs=1e-11)
    assert test.num_concepts == len(scores)
    if np.any(differences):
        # Without ties, scipy's test is exact as well; ties are compared with all flips of signs below.
        differences = differences[differences != 0]
        if len(np.unique(np.abs(differences))) == len(differences):
            assert test.p_value == pytest.approx(stats.wilcoxon(differences).pvalue, abs=EXACT)
    else:
        assert test == PairedTest(NO_DIFFERENCE, 0.0, 1.0, len(scores))
    assert mirrored.p_value == pytest.approx(test.p_value, abs=EXACT)
    assert mirrored.effect_size == pytest.approx(-test.effect_size, abs=EXACT)
    assert mirrored.difference.low == pytest.approx(-test.difference.high, abs=1e-11)
    assert -1 <= test.effect_size <= 1
    assert 0 <= test.p_value <= 1


def test_long_tests_are_scipys_and_meet_the_exact_ones():
    rng = np.random.default_rng(11)
    differences = rng.normal(0.3, 1.0, 80)
    assert paired_test(differences, np.zeros(80)).p_value == stats.wilcoxon(differences).pvalue
    rounded = np.round(differences[:50], 1) + 0.05
    exact = paired_test(rounded, np.zeros(50)).p_value
    # The normal approximation is within a few per cent at 50 concepts.
    assert exact == pytest.approx(stats.wilcoxon(rounded, method="approx").pvalue, rel=0.1)


def test_small_tests_are_exact_permutation_tests_also_with_ties():
    for differences in ([0.1, 0.2, -0.05, 0.3, 0.4, 0.15], [0.1, 0.1, 0.1, -0.1, 0.2, 0.2, 0.3]):
        ranks = stats.rankdata(np.abs(differences))
        observed = abs(np.sum(np.sign(differences) * ranks))
        flips = [abs(np.dot(signs, ranks)) for signs in itertools.product((-1, 1), repeat=len(ranks))]
        expected = np.mean(np.array(flips) >= observed - 1e-9)
        assert paired_test(np.array(differences), np.zeros(len(ranks))).p_value == pytest.approx(expected, abs=EXACT)


def test_effect_size_by_hand():
    # Absolute differences 1, 2, 3, 4 tenths: the second speaks for the second cell. (1 + 3 + 4 - 2) / 10 = 0.6.
    test = paired_test(np.array([0.6, 0.3, 0.8, 0.9]), np.array([0.5, 0.5, 0.5, 0.5]))
    assert test.effect_size == pytest.approx(0.6)
    assert paired_test(np.array([0.6, 0.7]), np.array([0.5, 0.1])).effect_size == 1.0


def test_degenerate_pairs_are_defined():
    nan = np.nan
    assert paired_test(np.array([0.5, 0.7, nan]), np.array([0.5, 0.7, 0.1])) == PairedTest(NO_DIFFERENCE, 0.0, 1.0, 2)
    assert paired_test(np.array([0.5, nan]), np.array([nan, 0.5])) == PairedTest(NO_DIFFERENCE, 0.0, 1.0, 0)
    assert paired_test(np.empty(0), np.empty(0)) == PairedTest(NO_DIFFERENCE, 0.0, 1.0, 0)
    single = paired_test(np.array([0.75]), np.array([0.5]))
    assert single == PairedTest(Interval(0.25, 0.25, 0.25), 1.0, 1.0, 1)
    constant = paired_test(np.full(8, 0.75), np.full(8, 0.5))
    assert constant.difference == Interval(0.25, 0.25, 0.25)
    assert constant.effect_size == 1.0


def test_rounding_makes_no_difference_between_equal_scores():
    first, second = np.full(10, 0.1 + 0.2), np.full(10, 0.3)
    assert not np.array_equal(first, second)
    assert paired_test(first, second).p_value == 1.0


def test_only_shared_concepts_count():
    rng = np.random.default_rng(8)
    first, second = rng.random(30), rng.random(30)
    shared = rng.random(30) < 0.6
    holed = paired_test(np.where(shared, first, np.nan), second)
    alone = paired_test(first[shared], second[shared])
    assert holed.num_concepts == shared.sum()
    assert holed.difference.mean == pytest.approx(alone.difference.mean, abs=EXACT)
    assert (holed.effect_size, holed.p_value) == (alone.effect_size, alone.p_value)


def test_a_planted_difference_is_found_and_chance_is_not():
    """Of 400 pairs with shared difficulty: those 0.3 deviations apart are told apart, equal ones at the level's rate."""
    rng = np.random.default_rng(9)
    difficulty = rng.normal(0.6, 0.2, (200, 400))
    first, second = (difficulty + rng.normal(0, 0.05, difficulty.shape) for _ in range(2))
    chance = np.array([test.p_value for test in paired_tests(first, second)])
    assert abs(np.mean(chance < 0.05) - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 400)
    planted = paired_tests(first + 0.02, second)
    assert np.mean([test.p_value < 0.05 and test.difference.low > 0 for test in planted]) > 0.95
    assert np.mean([test.difference.low < 0.02 < test.difference.high for test in planted]) > 0.9


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.04; the last may not fall below 0.06.
    np.testing.assert_allclose(holm(np.array([0.04, 0.01, 0.03, 0.02])), [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(holm(np.array([0.9, 0.6, 0.001])), [1.0, 1.0, 0.003])
    np.testing.assert_allclose(holm(np.array([0.2])), [0.2])
    assert holm(np.empty(0)).shape == (0,)


@settings(deadline=None)  # the two cores may be busy
@given(npst.arrays(np.float64, st.integers(1, 12), elements=st.floats(0, 1)))
def test_holm_lies_between_no_correction_and_bonferronis_and_keeps_the_order(p_values):
    adjusted = holm(p_values)
    assert np.all(adjusted >= p_values)
    assert np.all(adjusted <= np.minimum(p_values * len(p_values), 1.0))
    order = np.argsort(p_values)
    assert np.all(np.diff(adjusted[order]) >= 0)


def test_holm_keeps_the_chance_of_any_false_claim():
    rng = np.random.default_rng(10)
    any_claim = np.mean([np.min(holm(rng.random(20))) < 0.05 for _ in range(2000)])
    assert any_claim < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 2000)


@pytest.mark.parametrize("wrong", [np.nan, -0.1, 1.1])
def test_holm_refuses_what_is_no_p_value(wrong):
    with pytest.raises(ValueError, match="p-values"):
        holm(np.array([0.5, wrong]))
