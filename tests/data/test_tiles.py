import pickle
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.data.cityscapes_tree import write_cityscapes
from vitprobe_jax.data.cityscapes import open_cityscapes
from vitprobe_jax.data.dataset import Annotation, Box, ImageSplit, SizedSplit, image_size
from vitprobe_jax.data.latest import Latest
from vitprobe_jax.data.tiles import TiledSplit, patch_of_pixels, tile_boxes
from vitprobe_jax.errors import InputError

sides = st.integers(1, 23)
sizes = st.tuples(sides, sides)


class Photographs:
    """Images of random pixels and annotations, and how often each was asked for."""

    def __init__(self, shapes, annotate=lambda shape: Annotation()):
        rng = np.random.default_rng(0)
        self.pixels = [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]
        self.annotate, self.reads = annotate, Counter()

    def __len__(self):
        return len(self.pixels)

    def name(self, index):
        return f"{index}.png"

    def image(self, index):
        self.reads["image", index] += 1
        return Image.fromarray(self.pixels[index])

    def annotation(self, index):
        self.reads["annotation", index] += 1
        return self.annotate(self.pixels[index].shape[:2])


class Measured(Photographs):
    def size(self, index):
        return self.pixels[index].shape[:2]


@given(sizes, st.integers(1, 9))
def test_tiles_cover_the_image_and_nothing_else(size, tile):
    boxes = tile_boxes(size, tile)
    assert len(boxes) == -(-size[0] // tile) * -(-size[1] // tile)
    assert boxes == sorted(boxes)
    covered = np.zeros(size, int)
    for top, left, height, width in boxes:
        assert top >= 0
        assert left >= 0
        assert (height, width) == (min(tile, size[0]), min(tile, size[1]))
        covered[top : top + height, left : left + width] += 1
        assert top + height <= size[0]
        assert left + width <= size[1]
    assert covered.min() == 1


@settings(max_examples=25, deadline=None)
@given(st.lists(sizes, min_size=1, max_size=2), st.integers(4, 12))
def test_tiles_are_crops_and_every_pixel_is_annotated_once(shapes, tile):
    parent = Photographs(
        shapes, lambda shape: Annotation(masks=(("object", 1 + np.arange(np.prod(shape)).reshape(shape)),))
    )
    tiles = TiledSplit(parent, tile)
    assert len(tiles) == len(tiles.owner) == sum(rows * columns for rows, columns in tiles.grids)
    for owner, shape in enumerate(shapes):
        labels = []
        for number, box in enumerate(tiles.boxes(owner), tiles.first[owner]):
            assert tiles.owner[number] == owner
            assert tiles.name(number) == f"{owner}.png@{box.top},{box.left}"
            crop = parent.pixels[owner][box.top : box.top + box.height, box.left : box.left + box.width]
            np.testing.assert_array_equal(np.asarray(tiles.image(number)), crop)
            annotation = tiles.annotation(number)
            ((_, mask),) = annotation.masks
            assert tiles.size(number) == annotation.image_size == mask.shape == crop.shape[:2]
            y, x = np.nonzero(mask)
            # A label tells its pixel.
            np.testing.assert_array_equal(mask[y, x], 1 + (y + box.top) * shape[1] + x + box.left)
            labels.append(mask[mask > 0])
        assert sorted(np.concatenate(labels)) == list(range(1, np.prod(shape) + 1))


@settings(max_examples=50, deadline=None)
@given(sizes, st.integers(1, 9), st.tuples(st.integers(1, 4), st.integers(1, 4)))
def test_a_pixel_belongs_to_the_first_tile_and_its_patch(size, tile, grid):
    boxes = tile_boxes(size, tile)
    patch = patch_of_pixels(boxes, grid, size)
    for y in range(size[0]):
        for x in range(size[1]):
            covers = [i for i, b in enumerate(boxes) if 0 <= y - b.top < b.height and 0 <= x - b.left < b.width]
            box = boxes[covers[0]]
            row = int((y - box.top + 0.5) / box.height * grid[0])
            column = int((x - box.left + 0.5) / box.width * grid[1])
            assert patch[y, x] == (covers[0] * grid[0] + row) * grid[1] + column


def test_pixels_of_no_tile_have_no_patch():
    assert patch_of_pixels([(0, 0, 1, 2)], (1, 2), (2, 2)).tolist() == [[0, 1], [-1, -1]]


def test_masks_of_another_size_are_cut_at_their_place():
    """The mask has half the size, rounded up: pixel (y, x) lies in its cell (y + 1/2) / 10 * 5, (x + 1/2) / 13 * 7."""
    half = 1 + np.arange(35, dtype=np.int32).reshape(5, 7)
    parent = Measured([(10, 13)], lambda shape: Annotation(masks=(("part", half),), image_size=shape))
    tiles = TiledSplit(parent, 6)
    put = np.zeros((10, 13), int)
    for i, box in enumerate(tiles.boxes(0)):
        ((_, mask),) = tiles.annotation(i).masks
        put[box.top : box.top + box.height, box.left : box.left + box.width] += mask
    y, x = np.indices((10, 13))
    np.testing.assert_array_equal(put, half[((y + 0.5) * 5 / 10).astype(int), ((x + 0.5) * 7 / 13).astype(int)])


def test_labels_of_the_image_are_kept_and_boxes_are_moved():
    boxes = (Box(1, 7, 3.0, 2.0, 5.5, 4.0), Box(2, 8, 4.0, 0.0, 9.0, 1.0), Box(1, 9, -3.0, 0.0, 0.0, 4.0))
    parent = Measured([(4, 8)], lambda shape: Annotation(labels=(("scene", 3),), boxes=boxes))
    left, right = (TiledSplit(parent, 4).annotation(i) for i in range(2))
    assert left.labels == right.labels == (("scene", 3),)
    assert left.boxes == boxes[:1]
    assert right.boxes == (Box(1, 7, -1.0, 2.0, 1.5, 4.0), Box(2, 8, 0.0, 0.0, 5.0, 1.0))


def test_sizes_are_looked_up_without_decoding_where_the_split_knows_them():
    shapes = [(5, 7), (2, 9)]
    known, unknown = Measured(shapes), Photographs(shapes)
    assert isinstance(known, SizedSplit)
    assert not isinstance(unknown, SizedSplit)
    assert [image_size(split, 1) for split in (known, unknown)] == [(2, 9)] * 2
    known.reads.clear()
    tiles = TiledSplit(known, 4)
    assert isinstance(tiles, ImageSplit)
    assert isinstance(tiles, SizedSplit)
    assert tiles.sizes == tuple(shapes)
    assert tiles.grids == ((2, 2), (1, 3))
    assert tiles.first.tolist() == [0, 4]
    assert not known.reads
    other = Photographs(shapes)
    assert TiledSplit(known, 4).over(other).owner.tolist() == tiles.owner.tolist() == [0] * 4 + [1] * 3
    assert not other.reads


def test_going_through_the_tiles_reads_each_image_once():
    parent = Measured([(6, 6)] * 8)
    tiles = TiledSplit(parent, 2)
    for i in range(len(tiles)):
        tiles.image(i)
        tiles.annotation(i)
    assert set(parent.reads.values()) == {1}
    parent.reads.clear()
    # Threads that take batches of four, as those that feed a model do; an image may be left and met again.
    tiles = TiledSplit(parent, 2)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda start: [tiles.image(i) for i in range(start, start + 4)], range(0, len(tiles), 4)))
    assert sum(parent.reads.values()) <= 8 + len(tiles) // 4


