"""Rows of a view in blocks: the same bytes whether they are on disk, in memory, or extracted part by part."""

import numpy as np
import pytest

from experiments.local.classify import TrainingPatches
from experiments.local.views import block_ranges, regrouped
from experiments.local.workbench import Workbench
from tests.experiments.local.make_bench import Painted, make_bench, painted
from vitprobe_jax.backbones.loading import load_backbone
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.moments import feature_moments

IMAGES, CELLS = 70, [(3, "x2"), (3, "k")]
CELL = CELLS[0]
UNDECODED = (5, 6, 7, 40)
ENDS = np.array([1, 2, 6, 19, 20, 27, 33, 65])
"""So far apart, some of them, that blocks are larger than their bound."""


def bench_of(out, *flags) -> Workbench:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(IMAGES)]
    for i in UNDECODED:
        images[i] = None
    data = painted(Painted(tuple(images[:3])), Painted(tuple(images)), (), tile=0)
    backbone = load_backbone("untrained_dino_tiny")
    flags = ("--mesh=1", "--image_size=64", "--batch_size=4", "--num_workers=0", "--drop_features=0,8", *flags)
    return make_bench(out, data, backbone, *flags)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All fits."""
    return bench_of(tmp_path_factory.mktemp("whole"), "--host_memory=512")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """1 MiB for 70 images of 24 KiB each."""
    return bench_of(tmp_path_factory.mktemp("parts"), "--host_memory=1")


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    return bench_of(
        tmp_path_factory.mktemp("cached"), "--host_memory=1", f"--cache_dir={tmp_path_factory.mktemp('cache')}"
    )


def read(bench, **options):
    return list(bench.blocks(bench.view("tiles"), "val", CELL, CELLS, **options))


@pytest.fixture(scope="module")
def expected(whole):
    return whole.take(whole.view("tiles"), "val", CELL, CELLS)


@pytest.mark.parametrize("kind", ["whole", "cached", "parts"])
@pytest.mark.parametrize("options", [{}, {"images": range(13, 51)}, {"ends": ENDS}, {"images": range(0)}])
def test_blocks_have_the_same_bytes_however_they_are_had(kind, options, expected, request):
    bench = request.getfixturevalue(kind)
    blocks, images = read(bench, **options), options.get("images", range(IMAGES))
    numbers = np.concatenate([np.zeros(0, int), *(block.images for block in blocks)])
    assert numbers.tolist() == list(images)
    for block in blocks:
        assert block.rows.dtype == np.float32
        np.testing.assert_array_equal(block.rows, expected[block.images])
        assert block.images[block.left_out].tolist() == [i for i in UNDECODED if i in block.images]
    if kind != "whole" and images:
        bound = bench.rows.bounds.host // 8
        ends = set(options.get("ends", ()))
        for block in blocks:
            wide = 4 * block.rows[0].size * len(block.rows) > bound
            assert not wide or not ends & set(block.images[1:].tolist())
        assert not ends or all(int(block.images[0]) in ends | {0} for block in blocks)
        assert len(blocks) > 5


def test_what_does_not_fit_is_told_once_and_refused_as_a_whole(parts):
    read(parts), read(parts)
    notes = [note for note in parts.rows.folder.notes if "--host_memory" in note]
    assert len(notes) == 1
    assert "--cache_dir spares this" in notes[0]
    undecoded = [note for note in parts.rows.folder.notes if "cannot be decoded" in note]
    assert len(undecoded) == 1
    assert undecoded[0].startswith(f"val: left out {len(UNDECODED)} images")
    assert parts.rows.left_out(parts.view("tiles"), "val").tolist() == list(UNDECODED)
    with pytest.raises(InputError, match="--host_memory: one token of one block of untrained_dino_tiny takes"):
        parts.take(parts.view("tiles"), "val", CELL, CELLS)


def test_a_split_that_fits_is_extracted_once_where_all_of_them_do_not(parts, expected):
    view = parts.view("tiles")
    assert parts.rows.fits(view, "train")
    assert not parts.rows.fits(view, "val")
    np.testing.assert_array_equal(parts.take(view, "train", CELL, CELLS), expected[:3])


def test_a_part_in_which_nothing_can_be_decoded_is_no_error_but_a_split_is(tmp_path):
    blank = np.zeros((64, 64, 3), np.uint8)
    backbone = load_backbone("untrained_dino_tiny")
    flags = ("--mesh=1", "--image_size=64", "--batch_size=4", "--num_workers=0", "--host_memory=1", "--drop_features=0")
    some = painted(Painted((blank,)), Painted((blank,) * 8 + (None,) * 30), (), tile=0)
    bench = make_bench(tmp_path / "some", some, backbone, *flags)
    assert sum(block.left_out.sum() for block in read(bench)) == 30
    none = painted(Painted((blank,)), Painted((None,) * 38), (), tile=0)
    bench = make_bench(tmp_path / "none", none, backbone, *flags)
    with pytest.raises(InputError, match="no image of val could be decoded; the first: painted/0"):
        read(bench)


@pytest.mark.parametrize("kind", ["whole", "cached", "parts"])
def test_variances_have_the_same_bits_however_rows_are_had(kind, whole, expected, request, monkeypatch):
    monkeypatch.setattr(Workbench, "fitted_on", "val")
    bench = request.getfixturevalue(kind)
    bench._known_moments.clear()
    view = bench.view("tiles")
    variance = bench.variance(view, CELL, CELLS)
    decoded = np.delete(expected, UNDECODED, axis=0)
    flat = decoded.reshape(-1, expected.shape[-1])
    # Of 4,224 rows: two ways of summing float64 differ by some units of the last digit.
    np.testing.assert_allclose(variance, feature_moments(flat).variance, rtol=1e-12)
    np.testing.assert_allclose(variance, flat.astype(np.float64).var(0), rtol=1e-9)
    whole._known_moments.clear()
    np.testing.assert_array_equal(variance, whole.variance(view, CELL, CELLS))


def test_a_view_that_is_extracted_part_by_part_leaves_its_moments_behind(parts, monkeypatch):
    monkeypatch.setattr(Workbench, "fitted_on", "val")
    view = parts.view("tiles")
    parts._known_moments.clear()
    variance = parts.variance(view, CELL, CELLS)
    parts._known_moments.clear()
    read(parts)
    monkeypatch.setattr(parts.rows, "blocks", None)
    np.testing.assert_array_equal(parts.variance(view, CELL, CELLS), variance)


def test_blocks_end_where_they_may():
    assert block_ranges(range(3, 12), 4) == [range(3, 7), range(7, 11), range(11, 12)]
    ends = np.array([2, 5, 6, 11, 12, 20])
    assert block_ranges(range(12), 4, ends) == [range(2), range(2, 6), range(6, 11), range(11, 12)]
    assert block_ranges(range(15), 100, ends) == [range(15)]
    assert block_ranges(range(13, 18), 2, ends) == [range(13, 18)]
    assert block_ranges(range(4, 4), 2, ends) == []


def test_chunks_are_put_together_again():
    rows = np.arange(60, dtype=np.float32).reshape(20, 1, 3)
    chunks = [(first, rows[first : first + 6]) for first in range(0, 20, 6)]
    ranges = [range(2, 5), range(5, 17), range(17, 18)]
    made = list(regrouped(iter(chunks), ranges))
    for part, of_range in zip(made, ranges, strict=True):
        np.testing.assert_array_equal(part, rows[of_range.start : of_range.stop])


@pytest.mark.parametrize("host_memory", [512, 1])
@pytest.mark.parametrize("kind", ["center", "standardize"])
def test_features_are_normalised_by_the_patches_of_the_training_draw(kind, host_memory, whole, tmp_path):
    """Of every view, also where it is read in parts; which features have the highest variance is decided before."""
    whole._known_moments.clear()  # Other tests leave those of another split.
    bench, view = bench_of(tmp_path, f"--feature_norm={kind}", f"--host_memory={host_memory}"), whole.view("tiles")
    train, val = (whole.take(view, split, CELL, CELLS).astype(np.float64) for split in ("train", "val"))
    patches = train.reshape(-1, train.shape[-1])
    scale = patches.std(axis=0) if kind == "standardize" else 1.0
    blocks = np.concatenate([block.rows for block in bench.blocks(view, "val", CELL, CELLS)])
    np.testing.assert_allclose(blocks, (val - patches.mean(axis=0)) / scale, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(bench.take(view, "train", CELL, CELLS)[0].dtype, np.float32)
    assert (bench.keep(view, CELL, CELLS, 8) == whole.keep(view, CELL, CELLS, 8)).all()


def test_training_patches_that_do_not_fit_are_refused_in_one_line(tmp_path):
    """12 images of 64 patches of 96 features, twice, are 0.56 MiB; 24 are 1.1."""
    backbone = load_backbone("untrained_dino_tiny")
    flags = ("--mesh=1", "--image_size=64", "--num_workers=0", "--host_memory=1", "--drop_features=0", "--methods=knn")
    blank, mask = np.zeros((64, 64, 3), np.uint8), np.ones((64, 64), int)
    for count in (12, 24):
        train, val = (Painted((blank,) * n, (mask,) * n) for n in (count, 1))
        bench = make_bench(tmp_path / str(count), painted(train, val, ("road",), tile=0), backbone, *flags)
        if count == 12:
            assert TrainingPatches.of(bench, bench.view("tiles"), "tiles", CELL, CELLS).rows.shape == (768, 96)
            continue
        with pytest.raises(
            InputError, match="--host_memory: 1536 training patches of painted and a copy of them"
        ) as found:
            TrainingPatches.of(bench, bench.view("tiles"), "tiles", CELL, CELLS)
        assert "\n" not in str(found.value)
