import numpy as np
import pytest

from vitprobe_jax.metrics.tracking import frame_pairs, nearest_objects, objects_of, tracking_shares

PAIRS = np.array([(0, 1), (1, 2), (0, 4), (4, 0), (2, 4), (3, 4), (1, 1)], np.int32)
"""The third frame is empty."""
COUNTS = np.array([6, 3, 1, 0, 20])
STARTS = np.cumsum([0, *COUNTS])


def objects(seed=0, offset=0.0):
    """30 objects of 24 features."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(30, 24)) * rng.uniform(0.5, 2, (30, 1)) + offset).astype(np.float32)


def asked():
    """Each object that is asked for with the pair that it is asked in."""
    return [(i, second) for first, second in PAIRS for i in range(STARTS[first], STARTS[first + 1])]


def brute_force(features, metric):
    """One object at a time, in float64."""
    found = []
    for i, second in asked():
        base, query = features[STARTS[second] : STARTS[second + 1]].astype(np.float64), features[i].astype(np.float64)
        far = ((base - query) ** 2).sum(1)
        if metric == "cosine":
            far = -(base @ query) / np.linalg.norm(base, axis=1)
        found.append(STARTS[second] + np.argmin(far))
    return np.array(found)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("memory", [1, 1 << 20])
def test_nearest_objects_are_those_of_brute_force(metric, memory):
    features = objects()
    expected = brute_force(features, metric)
    found = nearest_objects(features, STARTS, PAIRS, metric=metric, memory=memory)
    np.testing.assert_array_equal(found, expected)
    assert (expected != brute_force(features, "cosine" if metric == "l2" else "l2")).any()


def test_features_that_are_not_kept_are_as_if_they_were_not_there():
    features, keep = objects(), np.arange(24) >= 5
    features[:, :5] *= 100
    found = nearest_objects(features, STARTS, PAIRS, keep=keep)
    np.testing.assert_array_equal(found, brute_force(features[:, 5:], "l2"))
    assert (found != brute_force(features, "l2")).any()


def test_pairs_are_compared_alike_together_and_alone():
    features = objects(3)
    together = nearest_objects(features, STARTS, np.tile(PAIRS, (50, 1)))
    alone = np.concatenate([nearest_objects(features, STARTS, pair[None]) for pair in PAIRS])
    np.testing.assert_array_equal(together, np.tile(alone, 50))


def test_a_large_feature_of_all_objects_drowns_no_distance():
    features = objects(offset=4000.0)
    np.testing.assert_array_equal(nearest_objects(features, STARTS, PAIRS), brute_force(features, "l2"))


def test_of_equally_near_objects_the_first_is_taken():
    found = nearest_objects(np.zeros((30, 24), np.float32), STARTS, PAIRS)
    assert found.tolist() == [STARTS[second] for _, second in asked()]


def test_no_pairs_lead_to_nothing_and_empty_later_frames_are_refused():
    assert nearest_objects(objects(), STARTS, np.zeros((0, 2), np.int32)).shape == (0,)
    with pytest.raises(ValueError, match="has no objects"):
        nearest_objects(objects(), STARTS, np.array([[0, 3]]))


def test_objects_of_frames_come_frame_by_frame():
    assert objects_of(np.array([1, 3, 2, 1]), STARTS).tolist() == [6, 7, 8, 9, 6, 7, 8]


def test_pairs_are_of_one_sequence_and_follow_its_numbers():
    frames = [("a", 1), ("a", 2), ("a", 4), ("b", 3), ("b", 4), ("b", 6)]
    assert frame_pairs(frames, 1).tolist() == [[0, 1], [3, 4]]
    assert frame_pairs(frames, 2).tolist() == [[1, 2], [4, 5]]
    assert frame_pairs(frames, 5).shape == (0, 2)


def test_shares_count_every_object_of_every_pair():
    rng = np.random.default_rng(1)
    pairs = PAIRS[[0, 1, 2, 3, 4, 6]]
    # Tracks are told apart within a frame.
    tracks = np.concatenate([rng.permutation(25)[:count] for count in COUNTS])
    categories = rng.integers(1, 3, 30)
    of_pairs = [(i, second) for first, second in pairs for i in range(STARTS[first], STARTS[first + 1])]
    found = np.array([rng.integers(STARTS[second], STARTS[second + 1]) for _, second in of_pairs])
    shares = tracking_shares(found, pairs, STARTS, tracks, categories)
    same = np.array([tracks[j] == tracks[i] for (i, _), j in zip(of_pairs, found, strict=True)])
    right = np.array([categories[j] == categories[i] for (i, _), j in zip(of_pairs, found, strict=True)])
    there = [tracks[i] in tracks[STARTS[second] : STARTS[second + 1]] for i, second in of_pairs]
    assert shares.count == len(there) == 6 + 3 + 6 + 20 + 1 + 3
    measured = (shares.same_instance, shares.same_category, shares.upper_bound)
    assert measured == pytest.approx([np.mean(x) for x in (same, right, there)])
    assert 0 < np.mean(same) <= np.mean(there) < 1
    assert (shares.failed, shares.failed_same_category) == (np.sum(~same), np.sum(right & ~same))
    assert 0 < shares.failed_same_category < shares.failed


def test_empty_frames_and_no_pairs_are_refused():
    zeros = np.zeros(30, int)
    for pairs in (np.array([[0, 3]]), np.zeros((0, 2), int)):
        with pytest.raises(ValueError, match="in one pair"):
            tracking_shares(np.zeros(6 * len(pairs), int), pairs, STARTS, zeros, zeros)
