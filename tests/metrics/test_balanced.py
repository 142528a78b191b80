import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from vitprobe_jax.metrics.balanced import Counts, balanced_metrics, undefined_reason


def counts(*numbers):
    return Counts(*(np.array([number]) for number in numbers))


def test_equal_to_scikit_learn_with_balanced_weights():
    rng = np.random.default_rng(0)
    for _ in range(20):
        target = rng.random(200) < rng.uniform(0.05, 0.9)
        found = rng.random(200) < 0.3 + 0.4 * target
        weight = np.where(target, 1 / target.sum(), 1 / (~target).sum())
        ours = balanced_metrics(counts((found & target).sum(), (found & ~target).sum(), target.sum(), (~target).sum()))
        expected = {
            "accuracy": sklearn_metrics.accuracy_score(target, found, sample_weight=weight),
            "precision": sklearn_metrics.precision_score(target, found, sample_weight=weight),
            "recall": sklearn_metrics.recall_score(target, found, sample_weight=weight),
            "f1": sklearn_metrics.f1_score(target, found, sample_weight=weight),
        }
        for name, value in expected.items():
            assert getattr(ours, name)[0] == pytest.approx(value, abs=1e-12)
        assert not ours.degenerate[0]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((0, 0, 5, 5), (0.5, 0.0, 0.0, 0.0)),  # nothing found: precision and F1 undefined
        ((0, 3, 5, 5), (0.2, 0.0, 0.0, 0.0)),  # only negatives found: F1 undefined
    ],
)
def test_what_finds_no_positive_is_zero_and_marked(numbers, expected):
    ours = balanced_metrics(counts(*numbers))
    measured = (ours.accuracy[0], ours.precision[0], ours.recall[0], ours.f1[0])
    assert measured == pytest.approx(expected)
    assert ours.degenerate[0]


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ((0, 2, 0, 5), "no positives in val"),
        ((4, 0, 5, 0), "no negatives in val"),
        ((0, 0, 0, 0), "no positives in val"),
    ],
)
def test_without_one_side_nothing_is_measured(numbers, reason):
    """Recall too: it would be the score of a template that nothing held against."""
    ours = balanced_metrics(counts(*numbers))
    assert np.isnan([ours.accuracy[0], ours.precision[0], ours.recall[0], ours.f1[0]]).all()
    assert not ours.degenerate[0]
    assert undefined_reason(*numbers[2:], "val") == reason
    assert undefined_reason(1, 1, "val") is None
