import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from vitprobe_jax.metrics.segmentation import confusion, scores


@pytest.fixture(scope="module")
def scene():
    """Patches of 4 x 4 pixels with labels of five classes and none (0); class 4 is never annotated, 3 never predicted."""
    rng = np.random.default_rng(0)
    labels = np.where(rng.random((60, 16)) < 0.5, rng.integers(0, 4, (60, 1)), rng.integers(0, 5, (60, 16)))
    counts = np.stack([(labels == k).sum(1) for k in range(6)], 1).astype(np.uint16)
    return labels, counts, rng.choice([0, 1, 2, 4], 60)


def test_equal_to_scikit_learn_pixel_by_pixel(scene):
    labels, counts, predicted = scene
    matrix = confusion(predicted, counts)
    carried = labels > 0
    truth, guess = labels[carried] - 1, np.broadcast_to(predicted[:, None], labels.shape)[carried]
    np.testing.assert_array_equal(matrix, sklearn_metrics.confusion_matrix(truth, guess, labels=range(5)))
    assert matrix.dtype == np.int64
    ours = scores(matrix)
    jaccard = sklearn_metrics.jaccard_score(truth, guess, labels=range(5), average=None)
    np.testing.assert_allclose(ours.iou[:4], jaccard[:4], atol=1e-12)
    assert ours.pixel_accuracy == pytest.approx(sklearn_metrics.accuracy_score(truth, guess), abs=1e-12)
    assert ours.miou == pytest.approx(jaccard[:4].mean(), abs=1e-12)
    assert ours.iou[3] == 0 < ours.iou[:3].min()
    assert np.isnan(ours.iou[4])


def test_parts_of_the_patches_add_up(scene):
    _, counts, predicted = scene
    parts = sum(confusion(predicted[half], counts[half]) for half in (slice(None, 21), slice(21, None)))
    np.testing.assert_array_equal(parts, confusion(predicted, counts))


def test_large_counts_of_small_types_do_not_overflow():
    counts = np.full((100, 2), 60_000, np.uint16)
    np.testing.assert_array_equal(confusion(np.zeros(100, np.int32), counts), [[6_000_000]])


def test_classes_that_no_pixel_carries_are_left_out_of_the_mean():
    """Class 0: 6 of 8 told; class 1: predicted only, at the expense of class 0; class 2: nowhere; class 3: never found."""
    ours = scores(np.array([[6, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [4, 0, 0, 0]]))
    np.testing.assert_array_equal(ours.iou, [0.5, np.nan, np.nan, 0.0])
    assert (ours.pixel_accuracy, ours.miou) == (0.5, 0.25)


@pytest.mark.filterwarnings("error")
def test_no_pixels_have_no_scores():
    ours = scores(confusion(np.zeros(0, np.int32), np.zeros((0, 4), np.uint16)))
    assert np.isnan([ours.pixel_accuracy, ours.miou, *ours.iou]).all()


@pytest.mark.parametrize("wrong", [-1, 3])
def test_predictions_beyond_the_classes_are_refused(wrong):
    with pytest.raises(ValueError, match="3"):
        confusion(np.array([0, wrong]), np.ones((2, 4), np.int32))
