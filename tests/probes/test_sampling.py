import dataclasses

import numpy as np
import pytest

from tests.probes.tables import random_labels
from vitprobe_jax.probes.sampling import (
    NUM_QUERY,
    draw_pools,
    draw_queries,
    draw_support,
    images_by_concept,
    rows_by_concept,
)


@pytest.fixture
def labels():
    return random_labels(np.random.default_rng(0), images=60, rows=16, sizes={"object": 6, "part": 3})


def test_rows_by_concept_finds_every_carrier(labels):
    for k, rows in enumerate(rows_by_concept(labels)):
        np.testing.assert_array_equal(rows, np.flatnonzero(labels.carries(int(k))))


def test_pools_hold_no_positive_and_no_row_of_another_category(labels):
    for k, pool in enumerate(draw_pools(labels, ratio=2, seed=0)):
        members = labels.in_category(int(labels.concept_category[k])).reshape(-1)
        carries = labels.carries(int(k)).reshape(-1)
        assert members[pool.negatives].all()
        assert not carries[pool.negatives].any()
        assert len(np.unique(pool.negatives)) == len(pool.negatives)
        assert pool.num_negatives == (members & ~carries).sum()
        assert len(pool.negatives) == min(2 * len(pool.positives), pool.num_negatives)
        np.testing.assert_array_equal(pool.positives, np.flatnonzero(carries))


def test_every_negative_is_drawn_equally_often():
    labels = random_labels(np.random.default_rng(1), images=5, rows=6, sizes={"object": 3})
    rarest = 2
    times = np.zeros(30)
    for seed in range(600):
        pool = draw_pools(labels, ratio=1, seed=seed)[rarest]
        times[pool.negatives] += 1
    negatives = labels.in_category(0).reshape(-1) & ~labels.carries(rarest).reshape(-1)
    expected = 600 * len(pool.positives) / negatives.sum()
    assert (times[~negatives] == 0).all()
    # Five deviations of a binomial count.
    assert np.abs(times[negatives] - expected).max() < 5 * np.sqrt(expected)


def test_draws_do_not_depend_on_the_order_of_concepts(labels):
    order = np.random.default_rng(2).permutation(len(labels.concepts))
    back = np.argsort(order)
    renumber = np.append(0, back + 1).astype(np.int32)
    shuffled = dataclasses.replace(
        labels, slots=renumber[labels.slots], concepts=tuple(labels.concepts[k] for k in order)
    )
    plain, moved = (draw_pools(table, ratio=2, seed=3) for table in (labels, shuffled))
    support = [draw_support(table, shots=5, trials=3, seed=3).images for table in (labels, shuffled)]
    for new, old in enumerate(order):
        np.testing.assert_array_equal(plain[old].negatives, moved[new].negatives)
        np.testing.assert_array_equal(support[0][old], support[1][new])


def test_support_images_contain_the_concept_and_pad_when_there_are_few(labels):
    containing = images_by_concept(labels)
    draw = draw_support(labels, shots=50, trials=4, seed=0)
    for k, images in enumerate(containing):
        for trial in range(4):
            count = draw.counts[k, trial]
            drawn = draw.images[k, trial, :count]
            assert count == min(50, len(images))
            assert np.isin(drawn, images).all()
            assert len(np.unique(drawn)) == count
            assert (draw.images[k, trial, count:] == -1).all()
    assert not np.array_equal(draw.images[0, 0], draw.images[0, 1])


def test_queries_have_as_many_images_with_as_without():
    labels = random_labels(np.random.default_rng(0), images=300, rows=2, sizes={"object": 4})
    draw = draw_queries(labels, trials=2, seed=0)
    for k in range(4):
        carried = labels.carries(int(k)).any(-1)
        member = labels.in_category(0).any(-1)
        for trial in range(2):
            drawn = draw.images[k, trial, : draw.counts[k, trial]]
            assert member[drawn].all()
            assert carried[drawn].sum() == min(NUM_QUERY, carried.sum())
            assert (~carried[drawn]).sum() == min(NUM_QUERY, (member & ~carried).sum())


def test_a_concept_that_nobody_carries_has_empty_draws(labels):
    empty = dataclasses.replace(labels, slots=np.where(labels.slots == 1, 0, labels.slots))
    assert len(draw_pools(empty, ratio=20, seed=0)[0].positives) == 0
    assert draw_support(empty, shots=5, trials=2, seed=0).counts[0].tolist() == [0, 0]
