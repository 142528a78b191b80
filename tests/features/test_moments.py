import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.probes.tables import mesh_of, random_labels
from vitprobe_jax.errors import InputError
from vitprobe_jax.features import moments
from vitprobe_jax.features.moments import (
    GroupedMoments,
    feature_moments,
    highest_variance,
    table_mean,
    table_variance,
    variant_name,
)
from vitprobe_jax.features.streaming import HostRows
from vitprobe_jax.features.table import DATA_AXIS, place_table


@pytest.fixture(scope="module")
def rows():
    """Of all scales, some far from 0 for their deviation, two constant; wide enough that XLA sums blocks of other sizes in
    other orders."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((33, 9, 768)) * np.geomspace(1e-3, 1e3, 768) + np.linspace(-100, 100, 768)
    rows[..., [3, 7]] = 0.3
    return rows.astype(np.float32)


def test_moments_equal_numpy_in_many_blocks(rows, monkeypatch):
    monkeypatch.setattr(moments, "HOST_BLOCK_BYTES", 8 * 768 * 50)
    flat = rows.reshape(-1, 768)
    found = feature_moments(flat)
    assert float(found.count) == len(flat)
    np.testing.assert_allclose(found.mean, flat.mean(0, dtype=np.float64), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(found.variance, flat.astype(np.float64).var(0), rtol=1e-9, atol=1e-15)
    assert found.variance[[3, 7]].tolist() == [0, 0]
    assert not feature_moments(flat[:0]).variance.any()


def test_where_rows_lie_is_of_no_account(rows):
    flat = rows[:32].reshape(-1, 768)
    dealt = jax.device_put(flat, NamedSharding(mesh_of(8), PartitionSpec(DATA_AXIS)))
    jax.tree.map(np.testing.assert_array_equal, feature_moments(dealt), feature_moments(flat))
    rounded = jnp.asarray(flat, jnp.bfloat16)
    np.testing.assert_array_equal(feature_moments(rounded).mean, feature_moments(rounded.astype(jnp.float32)).mean)


def test_a_table_has_the_same_variance_to_the_bit_however_it_is_cut(rows):
    """Which features are left out hangs on it. Images that are left out, and padding, do not count."""
    labels = random_labels(np.random.default_rng(0), images=33, rows=9, sizes={"object": 2})
    left_out = np.array([5, 6])

    def variance(devices, **bound):
        table = place_table(HostRows(rows), labels, mesh_of(devices), left_out=left_out, **bound)
        return np.asarray(table_variance(table)), np.asarray(table_mean(table))

    once, mean = variance(1)
    kept = feature_moments(np.delete(rows, left_out, axis=0).reshape(-1, 768))
    np.testing.assert_allclose(mean, kept.mean, rtol=3e-7)
    # Off by the square of what rounding leaves of the mean: (4e-6 / 1e-3)^2 where that is the largest for the deviation.
    np.testing.assert_allclose(once, kept.variance, rtol=5e-5, atol=1e-14)
    np.testing.assert_array_equal(variance(8)[0], once)
    np.testing.assert_array_equal(variance(2, resident=False, device_bytes=rows.nbytes // 17)[0], once)


def test_the_highest_are_left_out_and_of_equals_the_first():
    variance = np.array([1.0, 5.0, 3.0, 5.0, 3.0, 3.0])
    assert np.flatnonzero(~highest_variance(variance, 3)).tolist() == [1, 2, 3]
    assert highest_variance(variance, 0).all()
    assert not highest_variance(jnp.asarray(variance), 6).any()


@pytest.mark.parametrize("m", [-1, 7])
def test_more_features_than_there_are_cannot_be_left_out(m):
    with pytest.raises(InputError, match=rf"--drop_features={m}: the model has 6 features"):
        highest_variance(np.ones(6), m)


def test_a_variant_has_a_name_of_its_own():
    assert (variant_name("mae_vitb16", 200), variant_name("mae_vitb16", 0)) == ("mae_vitb16-200", "mae_vitb16")


def test_grouped_moments_are_those_of_all_images_and_the_same_in_any_blocks_and_processes(rows, monkeypatch):
    monkeypatch.setattr(GroupedMoments, "GROUP", 5)
    left_out = np.isin(np.arange(33), [5, 6, 32])

    def of(ends):
        """Each process has whole groups, each block any images."""
        groups = []
        for process in ends:
            own = GroupedMoments(768)
            for start, end in itertools.pairwise(process):
                own.add(np.arange(start, end), rows[start:end], left_out[start:end])
            groups.append(own.groups)
        return GroupedMoments.merged(np.concatenate(groups))

    together = of([[0, 33]])
    for ends in ([[0, 1, 4, 13, 33]], [[0, 7, 20], [20, 24, 33]], [[0, 5], [], [5, 33]]):
        jax.tree.map(np.testing.assert_array_equal, of(ends), together)
    flat = np.delete(rows, [5, 6, 32], axis=0).reshape(-1, 768).astype(np.float64)
    assert float(together.count) == len(flat)
    np.testing.assert_allclose(together.mean, flat.mean(0), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(together.variance, flat.var(0), rtol=1e-9, atol=1e-15)
    assert not GroupedMoments.merged(GroupedMoments(768).groups).variance.any()
