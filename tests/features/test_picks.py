import numpy as np

from vitprobe_jax.data.labels import LabelTable
from vitprobe_jax.features.picks import pick_patches
from vitprobe_jax.types import Concept


def make_labels(num_images=1500, num_rows=12, share=0.5):
    slots = (np.random.default_rng(0).random((num_images, num_rows, 1)) < share).astype(np.int32)
    return LabelTable(slots, np.zeros(1, np.int32), (Concept(1, "a", "object"),), ("object",))


def test_labelled_patches_come_first_and_none_twice():
    labels = make_labels()
    kept, picks = pick_patches(labels, 4, seed=3)
    assert picks.shape == (1500, 4)
    assert (np.diff(picks, axis=1) > 0).all()
    np.testing.assert_array_equal(kept.slots, np.take_along_axis(labels.slots, picks[:, :, None], axis=1))
    available = labels.slots.any(-1).sum(1)
    np.testing.assert_array_equal(kept.slots.any(-1).sum(1), np.minimum(available, 4))


def test_every_labelled_patch_is_as_likely_as_any_other():
    labels = make_labels(share=1.0)
    _, picks = pick_patches(labels, 4, seed=0)
    counts = np.bincount(picks.ravel(), minlength=12)
    # 1,500 draws of 4 of 12: 500 expected each, deviation sqrt(1500 / 3 * 2 / 3) = 18; five deviations.
    assert np.abs(counts - 500).max() < 92


def test_the_seed_decides_and_more_patches_than_there_are_keeps_all():
    labels = make_labels(20)
    first, second, other = (pick_patches(labels, 3, seed=seed)[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()
    kept, picks = pick_patches(labels, 99, seed=0)
    np.testing.assert_array_equal(kept.slots, labels.slots)
    np.testing.assert_array_equal(picks, np.tile(np.arange(12), (20, 1)))
