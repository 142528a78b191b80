"""Counts on pixels: the maps are PyTorch's, the counts a plain loop's."""

import jax
import numpy as np
import pytest
import torch

from vitprobe_jax.data.labels import LabelTable
from vitprobe_jax.features.table import make_mesh
from vitprobe_jax.metrics import counts, pixels
from vitprobe_jax.metrics.balanced import balanced_metrics
from vitprobe_jax.metrics.counts import to_counts
from vitprobe_jax.metrics.pixels import PixelBlock, PixelTable, count_pixels
from vitprobe_jax.types import Concept

CONCEPTS = tuple(Concept(i + 1, f"{i}", category) for i, category in enumerate("aaabbcc"))
CATEGORIES = ("a", "b", "c")


def random_labels(rng, images, pixel_grid, slots=("a", "a", "b", "c")):
    """Two slots of one category, which never hold the same concept; slots that are empty, whole images of none."""
    by_category = {c: [k for k, concept in enumerate(CONCEPTS, 1) if concept.category == c] for c in CATEGORIES}
    num_pixels = pixel_grid[0] * pixel_grid[1]
    drawn = np.zeros((images, num_pixels, len(slots)), np.int16)
    for image in range(1, images):
        for pixel in range(num_pixels):
            chosen = rng.permutation([0, 0, *by_category["a"]])
            drawn[image, pixel] = [chosen[0], chosen[1], *(rng.choice([0, *by_category[c]]) for c in "bc")]
    slot_category = np.array([CATEGORIES.index(c) for c in slots], np.int32)
    return LabelTable(drawn, slot_category, CONCEPTS, CATEGORIES)


def in_blocks(rows, labels, size, devices, patch_grid, pixel_grid):
    """Blocks of one size, the last one filled up with images whose pixels carry nothing, whatever their rows."""

    def blocks():
        for first in range(0, len(rows), size):
            part = [leaf[first : first + size] for leaf in (rows, labels.slots)]
            missing = size - len(part[0])
            filled = [np.pad(leaf, [(0, missing), (0, 0), (0, 0)]) for leaf in part]
            yield PixelBlock(*filled, labels.slot_category)

    return PixelTable(patch_grid, pixel_grid, len(rows), make_mesh(jax.devices()[:devices]), blocks)


def expected(rows, labels, probed, w, b, shift, patch_grid, pixel_grid):
    """PyTorch's maps, thresholded and counted pixel by pixel of every hyperplane."""
    margins = np.einsum("ird,kd->ikr", rows.astype(np.float64) - shift, w) - b[None, :, None]
    maps = torch.from_numpy(margins.reshape(len(rows), len(w), *patch_grid))
    maps = torch.nn.functional.interpolate(maps, size=pixel_grid, mode="bilinear", align_corners=False).numpy()
    counted = []
    for i, k in enumerate(probed):
        found = (maps[:, i] >= 0).reshape(len(rows), -1)
        pos = labels.carries(int(k))
        neg = labels.in_category(int(labels.concept_category[k])) & ~pos
        counted.append([(found & pos).sum(), (found & neg).sum(), pos.sum(), neg.sum()])
    return np.array(counted), maps


@pytest.mark.parametrize(
    ("devices", "size", "bytes_together"), [(1, 5, 1 << 23), (1, 1, 1 << 23), (8, 8, 1 << 23), (1, 5, 1), (2, 2, 700)]
)
@pytest.mark.parametrize(("patch_grid", "pixel_grid"), [((3, 4), (12, 16)), ((3, 2), (21, 14)), ((2, 5), (3, 7))])
def test_counts_equal_a_loop_over_pytorchs_maps(devices, size, bytes_together, patch_grid, pixel_grid, monkeypatch):
    """Also where bands of pixel rows do not divide the image, and where pixels are no multiple of patches."""
    rng = np.random.default_rng(0)
    labels = random_labels(rng, 7, pixel_grid)
    rows = rng.standard_normal((7, patch_grid[0] * patch_grid[1], 6)).astype(np.float32)
    probed = np.array([5, 0, 3, 2, 6], np.int32)
    w, b, shift = (rng.standard_normal(shape).astype(np.float32) for shape in ((5, 6), 5, 6))
    monkeypatch.setitem(counts.CHUNK_BYTES, "cpu", bytes_together)
    pixels._count.clear_cache()  # The bound is read when the function is traced.
    table = in_blocks(rows, labels, size, devices, patch_grid, pixel_grid)
    counted = count_pixels(table, probed, labels.concept_category[probed], w, b, shift)
    wanted, maps = expected(rows, labels, probed, w, b, shift, patch_grid, pixel_grid)
    # No pixel's score is so near to the threshold that rounding could decide.
    assert np.abs(maps).min() > 1e-5
    assert counted.dtype == np.int64
    np.testing.assert_array_equal(counted, wanted)
    pixels._count.clear_cache()


