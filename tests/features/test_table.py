import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.probes.tables import mesh_of, planted_rows, random_labels, table_of
from vitprobe_jax.features.streaming import HostRows
from vitprobe_jax.features.table import deal, fold_images, place_table, replicate

IMAGES, ROWS, WIDTH = 21, 4, 6


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    labels = random_labels(rng, images=IMAGES, rows=ROWS, sizes={"object": 3})
    return planted_rows(rng, labels, width=WIDTH, strength=1.0)[0], labels


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_the_images_are_split_and_padded(data, devices):
    rows, labels = data
    table = table_of(rows, labels, devices=devices)
    assert len(table.rows) % devices == 0
    np.testing.assert_array_equal(table.rows[:IMAGES], rows)
    np.testing.assert_array_equal(table.slots[:IMAGES], labels.slots)
    assert not np.any(table.rows[IMAGES:])
    assert not np.any(table.slots[IMAGES:])
    np.testing.assert_array_equal(table.real, np.arange(len(table.rows)) < IMAGES)
    for leaf in (table.rows, table.slots, table.real):
        assert {shard.data.shape[0] for shard in leaf.addressable_shards} == {len(table.rows) // devices}


def test_each_device_is_read_its_own_images_alone(data):
    rows, labels = data
    reads = []

    class Source(HostRows):
        def read(self, images):
            reads.append(images)
            return super().read(images)

    place_table(Source(rows), labels, mesh_of(8))
    assert max(map(len, reads)) == -(-IMAGES // 8)
    np.testing.assert_array_equal(np.sort(np.concatenate(reads)), np.arange(IMAGES))


@pytest.mark.parametrize("device_bytes", [None, 1000])
def test_images_left_out_take_part_in_nothing(data, device_bytes):
    rows, labels = data
    mesh, left_out = mesh_of(2), (0, 20)
    streamed = {"resident": False, "device_bytes": device_bytes} if device_bytes else {}
    table = place_table(HostRows(rows), labels, mesh, left_out=left_out, **streamed)
    kept = np.setdiff1d(np.arange(IMAGES), left_out)
    np.testing.assert_array_equal(np.flatnonzero(table.real), kept)
    assert not np.any(np.asarray(table.slots)[list(left_out)])
    np.testing.assert_array_equal(np.asarray(table.slots)[kept], labels.slots[kept])
    assert labels.slots[list(left_out)].any()  # The labels themselves stay.


@pytest.mark.parametrize("images_at_once", [1, 2, 100])
@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("device_bytes", [None, 4 * 4 * ROWS * WIDTH * 2])
def test_every_image_is_folded_once(data, images_at_once, devices, device_bytes):
    rows, labels = data
    table = table_of(rows, labels, devices=devices, device_bytes=device_bytes)

    def add(sums, rows, slots, real, factor):
        total = jnp.sum(jnp.where(real[:, None, None], rows, 0), axis=(0, 1))
        return sums[0] + factor * total, sums[1] + jnp.sum(slots), sums[2] + jnp.sum(real)

    @jax.jit
    def fold(table):
        start = (jnp.zeros(WIDTH), jnp.int32(0), jnp.int32(0))
        return fold_images(add, start, table, jnp.float32(2.0), images_at_once=images_at_once)

    totals, slots, real = fold(table)
    assert totals.shape == (devices, WIDTH)
    np.testing.assert_allclose(totals.sum(axis=0), 2 * rows.sum(axis=(0, 1)), rtol=1e-5, atol=1e-4)
    assert slots.sum() == labels.slots.sum()
    assert real.sum() == IMAGES


def test_placing_host_arrays():
    mesh, array = mesh_of(8), np.arange(16.0, dtype=np.float32)
    everywhere, key = replicate((array, jax.random.key(3)), mesh)
    assert everywhere.is_fully_replicated
    assert key.is_fully_replicated
    assert jax.random.bits(key) == jax.random.bits(jax.random.key(3))
    assert replicate(everywhere, mesh) is everywhere
    dealt = deal(array, mesh)
    assert [shard.data.tolist() for shard in dealt.addressable_shards] == array.reshape(8, 2).tolist()
