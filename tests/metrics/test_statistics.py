"""Intervals and tests equal scipy's and hand computations, cover what they claim, and find what was planted alone."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import stats

from vitprobe_jax.metrics.statistics import (
    Interval,
    PairedTest,
    bootstrap_means,
    holm,
    mean_intervals,
    paired_test,
    paired_tests,
)

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


def two_way(rng, concepts, seeds, tables, *, of_concepts, of_seeds, rest=0.05):
    """Scores [K, tables, S] of a mean of 0.6: a deviation of each concept, one of each seed, and one of each score."""
    return (
        0.6
        + rng.normal(0, of_concepts, (concepts, tables, 1))
        + rng.normal(0, of_seeds, (1, tables, seeds))
        + rng.normal(0, rest, (concepts, tables, seeds))
    )


def coverage(ends, truth):
    low, high = ends
    return float(np.mean((low <= truth) & (high >= truth)))


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("of_seeds", [0.0, 0.02, 0.1])
def test_intervals_cover_the_mean_over_concepts_and_seeds(seeds, of_seeds):
    """The error of the concepts' part is 0.1 / sqrt(60) = 0.013, that of the seeds' part `of_seeds` / sqrt(S).

    A percentile interval of 60 concepts covers 94.4% (above); four deviations of a share of 1,000 are 2.9%.
    """
    values = two_way(np.random.default_rng(20), 60, seeds, 1000, of_concepts=0.1, of_seeds=of_seeds)
    assert coverage(mean_intervals(values, resamples=500), 0.6) > 0.944 - 0.029
    over_concepts = coverage(bootstrap_means(values.mean(axis=2), resamples=500), 0.6)
    if of_seeds == 0.1:
        # What the interval over concepts claims: 0.95. What it covers: its half width of 0.025 of an error of 0.045 or more.
        assert over_concepts < 0.6
    if of_seeds == 0.0:
        assert over_concepts > 0.944 - 0.029


def test_with_one_seed_intervals_and_tests_are_those_over_concepts():
    rng = np.random.default_rng(21)
    first, second = rng.random((30, 4)), rng.random((30, 4))
    first[3, 1] = np.nan
    np.testing.assert_array_equal(mean_intervals(first[:, :, None]), bootstrap_means(first))
    assert paired_tests(first[:, :, None], second[:, :, None]) == paired_tests(first, second)


def test_equal_scores_under_every_seed_change_no_interval():
    values = np.repeat(np.random.default_rng(22).random((25, 3, 1)), 4, axis=2)
    np.testing.assert_allclose(mean_intervals(values), bootstrap_means(values[:, :, 0]), rtol=0, atol=EXACT)


def test_the_seeds_part_of_an_interval_by_hand():
    """One concept, so that nothing else is in it: scipy's t interval of the mean of three seeds."""
    seeds = np.array([0.5, 0.58, 0.51])
    (low,), (high,) = mean_intervals(seeds[None, None], level=0.9)
    expected = stats.t.interval(0.9, 2, loc=seeds.mean(), scale=seeds.std(ddof=1) / math.sqrt(3))
    assert (low, high) == pytest.approx(expected, abs=EXACT)
    # Both parts: three and four make five.
    concepts = np.array([0.2, 0.4, 0.6])[:, None, None] + (seeds - seeds.mean())[None, None]
    (low,), (high,) = mean_intervals(concepts, level=0.9)
    alone = bootstrap_means(concepts.mean(axis=2), level=0.9)
    assert high - 0.4 == pytest.approx(math.hypot(alone[1][0] - 0.4, expected[1] - seeds.mean()), abs=EXACT)
    assert 0.4 - low == pytest.approx(math.hypot(0.4 - alone[0][0], expected[1] - seeds.mean()), abs=EXACT)


