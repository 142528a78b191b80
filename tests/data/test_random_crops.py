import pickle

import numpy as np
import pytest
from PIL import Image
from scipy.stats import ks_2samp

from experiments.benchmarks.torch_ops import torchvision
from vitprobe_jax.data.dataset import Annotation, Box, ImageSubset, SizedSplit
from vitprobe_jax.data.pipeline import image_batches
from vitprobe_jax.data.random_crops import CroppedSplit, draw_crop
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.errors import InputError

tv = torchvision.transforms
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


class Photographs:
    """Images of several sizes whose pixels are all different; everything is annotated."""

    sizes = ((60, 90), (41, 40), (20, 200), (64, 64), (1, 1), (33, 80))

    def __len__(self):
        return len(self.sizes)

    def name(self, index):
        return f"{index}.jpg"

    def image(self, index):
        pixels = np.random.default_rng(index).integers(0, 256, (*self.sizes[index], 3), np.uint8)
        return Image.fromarray(pixels)

    def annotation(self, index):
        mask = np.ones(self.sizes[index], np.int32)
        return Annotation((("object", mask),), (("class", index + 1),), None, (Box(1, 1, 0.0, 0.0, 1.0, 1.0),))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_images_are_torchvisions_resized_crop_of_the_drawn_place(interpolation):
    parent = Photographs()
    mode = tv.InterpolationMode(interpolation)
    flips = set()
    for epoch in range(4):
        split = CroppedSplit(parent, (24, 32), seed=3, epoch=epoch, interpolation=interpolation)
        for i in range(len(parent)):
            *place, flipped = split.crop(i, parent.sizes[i])
            expected = tv.functional.resized_crop(parent.image(i), *place, [24, 32], mode)
            expected = tv.functional.hflip(expected) if flipped else expected
            np.testing.assert_array_equal(split.image(i), expected)
            flips.add(flipped)
    assert flips == {True, False}
    assert split.size(2) == (24, 32)
    assert isinstance(split, SizedSplit)


@pytest.mark.parametrize("size", [(90, 120), (100, 40)])
def test_places_are_spread_as_torchvisions(size):
    """Two samples of 1,000 from one distribution differ this much in one of a million tests (Kolmogorov-Smirnov)."""
    image, rng = Image.new("L", size[::-1]), np.random.default_rng(0)
    ours = np.array([draw_crop(rng, size, area=AREA, ratio=RATIO) for _ in range(1000)])
    theirs = np.array([tv.RandomResizedCrop.get_params(image, list(AREA), list(RATIO)) for _ in range(1000)])
    for column in range(4):
        assert ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-6
    assert ks_2samp(*(p[:, 2] * p[:, 3] for p in (ours, theirs))).pvalue > 1e-6
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= size).all()


@pytest.mark.parametrize("size", [(20, 200), (200, 20), (33, 80)])
def test_what_never_fits_is_torchvisions_central_part(size):
    """No crop of nearly all the area has a ratio in range here, so that both take the part that needs no chance."""
    expected = tv.RandomResizedCrop.get_params(Image.new("L", size[::-1]), [0.99, 1.0], list(RATIO))
    assert draw_crop(np.random.default_rng(0), size, area=(0.99, 1.0), ratio=RATIO) == tuple(expected)


def test_a_crop_hangs_on_seed_epoch_and_index_alone():
    def crops(seed, epoch, order=range(6)):
        split = CroppedSplit(Photographs(), (8, 8), seed=seed, epoch=epoch)
        return {i: np.asarray(split.image(i)).tobytes() for i in order}

    first = crops(1, 2)
    assert first == crops(1, 2, order=(4, 2, 0, 5, 1, 3))
    for seed, epoch in ((2, 1), (1, 3), (2, 2)):
        other = crops(seed, epoch)
        assert sum(first[i] == other[i] for i in first) <= 1  # the image of one pixel has one crop
    upright = CroppedSplit(Photographs(), (8, 8), seed=1, epoch=2, flip=False)
    for i in range(6):
        assert np.asarray(upright.image(i)).tobytes() in (first[i], _mirrored(first[i]))


def _mirrored(content):
    return np.frombuffer(content, np.uint8).reshape(8, 8, 3)[:, ::-1].tobytes()


def test_threads_and_shuffling_change_no_crop():
    split = CroppedSplit(Photographs(), (8, 12), seed=0, epoch=5)
    order = np.array([3, 0, 5, 1, 4, 2])
    shuffled = pickle.loads(pickle.dumps(ImageSubset(split, order)))
    batches = list(image_batches(shuffled, Transform((8, 12), crop="none"), batch_size=4))
    images = np.concatenate([batch.images[: batch.num_valid] for batch in batches])
    np.testing.assert_array_equal(images, np.stack([np.asarray(split.image(i)) for i in order.tolist()]))


def test_only_what_holds_for_the_whole_image_stays_annotated():
    split = CroppedSplit(Photographs(), (8, 8), seed=0, epoch=0)
    assert split.annotation(2) == Annotation(labels=(("class", 3),))
    assert (len(split), split.name(2)) == (6, "2.jpg")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (0, 8)}, "--image_size: "),
        ({"seed": -1}, "seed -1"),
        ({"epoch": -1}, "epoch -1"),
        ({"area": (0.0, 1.0)}, "shares of an image"),
        ({"area": (0.5, 0.4)}, "shares of an image"),
        ({"area": (0.5, 1.1)}, "shares of an image"),
        ({"ratio": (2.0, 1.0)}, "width to height"),
        ({"ratio": (0.0, 1.0)}, "width to height"),
        ({"ratio": (np.nan, np.nan)}, "width to height"),
    ],
)
def test_what_makes_no_crop_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        CroppedSplit(Photographs(), **{"size": (8, 8), "seed": 0, "epoch": 0} | options)