def test_a_split_without_images_has_no_tiles():
    assert len(TiledSplit(Measured([]), 4)) == 0


def test_a_tile_has_a_side():
    with pytest.raises(InputError, match=r"^--tile: 0 is no side of a tile; give 1 pixel or more$"):
        TiledSplit(Measured([(4, 4)]), 0)


def test_a_copy_in_another_process_gives_the_same_tiles(tmp_path):
    train = open_cityscapes(write_cityscapes(tmp_path, size=(12, 20)), "x").splits["train"]
    tiles = TiledSplit(train, 8)
    tiles.image(0)
    content = pickle.dumps(tiles)
    assert len(content) < 5_000, "the image went along"
    copy = pickle.loads(content)
    for i in (0, len(tiles) - 1):
        np.testing.assert_array_equal(np.asarray(copy.image(i)), np.asarray(tiles.image(i)))
        assert copy.name(i) == tiles.name(i)
    (tmp_path / train.name(0)).write_bytes(b"no PNG")
    with pytest.raises(InputError, match=r"leftImg8bit.png"):
        len(TiledSplit(train, 8))


def test_threads_that_ask_at_once_wait_for_the_first():
    calls = Counter()
    together = threading.Barrier(6)

    def load(key):
        calls[key] += 1
        time.sleep(0.01)
        return [key]

    latest = Latest(load)

    def ask(_):
        together.wait()
        return latest("x")

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(ask, range(6)))
    assert calls == {"x": 1}
    assert all(result is found[0] for result in found)


def test_the_latest_results_are_kept_and_errors_are_not():
    calls = []

    def load(key):
        calls.append(key)
        if len(calls) == 1:
            raise InputError("broken")
        return [key]

    latest = Latest(load)
    with pytest.raises(InputError, match="broken"):
        latest(1)
    assert [latest(key) for key in (1, 1, 2, 2, 1)] == [[1], [1], [2], [2], [1]]
    assert calls == [1, 1, 2, 1]