def test_concepts_without_a_score_under_some_seed_do_not_pass_for_a_difference_of_seeds():
    """Concepts of 0.2 and 0.8 whose scores no seed moves; one seed lacks the low ones, another cell lacks a whole seed."""
    values = np.tile(np.repeat([0.2, 0.8], 10)[:, None, None], (1, 2, 3))
    values[:9, 0, 1] = np.nan
    values[:, 1, 2] = np.nan
    low, high = mean_intervals(values)
    expected = bootstrap_means(values[:, :, 0])
    np.testing.assert_allclose((low, high), expected, rtol=0, atol=EXACT)
    # No concept has all seeds: their plain means are all that can be compared.
    values = np.array([[0.2, np.nan], [np.nan, 0.8]])[:, None]
    (low,), (high,) = mean_intervals(values)
    assert low < 0.2
    assert high > 0.8
    assert np.isnan(mean_intervals(np.full((4, 1, 3), np.nan))).all()


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("of_seeds", [0.0, 0.005, 0.05])
def test_claims_over_seeds_are_no_more_often_wrong_than_their_level(seeds, of_seeds):
    """Equal cells whose difference moves with the seed. Four deviations of a share of 1,000 at 5% are 2.8%."""
    rng = np.random.default_rng(23)
    differences = two_way(rng, 40, seeds, 1000, of_concepts=0.05, of_seeds=of_seeds) - 0.6
    tests = paired_tests(differences, np.zeros_like(differences))
    off_zero = [test.difference.low > 0 or test.difference.high < 0 for test in tests]
    sure = [test.p_value < 0.05 for test in tests]
    assert np.mean(np.logical_and(off_zero, sure)) < 0.05 + 0.028
    if seeds > 2:
        assert np.mean(sure) < 0.08 + 0.028  # what the docstring says of three seeds that dominate
    if of_seeds == 0.05:
        # Over concepts alone, what one draw of seeds did to all concepts is taken for a difference of the cells.
        over_concepts = paired_tests(differences.mean(axis=2), np.zeros(differences.shape[:2]))
        assert np.mean([test.p_value < 0.05 for test in over_concepts]) > 0.4


def test_planted_differences_are_found_over_seeds_and_none_is_more_sure_than_over_concepts():
    rng = np.random.default_rng(24)
    difficulty = two_way(rng, 60, 3, 200, of_concepts=0.2, of_seeds=0.05, rest=0.0)
    first, second = (difficulty + rng.normal(0, 0.05, difficulty.shape) for _ in range(2))
    # What a seed does to both cells alike is no part of their difference: seeds are paired.
    # 0.04 is 7.7 times the error of 0.0052, the half width 4.7 times on average: three seeds say little of their deviation.
    tests = paired_tests(first + 0.04, second)
    assert np.mean([test.p_value < 0.05 and test.difference.low > 0 for test in tests]) > 0.8
    assert np.mean([test.p_value < 0.001 for test in tests]) > 0.5
    over_concepts = paired_tests((first + 0.04).mean(axis=2), second.mean(axis=2))
    for test, alone in zip(tests, over_concepts, strict=True):
        assert test.p_value >= alone.p_value
        assert test.difference.low <= alone.difference.low + EXACT
        assert test.difference.high >= alone.difference.high - EXACT
        assert test.effect_size == pytest.approx(alone.effect_size)


def test_the_t_test_over_seeds_is_scipys_where_concepts_differ_alike():
    """All concepts are ahead by the same, seed by seed: the signed-rank test knows nothing of the seeds, the t test does."""
    by_seed = np.array([0.01, 0.05, 0.03, 0.08])
    first = np.tile(by_seed, (30, 1))
    test = paired_test(first, np.zeros_like(first))
    assert test.p_value == pytest.approx(stats.ttest_1samp(by_seed, 0.0).pvalue, rel=1e-6)
    assert test.effect_size == 1.0
    # And scipy's over concepts where seeds do not differ; the signed-rank test is less sure here.
    concepts = np.random.default_rng(25).normal(0.1, 0.02, 30)
    alike = np.repeat(concepts[:, None], 3, axis=1)
    expected = max(stats.ttest_1samp(concepts, 0.0).pvalue, stats.wilcoxon(concepts).pvalue)
    assert paired_test(alike, np.zeros_like(alike)).p_value == pytest.approx(expected, rel=1e-6)
    assert paired_test(np.zeros((5, 3)), np.zeros((5, 3))) == PairedTest(NO_DIFFERENCE, 0.0, 1.0, 5)
