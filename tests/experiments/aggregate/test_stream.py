"""Batches reach the devices whole, however few images are decoded together."""

import jax
import numpy as np
import pytest

from experiments.aggregate import stream
from experiments.aggregate.stream import Stream
from tests.experiments.local.make_bench import Painted
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.table import make_mesh

SIZE = (4, 6)


def painted(count, broken=()):
    images = [np.full((*SIZE, 3), i, np.uint8) for i in range(count)]
    return Painted(tuple(None if i in broken else image for i, image in enumerate(images)))


def batches(split, batch, order, *, skip_corrupt=True):
    own = Stream(make_mesh(jax.devices()[:1]), 0, skip_corrupt)
    placed = own.batches(split, Transform(SIZE, "none"), batch, np.array(order))
    return [(np.asarray(one.images)[:, 0, 0, 0].tolist(), one.indices.tolist(), one.valid.tolist()) for one in placed]


@pytest.mark.parametrize("decoded", [256, 8, 3])
def test_pieces_of_a_batch_are_joined_in_order(decoded, monkeypatch):
    """24 images of which 3 and 17 cannot be decoded, in batches of 16; the last one is padded."""
    monkeypatch.setattr(stream, "DECODED", decoded)
    monkeypatch.setattr(stream, "LEAST_DECODED", 1)
    order = np.random.default_rng(0).permutation(24).tolist()
    found = batches(painted(24, broken=(3, 17)), 16, order)
    indices = [order[:16], order[16:] + [-1] * 8]
    assert [own for _, own, _ in found] == indices
    for values, own, valid in found:
        assert valid == [i >= 0 and i not in (3, 17) for i in own]
        assert [value for value, good in zip(values, valid, strict=True) if good] == [
            i for i, good in zip(own, valid, strict=True) if good
        ]
    with pytest.raises(InputError, match="painted/3: cannot be decoded"):
        batches(painted(24, broken=(3,)), 16, range(24), skip_corrupt=False)


@pytest.mark.parametrize(
    ("images", "piece"), [(2048, 256), (512, 256), (1000, 250), (8, 8), (40, 40), (2 * 1021, 2 * 1021)]
)
def test_pieces_divide_a_batch(images, piece):
    assert stream._piece(images) == piece
