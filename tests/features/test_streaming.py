import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from tests.probes.tables import mesh_of
from vitprobe_jax.errors import InputError
from vitprobe_jax.features import streaming
from vitprobe_jax.features.streaming import HostRows, RowSource, finished, stream_rows, take_images, take_rows
from vitprobe_jax.features.table import DATA_AXIS

IMAGES, ROWS, WIDTH = 23, 3, 5
ARRAY = np.random.default_rng(0).standard_normal((IMAGES, ROWS, WIDTH), np.float32)


class Recorded:
    """A source that remembers what was read, and may refuse."""

    def __init__(self, array, damaged=()):
        self.array, self.damaged, self.reads = array, damaged, []
        self.shape, self.dtype = array.shape, array.dtype

    def read(self, images):
        self.reads.append(images.copy())
        if np.isin(images, self.damaged).any():
            raise InputError("--cache_dir: rows.zarr is damaged; delete it and run again")
        return self.array[images]


def small_window(source, devices=1, images=4):
    """So many images on a device at a time."""
    image_bytes = source.shape[1] * source.shape[2] * source.dtype.itemsize
    return stream_rows(source, IMAGES + 1, mesh_of(devices), device_bytes=images * streaming.COPIES * image_bytes)


def test_sources():
    assert isinstance(HostRows(ARRAY), RowSource)
    assert isinstance(Recorded(ARRAY), RowSource)
    for images in ([], [3], [3, 4, 5], [5, 2, 2]):
        np.testing.assert_array_equal(HostRows(ARRAY).read(np.array(images, int)), ARRAY[images])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, (IMAGES + 1) * ROWS - 1), min_size=12, max_size=12))
def test_streamed_rows_are_the_resident_ones(numbers):
    """In any order, repeated; and the image beyond the source is zeros."""
    padded = jnp.asarray(np.concatenate([ARRAY, np.zeros((1, ROWS, WIDTH), np.float32)]))
    rows, index = small_window(HostRows(ARRAY)), jnp.array(numbers).reshape(3, 4)
    np.testing.assert_array_equal(_take_rows(rows, index), take_rows(padded, index))
    np.testing.assert_array_equal(_take_images(rows, index // ROWS), take_images(padded, index // ROWS))


_take_rows, _take_images = jax.jit(take_rows), jax.jit(take_images)


def test_each_image_is_read_once_in_ascending_order_and_few_at_a_time():
    source = Recorded(ARRAY)
    rows = small_window(source, images=5 * streaming.READS)
    index = np.random.default_rng(1).permutation(np.repeat(np.arange(2, 60), 3))
    np.testing.assert_array_equal(_take_rows(rows, jnp.asarray(index)), ARRAY.reshape(-1, WIDTH)[index])
    np.testing.assert_array_equal(np.concatenate(source.reads), np.arange(20))
    assert len(source.reads) == 4
    source.reads.clear()
    _take_rows(rows, jnp.array([3, 66, 4, 0])).block_until_ready()
    # Few images, but far from each other: a source that reads in chunks would have all between them in memory.
    assert [images.tolist() for images in source.reads] == [[0, 1], [22]]


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_other_dtypes(dtype):
    rows = small_window(HostRows(ARRAY.astype(dtype)))
    taken = _take_rows(rows, jnp.arange(7))
    assert taken.dtype == dtype
    np.testing.assert_array_equal(np.asarray(taken), ARRAY.astype(dtype).reshape(-1, WIDTH)[:7])


@pytest.mark.parametrize("count", [100, 3 * streaming.PIECE + 17])
def test_loops_branches_batches_and_devices(count):
    """Within all of these at once; more numbers than JAX copies at once, which would hang."""
    mesh = mesh_of(8)

    def total(rows, seed):
        index = (jnp.arange(2 * count) * 7 + seed[0]) % (IMAGES * ROWS)

        def add(i, sums):
            def one(index, use):
                return jax.lax.cond(use, lambda: take_rows(rows, index), lambda: jnp.zeros((count, WIDTH)))

            # The predicate differs within the batch, so that both branches are taken for all.
            return sums + jnp.sum(jax.vmap(one)(index.reshape(2, count), jnp.array([True, False])), axis=(0, 1))

        return jax.lax.fori_loop(0, 2, add, jnp.zeros(WIDTH))[None]

    in_specs = (PartitionSpec(), PartitionSpec(DATA_AXIS))
    spread = jax.shard_map(total, mesh=mesh, in_specs=in_specs, out_specs=PartitionSpec(DATA_AXIS), check_vma=False)
    rows = small_window(HostRows(ARRAY), 8)
    sums = np.asarray(finished(rows, jax.jit(spread)(rows, jnp.arange(8))))
    for seed in range(8):
        index = (np.arange(count) * 7 + seed) % (IMAGES * ROWS)
        expected = 2 * ARRAY.reshape(-1, WIDTH)[index].sum(axis=0, dtype=np.float64)
        np.testing.assert_allclose(sums[seed], expected, rtol=1e-4, atol=1e-2)


def test_one_program_serves_all_sources():
    traces = []

    @jax.jit
    def first(rows):
        traces.append(rows)
        return take_rows(rows, jnp.arange(4))

    for scale in (1, 2):
        rows = small_window(HostRows(scale * ARRAY))
        np.testing.assert_array_equal(first(rows), scale * ARRAY.reshape(-1, WIDTH)[:4])
    assert len(traces) == 1


def test_damage_is_one_line_for_the_caller(caplog):
    source = Recorded(ARRAY, damaged=[7])
    rows = small_window(source)
    finished(rows, _take_rows(rows, jnp.arange(6)))
    with pytest.raises(InputError, match=r"^--cache_dir: rows\.zarr is damaged; delete it and run again$"):
        finished(rows, _take_rows(rows, jnp.arange(40)))
    reads = len(source.reads)
    _take_rows(rows, jnp.arange(6)).block_until_ready()
    assert len(source.reads) == reads  # Nothing more is read in vain.
    assert not caplog.records


def test_resident_rows_need_no_waiting():
    assert finished(jnp.asarray(ARRAY), "results") == "results"


def test_a_source_is_kept_as_long_as_its_handle():
    rows = small_window(HostRows(ARRAY))
    number = int(rows.handle)
    copy = jax.tree.map(lambda leaf: leaf, rows)
    del rows
    gc.collect()
    np.testing.assert_array_equal(_take_rows(copy, jnp.arange(2)), ARRAY[0, :2])
    del copy
    gc.collect()
    assert number not in streaming._streams