def test_scores_at_the_threshold_are_found():
    """Whole numbers enlarged four times: all eighths, exact in float32, many of them 0."""
    rng = np.random.default_rng(1)
    patch_grid, pixel_grid = (4, 4), (16, 16)
    labels = random_labels(rng, 3, pixel_grid)
    rows = rng.integers(-2, 3, (3, 16, 4)).astype(np.float32)
    probed = np.arange(7, dtype=np.int32)
    w, b, shift = rng.integers(-1, 2, (7, 4)).astype(np.float32), np.zeros(7, np.float32), np.ones(4, np.float32)
    table = in_blocks(rows, labels, 3, 1, patch_grid, pixel_grid)
    wanted, maps = expected(rows, labels, probed, w, b, shift, patch_grid, pixel_grid)
    assert (maps == 0).sum() > 100
    np.testing.assert_array_equal(count_pixels(table, probed, labels.concept_category, w, b, shift), wanted)


@pytest.mark.parametrize("devices", [1, 8])
def test_a_template_whose_map_crosses_zero_at_the_outline_is_right_everywhere(devices):
    """A score that falls along the image crosses 0 within a patch column; patches cannot tell where, pixels can."""
    patch_grid, pixel_grid = (4, 6), (32, 48)
    column = np.tile(np.arange(6, dtype=np.float32), (8, 4))  # 8 images, patches row-major.
    rows = np.stack([column, np.ones_like(column)], -1)
    # The map is column - 2.4; pixel column x lies at patch column (x + 1/2) / 8 - 1/2.
    w, b = np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32), np.array([2.4, -2.4], np.float32)
    right = ((np.arange(48) + 0.5) / 8 - 0.5 >= 2.4)[None].repeat(32, 0).ravel()
    slots = np.where(right, 1, 2).astype(np.int16)[None, :, None].repeat(8, 0)
    concepts = (Concept(1, "right", "side"), Concept(2, "left", "side"))
    labels = LabelTable(slots, np.zeros(1, np.int32), concepts, ("side",))
    table = in_blocks(rows, labels, 8, devices, patch_grid, pixel_grid)
    probed, shift = np.arange(2, dtype=np.int32), np.array([3.0, -1.0], np.float32)
    b = b - w @ shift
    counted = count_pixels(table, probed, labels.concept_category, w, b, shift)
    metrics = balanced_metrics(to_counts(counted))
    assert metrics.accuracy.tolist() == metrics.f1.tolist() == [1.0, 1.0]
    # Not one that is moved by half a patch.
    moved = balanced_metrics(to_counts(count_pixels(table, probed, labels.concept_category, w, b + 0.5, shift)))
    assert (moved.f1 < 0.95).all()


def test_no_hyperplanes_and_no_images():
    labels = random_labels(np.random.default_rng(0), 2, (4, 4))
    table = in_blocks(np.zeros((2, 4, 3), np.float32), labels, 2, 1, (2, 2), (4, 4))
    none = np.zeros(0, np.int32)
    shift = np.zeros(3, np.float32)
    assert count_pixels(table, none, none, np.zeros((0, 3), np.float32), np.zeros(0, np.float32), shift).shape == (0, 4)
    empty = PixelTable((2, 2), (4, 4), 0, table.mesh, list)
    one = np.zeros(1, np.int32)
    counted = count_pixels(empty, one, one, np.ones((1, 3), np.float32), np.ones(1, np.float32), shift)
    assert counted.tolist() == [[0] * 4]


def test_hyperplanes_of_one_concept_are_refused():
    labels = random_labels(np.random.default_rng(0), 2, (4, 4))
    table = in_blocks(np.zeros((2, 4, 3), np.float32), labels, 2, 1, (2, 2), (4, 4))
    twice = np.zeros(2, np.int32)
    with pytest.raises(ValueError, match="twice"):
        count_pixels(table, twice, twice, np.ones((2, 3), np.float32), np.ones(2, np.float32), np.zeros(3, np.float32))
