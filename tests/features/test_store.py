import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.features.stores import CELLS, ERRORS, SHAPE, rows_of
from vitprobe_jax.features.store import (
    MANY_SHARDS,
    MAX_SHARD_IMAGES,
    MIN_SHARD_IMAGES,
    SHARD_BYTES,
    MemoryStore,
    RowShape,
)


@given(st.integers(1, 10_000), st.integers(1, 3000), st.integers(1, 2000), st.sampled_from(["float32", "bfloat16"]))
def test_shards_cover_every_image_once_and_are_small(num_images, num_rows, width, dtype):
    shape = RowShape(num_images, num_rows, width, dtype)
    covered = [image for shard in range(shape.num_shards) for image in shape.images_of(shard)]
    assert covered == list(range(num_images))
    size = shape.shard_images
    assert size & (size - 1) == 0
    enough = max(num_images // MANY_SHARDS, MIN_SHARD_IMAGES)
    assert size <= min(MAX_SHARD_IMAGES, enough)
    assert size == 1 or size * shape.image_bytes <= SHARD_BYTES
    # Twice the size would break one of the bounds.
    assert 2 * size > min(MAX_SHARD_IMAGES, enough) or 2 * size * shape.image_bytes > SHARD_BYTES
    if num_images >= MANY_SHARDS * MIN_SHARD_IMAGES:
        assert shape.num_shards >= MANY_SHARDS


def test_memory_gives_back_what_it_was_given():
    store = MemoryStore(SHAPE)
    assert store.missing(CELLS, range(3)) == [0, 1, 2]
    for shard in (2, 0):
        store.write(shard, {cell: rows_of(cell, shard) for cell in CELLS}, {})
    assert store.missing(CELLS, range(3)) == [1]
    store.write(1, {cell: rows_of(cell, 1) for cell in CELLS}, ERRORS)
    assert store.missing(CELLS, range(3)) == []
    assert store.missing([*CELLS, (1, "q")], [2]) == [2]
    assert store.errors() == ERRORS
    source = store.source(CELLS[1])
    assert source.shape == SHAPE.full
    images = np.array([79, 0, 32, 0])
    expected = np.concatenate([rows_of(CELLS[1], shard) for shard in range(3)])
    np.testing.assert_array_equal(source.read(images), expected[images])


def test_a_released_cell_is_missing_and_the_others_are_not():
    store = MemoryStore(SHAPE)
    for shard in range(3):
        store.write(shard, {cell: rows_of(cell, shard) for cell in CELLS}, {})
    store.release(CELLS[0])
    assert store.missing([CELLS[0]], range(3)) == [0, 1, 2]
    assert store.missing([CELLS[1]], range(3)) == []
    with pytest.raises(KeyError):
        store.source(CELLS[0])
