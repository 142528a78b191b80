import numpy as np
import pytest

from experiments.local.classify import PatchClassifier
from tests.experiments.local.make_bench import Painted, make_bench, painted
from tests.experiments.local.pixel_bench import BACKBONE
from vitprobe_jax.probes.linear import EPSILON

CLASSES, WIDTH, LOUD = 3, 8, [2, 5]


def drawn(rng, count):
    """Classes told apart by six features; two others are thousands of times as loud and say nothing."""
    labels = rng.integers(0, CLASSES, count)
    rows = 2.0 * np.random.default_rng(1).standard_normal((CLASSES, WIDTH))[labels] + rng.standard_normal(
        (count, WIDTH)
    )
    rows[:, LOUD] = 5000 * rng.standard_normal((count, len(LOUD))) + 50
    return rows.astype(np.float32), labels


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What all methods take 500 patches for, all features and without the loud ones; the classifier; rows and labels."""
    rng = np.random.default_rng(0)
    rows, labels = drawn(rng, 1500)
    queries, truth = drawn(rng, 500)
    split = Painted((np.zeros((8, 8, 3), np.uint8),), masks=(np.ones((8, 8), int),))
    dataset = painted(split, split, ("a", "b", "c"))
    bench = make_bench(tmp_path_factory.mktemp("out"), dataset, BACKBONE, "--neighbours=1,5")
    keeps = {0: np.ones(WIDTH, bool), 2: ~np.isin(np.arange(WIDTH), LOUD)}
    methods = ("knn", "knn_batchnorm", "linear", "linear_gradient", "linear_batchnorm")
    classifier = PatchClassifier(bench, rows, labels, keeps, methods)
    return classifier(queries), classifier, rows, labels, queries, truth


def test_each_method_and_variant_has_its_predictions(told):
    names = ("1-nn", "5-nn", "1-nn batchnorm", "5-nn batchnorm", "linear", "linear_gradient", "linear_batchnorm")
    assert set(told[0]) == {(name, dropped) for name in names for dropped in (0, 2)}


def test_neighbours_after_batchnorm_are_those_of_its_running_statistics(told):
    predictions, classifier, rows, labels, queries, _ = told
    probes = classifier.probes("linear_batchnorm")
    for variant, (dropped, keep) in enumerate(classifier.keeps.items()):
        scale = keep / np.sqrt(np.asarray(probes.variance[variant], np.float64) + EPSILON)
        base, asked = ((z - np.asarray(probes.mean[variant])) * scale for z in (rows, queries))
        nearest = ((asked[:, None] - base[None]) ** 2).sum(axis=-1).argmin(axis=1)
        np.testing.assert_array_equal(predictions["1-nn batchnorm", dropped], labels[nearest])


def test_normalisation_and_removal_both_mend_neighbours_and_gradient_descent(told):
    """Section 6 of the paper: normalisation is worth nearly as much as leaving out the features of highest variance."""
    predictions, *_, truth = told
    right = {key: np.mean(concepts == truth) for key, concepts in predictions.items()}
    assert right["1-nn", 0] < 0.5
    assert right["linear_gradient", 0] < right["linear", 0] - 0.2
    for method in ("1-nn", "1-nn batchnorm", "linear", "linear_gradient", "linear_batchnorm"):
        assert right[method, 2] > 0.85, method
    for method in ("1-nn batchnorm", "linear", "linear_batchnorm"):
        assert right[method, 0] > 0.85, method
