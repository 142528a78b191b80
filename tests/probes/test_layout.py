import dataclasses

import numpy as np
import pytest

from vitprobe_jax.probes.layout import BLOCK, plan_waves
from vitprobe_jax.probes.sampling import RowPool

BATCH = 128


def make_pools(sizes, *, available=10**9, seed=0):
    rng = np.random.default_rng(seed)
    counts = [(size, min(20 * size, available)) for size in sizes]
    return [
        RowPool(np.sort(rng.integers(0, 10**6, p)), np.sort(rng.integers(0, 10**6, n)), available) for p, n in counts
    ]


def waves_of(pools, *, max_slots=10**9, group_size=16, dense_from=0, num_devices=1):
    return plan_waves(
        pools,
        range(len(pools)),
        negative_ratio=2,
        batch_size=BATCH,
        group_size=group_size,
        max_slots=max_slots,
        dense_from=dense_from,
        num_devices=num_devices,
    )


def test_little_is_visited_in_vain():
    """The issue's bound: 1,000 concepts, log-uniform from 50 to 50,000 positives, at most 1.5 rows visited a row needed."""
    sizes = np.exp(np.random.default_rng(0).uniform(np.log(50), np.log(50_000), 1000)).astype(int)
    pools = make_pools(sizes, available=100_000)
    (wave,) = waves_of(pools)
    (layout,) = wave.layouts
    assert layout.rows_needed == 3 * sizes.sum()
    assert layout.rows_needed <= layout.rows_visited <= 1.15 * layout.rows_needed
    needed = sum(len(pool.negatives) for pool in pools)
    assert layout.pool.size <= 1.15 * needed


@pytest.mark.parametrize("num_devices", [2, 8])
@pytest.mark.parametrize("log_uniform", [False, True])
def test_the_devices_have_the_same_work(log_uniform, num_devices):
    """200 equal and 1,000 log-uniform concepts: rows visited, pools to score and memory, within 5%."""
    sizes = np.full(200, 500)
    if log_uniform:
        sizes = np.exp(np.random.default_rng(0).uniform(np.log(50), np.log(50_000), 1000)).astype(int)
    pools = make_pools(sizes, available=100_000)
    (wave,) = waves_of(pools, dense_from=5000, num_devices=num_devices)
    assert len(wave.layouts) == num_devices
    for work in ("rows_visited", "rows_needed"):
        of_device = [getattr(layout, work) for layout in wave.layouts]
        assert max(of_device) <= 1.05 * min(of_device)
    num_dense = [int(layout.num_dense) for layout in wave.layouts]
    assert max(num_dense) <= min(num_dense) + 1
    in_pools = [int(layout.n_pool.sum()) for layout in wave.layouts]
    assert max(in_pools) <= 1.05 * min(in_pools)


@pytest.mark.parametrize("max_slots", [10**9, 20_000, 1])
@pytest.mark.parametrize("num_devices", [1, 3, 8])
def test_every_concept_keeps_its_rows(max_slots, num_devices):
    sizes = [1, 43, 128, 129, 600, 7, 2]
    pools = make_pools(sizes, available=5000)
    waves = waves_of(pools, max_slots=max_slots, group_size=4, num_devices=num_devices)
    hands = [hand for wave in waves for hand in zip(wave.concepts, wave.layouts, strict=True)]
    assert sorted(np.concatenate([concepts for concepts, _ in hands])) == list(range(len(sizes)))
    assert len({tuple(leaf.shape for leaf in layout) for _, layout in hands}) == 1
    for concepts, layout in hands:
        assert len(layout.n_pos) % 4 == 0
        for place, k in enumerate(concepts):
            pool = pools[k]
            assert layout.identity[place] == k
            assert layout.n_neg[place] == min(2 * len(pool.positives), len(pool.negatives))
            start = layout.first_batch[place] * BATCH
            np.testing.assert_array_equal(layout.positives.ravel()[start:][: layout.n_pos[place]], pool.positives)
            start = layout.first_block[place] * BLOCK
            np.testing.assert_array_equal(layout.pool.ravel()[start:][: layout.n_pool[place]], pool.negatives)
            batches = -(-(layout.n_pos[place] + layout.n_neg[place]) // BATCH)
            mine = np.flatnonzero(layout.batch_concept == place)
            np.testing.assert_array_equal(mine[:batches], layout.first_batch[place] + np.arange(batches))
            assert layout.group_steps[place // 4] >= batches


def test_waves_stay_within_the_bound():
    pools = make_pools(np.geomspace(3000, 10, 60).astype(int), available=10_000)
    max_slots = 100_000
    waves = waves_of(pools, max_slots=max_slots)
    assert len(waves) > 3
    for wave in waves:
        used = sum(len(pools[k].negatives) for k in wave.concepts[0])
        assert used <= max_slots
        assert wave.layouts[0].pool.size <= 2 * max_slots


def test_the_order_of_concepts_is_of_no_account():
    pools = make_pools([5, 500, 50, 50, 500])
    (wave,) = waves_of(pools)
    order = [3, 0, 4, 2, 1]
    (other,) = plan_waves(
        [pools[k] for k in order],
        order,
        negative_ratio=2,
        batch_size=BATCH,
        group_size=16,
        max_slots=10**9,
        dense_from=0,
    )
    for a, b in zip(wave.layouts[0], other.layouts[0], strict=True):
        np.testing.assert_array_equal(a, b)


def test_concepts_with_large_pools_stand_first():
    """The third has many positives, but a small pool."""
    pools = make_pools([500, 20, 300, 90])
    pools[2] = dataclasses.replace(pools[2], negatives=pools[2].negatives[:100])
    (wave,) = waves_of(pools, dense_from=1000)
    assert wave.layouts[0].num_dense == 2
    assert wave.concepts[0].tolist() == [0, 3, 2, 1]
