import numpy as np
import pytest

from vitprobe_jax.metrics.tracking import frame_pairs, nearest_objects, tracking_shares

PAIRS = np.array([(0, 1), (1, 2), (0, 3), (3, 0), (2, 3)], np.int32)


def objects(seed=0, offset=0.0):
    """Four frames of at most six objects of 24 features."""
    rng = np.random.default_rng(seed)
    present = np.arange(6)[None] < np.array([6, 3, 1, 4])[:, None]
    features = rng.normal(size=(4, 6, 24)) * rng.uniform(0.5, 2, (4, 6, 1)) + offset
    return np.where(present[..., None], features, 9.0).astype(np.float32), present


def brute_force(features, present, metric):
    """One object at a time, in float64."""
    found = np.full((len(PAIRS), features.shape[1]), -1)
    for n, (first, second) in enumerate(PAIRS):
        base = features[second][present[second]].astype(np.float64)
        for i in np.flatnonzero(present[first]):
            query = features[first, i].astype(np.float64)
            far = ((base - query) ** 2).sum(1)
            if metric == "cosine":
                far = -(base @ query) / np.linalg.norm(base, axis=1)
            found[n, i] = np.argmin(far)
    return found


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_nearest_objects_are_those_of_brute_force(metric):
    features, present = objects()
    expected = brute_force(features, present, metric)
    found = np.asarray(nearest_objects(features, present, PAIRS, metric=metric))
    np.testing.assert_array_equal(np.where(present[PAIRS[:, 0]], found, -1), expected)
    assert (expected != brute_force(features, present, "cosine" if metric == "l2" else "l2")).any()


def test_a_large_feature_of_all_objects_drowns_no_distance():
    features, present = objects(offset=4000.0)
    found = np.asarray(nearest_objects(features, present, PAIRS))
    np.testing.assert_array_equal(np.where(present[PAIRS[:, 0]], found, -1), brute_force(features, present, "l2"))


def test_of_equally_near_objects_the_first_is_taken():
    features, present = np.zeros((4, 6, 24), np.float32), np.ones((4, 6), bool)
    assert not np.asarray(nearest_objects(features, present, PAIRS)).any()


def test_no_pairs_lead_to_nothing():
    features, present = objects()
    assert nearest_objects(features, present, np.zeros((0, 2), np.int32)).shape == (0, 6)


def test_pairs_are_of_one_sequence_and_follow_its_numbers():
    frames = [("a", 1), ("a", 2), ("a", 4), ("b", 3), ("b", 4), ("b", 6)]
    assert frame_pairs(frames, 1).tolist() == [[0, 1], [3, 4]]
    assert frame_pairs(frames, 2).tolist() == [[1, 2], [4, 5]]
    assert frame_pairs(frames, 5).shape == (0, 2)


def test_shares_count_every_object_of_every_pair():
    rng = np.random.default_rng(1)
    _, present = objects()
    # Tracks are told apart within a frame, and places without an object must not count.
    tracks = np.stack([rng.permutation(8)[:6] for _ in range(4)])
    categories = rng.integers(1, 3, (4, 6))
    places = [[rng.choice(np.flatnonzero(present[second])) for _ in range(6)] for _, second in PAIRS]
    shares = tracking_shares(np.array(places), PAIRS, present, tracks, categories)
    same_instance, same_category, there = [], [], []
    for (first, second), found in zip(PAIRS, places, strict=True):
        for i in np.flatnonzero(present[first]):
            same_instance.append(tracks[second, found[i]] == tracks[first, i])
            same_category.append(categories[second, found[i]] == categories[first, i])
            there.append(tracks[first, i] in tracks[second][present[second]])
    assert shares.count == len(there) == 6 + 3 + 6 + 4 + 1
    measured = (shares.same_instance, shares.same_category, shares.upper_bound)
    assert measured == pytest.approx([np.mean(x) for x in (same_instance, same_category, there)])
    assert 0 < np.mean(same_instance) <= np.mean(there) < 1


def test_empty_frames_and_no_pairs_are_refused():
    present = np.array([[True, False], [False, False]])
    zeros = np.zeros((2, 2), int)
    for pairs in (np.array([[0, 1]]), np.zeros((0, 2), int)):
        with pytest.raises(ValueError, match="in one pair"):
            tracking_shares(np.zeros((len(pairs), 2), int), pairs, present, zeros, zeros)
