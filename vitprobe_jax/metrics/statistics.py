"""How sure a mean over concepts is, and whether one mean beats another: bootstrap, paired tests, correction for many.

Concepts are the units that are drawn: with scores of one seed, intervals and tests say how a number would move with other
concepts of the same kind, not with other images or other draws. With scores of several seeds they cover both concepts and
seeds (`mean_intervals`, `paired_tests`). NaN marks a concept without a score.
"""

import dataclasses

import numpy as np
from jaxtyping import Float
from scipy import special, stats

_BLOCK = 2**24  # numbers of a temporary array: 128 MiB
_EXACT = 50  # unequal concepts up to which p-values are exact: 2^50 is whole in float64
_DECIMALS = 12  # scores are sums and quotients of counts: what differs below this is rounding, and such scores are ties


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean over concepts, and over seeds where there are several, with the interval around it.

    Attributes:
        mean: the mean itself, not that of the resamples.
        low: lower end.
        high: upper end.
    """

    mean: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class PairedTest:
    """How two cells differ on the concepts that both have.

    Attributes:
        difference: mean over concepts of first less second, with its 95% interval.
        effect_size: matched-pairs rank-biserial correlation, from -1 (second ahead wherever they differ) to 1 (first
            ahead wherever they differ): of the ranks of all unequal concepts by the size of their difference, the share
            that speaks for first less the share that speaks for second. It is what the test below tests, and is defined
            where the standardised difference d_z is not: with one concept, or the same difference everywhere.
        p_value: two-sided, not corrected for other tests: that of the Wilcoxon signed-rank test; with several seeds, the
            larger of it and that of the t test over concepts and seeds (`paired_tests`).
        num_concepts: how many concepts both have.
    """

    difference: Interval
    effect_size: float
    p_value: float
    num_concepts: int


def bootstrap_means(
    values: Float[np.ndarray, "K cells"], *, seed: int = 0, resamples: int = 2000, level: float = 0.95
) -> tuple[Float[np.ndarray, " cells"], Float[np.ndarray, " cells"]]:
    """Percentile bootstrap intervals of the column means, all columns over the same resampled concepts.

    A resample draws K rows with replacement; a column's mean is over the drawn rows that it has. As a matrix of how
    often each row was drawn, all resamples of all columns are one product, and a second one where values are missing.

    Args:
        values: finite, or NaN where a concept has no score in that cell.
        seed: of the resamples.
        resamples: how many.
        level: confidence level of the interval, between 0 and 1.

    Returns:
        Lower and upper ends. A column with one value has that value at both ends; one without any has NaN.
    """
    low, high = np.full((2, values.shape[1]), np.nan)
    present = ~np.isnan(values)
    occupied = np.flatnonzero(present.any(axis=0))
    if not len(occupied):
        return low, high
    drawn = _draw(len(values), resamples, np.random.default_rng(seed))
    ends = [(1 - level) / 2, (1 + level) / 2]
    width = max(1, _BLOCK // resamples)
    for start in range(0, len(occupied), width):
        columns = occupied[start : start + width]
        known = present[:, columns]
        sums = drawn @ np.where(known, values[:, columns], 0.0)
        if known.all():
            low[columns], high[columns] = np.quantile(sums / len(values), ends, axis=0)
            continue
        sizes = drawn @ known.astype(np.float64)
        # A resample may miss every concept of a sparse column: it has no mean there and is left out.
        means = np.divide(sums, sizes, out=np.full_like(sums, np.nan), where=sizes > 0)
        low[columns], high[columns] = np.nanquantile(means, ends, axis=0)
    return low, high


def _draw(rows: int, resamples: int, rng: np.random.Generator) -> Float[np.ndarray, "resamples rows"]:
    """How often each resample drew each row."""
    drawn = np.empty((resamples, rows))
    height = max(1, _BLOCK // rows)
    for start in range(0, resamples, height):
        block = drawn[start : start + height]
        picks = rng.integers(rows, size=block.shape) + rows * np.arange(len(block))[:, None]
        block[:] = np.bincount(picks.ravel(), minlength=block.size).reshape(block.shape)
    return drawn


def mean_intervals(
    values: Float[np.ndarray, "K cells seeds"], *, seed: int = 0, resamples: int = 2000, level: float = 0.95
) -> tuple[Float[np.ndarray, " cells"], Float[np.ndarray, " cells"]]:
    """Intervals of the means over concepts and seeds, of every cell.

    With one seed these are those of `bootstrap_means`. With S seeds a score is y = mean + concept + seed + rest, and both
    the concepts and the seeds are samples. The concepts' part of the interval is the bootstrap interval of the concepts'
    means over seeds. The seeds' part reaches t_{S-1} s / sqrt(S) to both sides: s is the deviation over seeds of the cell's
    mean. Resampling two to five seeds would not do, since a bootstrap of S values understates their variance by (S - 1) / S
    and knows no heavy tails. The distances of both parts from the mean add in quadrature (MOVER). The interval covers the
    true mean at least at its level, whichever part is larger; s also holds the rest of the concepts' scatter, so an interval
    is somewhat too wide where seeds move single concepts and not the mean.

    Args:
        values: finite, or NaN where a concept has no score under a seed.
        seed: random seed of the resamples of concepts.
        resamples: how many.
        level: confidence level of the interval, between 0 and 1.

    Returns:
        Lower and upper ends; NaN for a cell without a score. s is over the concepts that have a score under every seed of
        the cell; over all where there is no such concept.

    References:
        Zou and Donner, Construction of confidence limits about effect measures: a general approach, Statistics in Medicine
        27 (2008).
    """
    scores = nanmeans(values)
    low, high = bootstrap_means(scores, seed=seed, resamples=resamples, level=level)
    if values.shape[2] == 1:
        return low, high
    means = nanmeans(scores.T)
    error, freedom = _seed_errors(values)
    margin = np.where(freedom > 0, special.stdtrit(np.maximum(freedom, 1), (1 + level) / 2) * error, 0.0)
    return means - np.hypot(means - low, margin), means + np.hypot(high - means, margin)


def nanmeans(values: Float[np.ndarray, "*cells n"]) -> Float[np.ndarray, "*cells"]:
    """Means over the last axis, over the values that there are; NaN where there is none."""
    known = ~np.isnan(values)
    count = known.sum(axis=-1)
    total = np.where(known, values, 0.0).sum(axis=-1)
    return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)


def _seed_errors(
    values: Float[np.ndarray, "K cells seeds"],
) -> tuple[Float[np.ndarray, " cells"], Float[np.ndarray, " cells"]]:
    """The standard error over seeds of each cell's mean, and its degrees of freedom; 0 and 0 with fewer than two seeds."""
    known = ~np.isnan(values)
    present = known.any(axis=0)
    complete = (known | ~present).all(axis=2) & known.any(axis=2)
    counted = known & (complete | ~complete.any(axis=0))[:, :, None]
    means = nanmeans(np.moveaxis(np.where(counted, values, np.nan), 0, 2))
    count = present.sum(axis=1)
    squares = np.nansum((means - nanmeans(means)[:, None]) ** 2, axis=1)
    return np.sqrt(squares / np.maximum(count * (count - 1), 1)), np.maximum(count - 1.0, 0.0)


