import jax.numpy as jnp
import numpy as np
import pytest
import torch

from experiments.benchmarks.torch_ops import torchvision
from vitprobe_jax.features.roi_align import roi_align

GRID = np.random.default_rng(0).standard_normal((3, 9, 14, 8)).astype(np.float32)


def random_boxes(count, seed=0):
    """Large and small ones, from well inside to wholly outside a grid of 9 x 14, on three images."""
    rng = np.random.default_rng(seed)
    start, sides = rng.uniform(-5, 15, (count, 2)), rng.uniform(0.05, 12, (count, 2))
    return np.concatenate([start, start + sides], 1).astype(np.float32), rng.integers(0, 3, count)


def of_torchvision(grid, boxes, image, *, output_size=1, sampling_ratio=2):
    rois = torch.from_numpy(np.concatenate([image[:, None], boxes], 1).astype(np.float32))
    maps = torch.from_numpy(np.ascontiguousarray(np.moveaxis(grid, -1, 1)))
    # Where torchvision has no compiled operator, its Python one would be compiled for half a minute.
    with torch.compiler.set_stance("force_eager"):
        return torchvision.ops.roi_align(maps, rois, output_size, 1.0, sampling_ratio, aligned=True).numpy()


def within_reach(boxes, samples):
    """Which samples lie within one patch of the outermost centres, [R, row, column]."""
    steps = (np.arange(samples) + 0.5) / samples
    x, y = (boxes[:, [i]] + steps * (boxes[:, [i + 2]] - boxes[:, [i]]) - 0.5 for i in (0, 1))
    return ((y >= -1) & (y <= 9))[:, :, None] & ((x >= -1) & (x <= 14))[:, None, :]


@pytest.fixture(scope="module")
def case():
    """Boxes, more than go at once; torchvision's sample of each quarter, 0 beyond reach; and what we make of them.

    Torchvision's compiled operator counts samples beyond reach as 0, its Python one does not. Sample by sample both can
    be told the former.
    """
    boxes, image = random_boxes(300)
    samples = of_torchvision(GRID, boxes, image, output_size=2, sampling_ratio=1)
    reach = within_reach(boxes, 2)
    expected = np.where(reach[:, None], samples, 0).mean((2, 3))
    return boxes, image, reach, expected


def align(grid, boxes, image, **options):
    return np.asarray(roi_align(jnp.asarray(grid), jnp.asarray(boxes), jnp.asarray(image), **options))


# Means of four interpolations between numbers of order 1, in float32.
ATOL = 3e-6


def test_equal_to_torchvisions(case):
    boxes, image, reach, expected = case
    actual = align(GRID, boxes, image)
    np.testing.assert_allclose(actual, expected, atol=ATOL)
    whole = reach.all((1, 2))
    direct = of_torchvision(GRID, boxes[whole], image[whole])[:, :, 0, 0]
    np.testing.assert_allclose(actual[whole], direct, atol=ATOL)
    # Of each kind there are some: within the grid, partly and wholly outside.
    inside = (boxes >= 0).all(1) & (boxes[:, 2] <= 14) & (boxes[:, 3] <= 9)
    assert inside.sum() > 10
    assert (whole & ~inside).sum() > 10
    assert (reach.any((1, 2)) & ~whole).sum() > 10
    assert (~reach.any((1, 2))).sum() > 10


def test_more_samples_are_the_mean_over_torchvisions_bins():
    boxes, image = random_boxes(300, seed=1)
    whole = within_reach(boxes, 6).all((1, 2))
    expected = of_torchvision(GRID, boxes[whole], image[whole], output_size=3).mean((2, 3))
    np.testing.assert_allclose(align(GRID, boxes, image, sampling_ratio=6)[whole], expected, atol=ATOL)


@pytest.fixture(scope="module")
def coordinates():
    """A grid whose features are the coordinates of its patches' centres, and 1."""
    y, x = np.indices((9, 14)) + 0.5
    return jnp.asarray(np.stack([x, y, np.ones_like(x)], -1)[None], jnp.float32)


def test_a_box_within_has_the_mean_of_what_is_linear_at_its_centre(coordinates):
    boxes = jnp.asarray([[2.0, 3.0, 3.0, 4.0], [1.3, 2.2, 8.1, 5.6], [0.5, 0.5, 13.5, 8.5]])
    features = roi_align(coordinates, boxes, jnp.zeros(3, jnp.int32))
    expected = [[2.5, 3.5, 1.0], [4.7, 3.9, 1.0], [7.0, 4.5, 1.0]]
    np.testing.assert_allclose(features, expected, rtol=1e-6)


def test_what_lies_outside_counts_as_nothing(coordinates):
    """Half of the first box's samples are beyond the reach of the grid, and all of the second's."""
    boxes = jnp.asarray([[-6.0, 2.0, 6.0, 4.0], [-9.0, 2.0, -4.0, 4.0], [2.0, 3.0, 3.0, 4.0]])
    features = roi_align(coordinates, boxes, jnp.zeros(3, jnp.int32))
    np.testing.assert_allclose(features[:, 2], [0.5, 0.0, 1.0], rtol=1e-6)


def test_bfloat16_features_are_summed_in_float32(case):
    """Against the float32 result for the same values, which bfloat16 sums would miss by 1e-2."""
    boxes, image, _, _ = case
    grid = jnp.asarray(GRID, jnp.bfloat16)
    features = align(grid, boxes, image)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, align(grid.astype(jnp.float32), boxes, image), atol=ATOL)


def test_no_boxes():
    assert align(GRID, np.zeros((0, 4), np.float32), np.zeros(0, np.int32)).shape == (0, 8)
