import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from vitprobe_jax.metrics.classification import is_found, mean_average_precision


def test_top1_counts_and_the_first_of_equal_scores_is_the_highest():
    scores = np.array([[0.0, 2.0, 1.0], [3.0, 3.0, 0.0], [3.0, 3.0, 0.0], [-5.0, -6.0, -4.0]], np.float32)
    np.testing.assert_array_equal(is_found(scores, np.array([1, 0, 1, 2])), [True, True, False, True])
    of_two = is_found(np.stack([scores, -scores]), np.array([1, 0, 1, 2]))
    np.testing.assert_array_equal(of_two, [[True, True, False, True], [False, False, False, False]])


def test_a_head_that_diverged_finds_nothing():
    scores = np.array([[np.nan, np.nan], [np.nan, -1.0], [2.0, np.nan]], np.float32)
    np.testing.assert_array_equal(is_found(scores, np.array([0, 1, 0])), [False, True, True])
    assert not is_found(scores, np.array([1, 0, 1])).any()


@pytest.mark.parametrize("levels", [4, 10**6])
def test_average_precision_is_that_of_scikit_learn(levels):
    """Four levels are almost all ties; the last class has no positive, the first, on every image, no negative."""
    rng = np.random.default_rng(levels)
    scores = rng.integers(0, levels, (60, 7)).astype(np.float32)
    present = rng.random((60, 7)) < np.linspace(1.1, 0.05, 7)[None]
    present[:, -1] = False
    mean, of_classes = mean_average_precision(scores, present)
    expected = [average_precision_score(present[:, k], scores[:, k]) for k in range(1, 6)]
    np.testing.assert_allclose(of_classes[1:-1], expected, rtol=1e-12)
    assert present[:, 0].all()
    assert np.isnan(of_classes[[0, -1]]).all()
    assert mean == pytest.approx(np.mean(expected))


def test_a_score_that_is_no_number_stands_last():
    scores, present = np.array([[1.0], [np.nan], [0.5]]), np.array([[True], [True], [False]])
    assert mean_average_precision(scores, present)[0] == pytest.approx((1 + 2 / 3) / 2)


def test_no_class_has_an_image():
    mean, of_classes = mean_average_precision(np.zeros((2, 3)), np.zeros((2, 3), bool))
    assert np.isnan(mean)
    assert np.isnan(of_classes).all()
