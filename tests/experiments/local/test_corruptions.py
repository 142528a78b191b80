"""Pictures of noise in bands of frequencies (Figure 10) are of the noise that is measured."""

import numpy as np
import pytest

from experiments.local.parts import corruptions
from experiments.local.parts.corruptions import band_pictures, measure
from tests.experiments.local.make_bench import Painted, painted
from tests.experiments.local.pixel_bench import CELL, pixel_bench
from vitprobe_jax.data.corruptions import CorruptedSplit, Corruption
from vitprobe_jax.report.local.pictures import are_pictures

SIZE = (24, 32)


def grey(count):
    """Images in the middle of the range, where noise is not cut off."""
    rng = np.random.default_rng(count)
    images = tuple(rng.integers(96, 160, (*SIZE, 3), np.uint8) for _ in range(count))
    return Painted(images, tuple(rng.integers(1, 3, SIZE).astype(np.int32) for _ in range(count)))


@pytest.fixture
def bench_of(tmp_path):
    def make(val, *flags):
        data = painted(grey(2), val, ("road", "car"))
        return pixel_bench(tmp_path, data, "--tiling=whole", "--whole_size=24x32", "--methods=knn", *flags)

    return make


def test_pictures_show_the_middle_of_what_is_measured(bench_of, monkeypatch):
    monkeypatch.setattr(corruptions, "PICTURE_SIDE", 16)
    bench = bench_of(grey(2), "--corruptions=frequency")
    pictures = measure(bench, CELL, [CELL]).pictures
    assert are_pictures(pictures)
    middle = np.s_[:, 4:20, 8:24]
    split = bench.drawn.splits["val"]
    image = np.asarray(split.image(0))[None]
    np.testing.assert_array_equal(pictures["image"], image[middle])
    # Noise of all bands together is white noise of deviation 40: the draw that plain noise of the seed shows.
    white = 40 * np.random.default_rng((bench.config.seed, 0)).standard_normal((*SIZE, 3), np.float32)
    noise = [pictures[f"noise {band}"].astype(float) - 128 for band in range(4)]
    assert np.abs(sum(noise) - white[None][middle]).max() <= 4 * 0.5 + 1e-3
    for band in range(4):
        corrupted = CorruptedSplit(split, Corruption("frequency", float(band)), bench.config.seed)
        np.testing.assert_array_equal(pictures[f"corrupted {band}"], np.asarray(corrupted.image(0))[None][middle])
    masks = np.concatenate([pictures[f"mask {band}"] for band in range(4)])
    np.testing.assert_array_equal(masks.sum(0), np.ones((16, 16)))
    # Along the row of frequencies 0, in steps of 1/16: half of 0.125 cycles a pixel to either side, and so on.
    assert masks[:, 8].argmax(0).tolist() == [3, 3, 3, 2, 2, 1, 1, 0, 0, 0, 1, 1, 2, 2, 3, 3]


def test_an_image_that_cannot_be_decoded_is_passed_over(bench_of):
    bench = bench_of(grey(2))
    bench.rows.left_out = lambda view, split: np.zeros(1, int)
    second = np.asarray(bench.drawn.splits["val"].image(1))
    np.testing.assert_array_equal(band_pictures(bench)["image"][0], second[:, 4:28])
    bench.rows.left_out = lambda view, split: np.arange(2)
    assert band_pictures(bench) == {}


def test_without_bands_or_examples_there_are_no_pictures(bench_of):
    assert measure(bench_of(grey(1), "--corruptions=noise"), CELL, [CELL]).pictures == {}
    assert band_pictures(bench_of(grey(1), "--examples=0")) == {}