def paired_tests(
    first: Float[np.ndarray, "K pairs *seeds"], second: Float[np.ndarray, "K pairs *seeds"], *, seed: int = 0
) -> list[PairedTest]:
    """`paired_test` of each pair of columns, over the same resamples of concepts.

    With a third axis, scores of the same S seeds in both cells, concepts' differences are means over the seeds under which
    both have a score, and intervals are those of `mean_intervals`. The signed-rank test of these differences takes the
    seeds as given. So the p-value is the larger of its own and of that of a t test which takes both as samples, Clark's
    min F': t^2 = difference^2 / (V_concepts / K + V_seeds / S), degrees of freedom by Satterthwaite. With three seeds and
    more this test is exact to within a tenth of its level where the seeds' part of the variance is at most a third of the
    concepts'; where seeds dominate, 5% become up to 8% with three seeds, 6% with five, and smaller levels are exceeded
    more. The interval keeps its level there: a claim needs both (`Comparison.holds`).

    References:
        Clark, The language-as-fixed-effect fallacy, Journal of Verbal Learning and Verbal Behavior 12 (1973).
    """
    differences = np.round(first - second, _DECIMALS).reshape(*first.shape[:2], *(first.shape[2:] or (1,)))
    low, high = mean_intervals(differences, seed=seed)
    columns = np.round(nanmeans(differences), _DECIMALS)
    several = differences.shape[2] > 1
    over_both = _two_way_p_values(columns, differences) if several else np.zeros(columns.shape[1])
    tests = []
    for column, floor, ends in zip(columns.T, over_both, zip(low, high, strict=True), strict=True):
        known = column[~np.isnan(column)]
        if not len(known):
            tests.append(PairedTest(Interval(0.0, 0.0, 0.0), 0.0, 1.0, 0))
            continue
        difference = Interval(float(known.mean()), *map(float, ends))
        effect_size, p_value = _signed_rank(known[known != 0])
        tests.append(PairedTest(difference, effect_size, max(p_value, float(floor)), len(known)))
    return tests


def _two_way_p_values(
    means: Float[np.ndarray, "K pairs"], differences: Float[np.ndarray, "K pairs seeds"]
) -> Float[np.ndarray, " pairs"]:
    """Min F' of `paired_tests`."""
    count = np.sum(~np.isnan(means), axis=0)
    mean = np.nan_to_num(nanmeans(means.T))
    concept_freedom = np.maximum(count - 1.0, 1.0)
    of_concepts = np.nansum((means - mean) ** 2, axis=0) / (concept_freedom * np.maximum(count, 1))
    error, seed_freedom = _seed_errors(differences)
    of_seeds = error**2
    variance = of_concepts + of_seeds
    spread = of_concepts**2 / concept_freedom + of_seeds**2 / np.maximum(seed_freedom, 1)
    varies = spread > 0
    freedom = np.divide(variance**2, spread, out=np.ones_like(mean), where=varies)
    t = np.divide(np.abs(mean), np.sqrt(variance), out=np.zeros_like(mean), where=varies)
    # Equal differences everywhere are as sure as the signed-rank test of them.
    return np.where(varies, 2 * special.stdtr(freedom, -t), 0.0)


def paired_test(
    first: Float[np.ndarray, "K *seeds"], second: Float[np.ndarray, "K *seeds"], *, seed: int = 0
) -> PairedTest:
    """Whether two cells differ: mean difference, effect size and Wilcoxon signed-rank test, over shared concepts.

    The test is of ranks, since differences between concepts are far from normal: it asks whether differences lie evenly
    about zero. Equal scores (to 12 decimals) speak for neither side and are left out of the ranks, not of the mean.
    P-values are exact up to 50 unequal concepts, ties or not, and scipy's normal approximation beyond. Fewer than six
    unequal concepts never reach p < 0.05.

    Args:
        first: scores by concept, and by seed where there are several; NaN where there is none.
        second: scores of the same concepts and seeds.
        seed: of the bootstrap.

    Returns:
        The test. All scores equal: difference 0 within [0, 0], effect size 0, p = 1. No shared concept: the same with
        `num_concepts` 0, and nothing can be said. One shared concept: an interval of no width, p = 1.
    """
    (test,) = paired_tests(first[:, None], second[:, None], seed=seed)
    return test


def _signed_rank(differences: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Rank-biserial correlation and two-sided p-value of differences none of which is zero."""
    if not len(differences):
        return 0.0, 1.0
    ranks = stats.rankdata(np.abs(differences))
    for_first, total = np.sum(ranks[differences > 0]), np.sum(ranks)
    exact = len(ranks) <= _EXACT
    p_value = _exact_tails(ranks, min(for_first, total - for_first)) if exact else stats.wilcoxon(differences).pvalue
    return float(2 * for_first / total - 1), float(p_value)


def _exact_tails(ranks: Float[np.ndarray, " n"], smaller: float) -> float:
    """How often, of all 2^n ways to give each rank to one side, the smaller sum is at most this.

    Ways are counted by the sum of one side, rank by rank. Ranks of ties are halves, so twice a rank is whole.
    """
    doubled = np.rint(2 * ranks).astype(int)
    ways = np.zeros(doubled.sum() + 1)
    ways[0] = 1
    for rank in doubled:
        ways[rank:] = ways[rank:] + ways[:-rank]
    return min(1.0, 2 * np.sum(ways[: round(2 * smaller) + 1]) / 2.0 ** len(ranks))


def holm(p_values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Holm's step-down correction: p-values that keep the chance of any false claim among n below a level.

    The i-th smallest (from 0) is multiplied by n - i; none falls below one before it, none exceeds 1.

    References:
        Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6 (1979).

    Raises:
        ValueError: a p-value is NaN or outside [0, 1].
    """
    if not np.all((p_values >= 0) & (p_values <= 1)):
        raise ValueError("p-values must lie in [0, 1]")
    order = np.argsort(p_values, kind="stable")
    stepped = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted
