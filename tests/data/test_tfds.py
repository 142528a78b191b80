"""Our own builders: what is read from records is what is read in place."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.data.broden_tree import write_image, write_mask, write_tables
from tests.data.imagenet_tree import class_tars, tar_of, write_folder
from vitprobe_jax.data.broden import open_broden
from vitprobe_jax.data.dataset import ImageSplit
from vitprobe_jax.data.encoded import decode_mask, encode_mask
from vitprobe_jax.data.imagenet200 import ARCHIVE, open_imagenet200
from vitprobe_jax.data.labels import build_labels
from vitprobe_jax.data.pipeline import image_batches
from vitprobe_jax.data.tfds_builders import Imagenet200, Imagenet200Config, build
from vitprobe_jax.data.tfds_dataset import open_tfds
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import SPLITS


def write_broden(folder):
    """Two parts, two textures, scene 0, masks of half the size and of the image's own, an image without annotations."""
    rng = np.random.default_rng(0)
    lines = []
    for split, count in (("train", 5), ("val", 3)):
        for i in range(count):
            # Names of different length, which is what the noise of an image is drawn by.
            stem = f"street/{split}{10**i}"
            write_image(folder / f"images/{stem}.jpg", 16, 24)
            sh, sw = ((8, 12), (16, 24))[i % 2]
            masks = {
                "color": rng.choice([0, 1], (sh, sw)),
                "object": rng.choice([0, 7, 12], (sh, sw)),
                "part_1": rng.choice([0, 7], (sh, sw)),
                "part_2": rng.choice([0, 300], (sh, sw)),
            }
            for name, mask in masks.items():
                write_mask(folder / f"images/{stem}_{name}.png", mask)
            cells = [
                f"{stem}_color.png",
                f"{stem}_object.png",
                f"{stem}_part_1.png;{stem}_part_2.png",
                "",
                "83",
                "290;372",
            ]
            if i == 1:
                cells[4] = "0"
            if i == 2:
                cells = [""] * 6
            lines.append(",".join([f"{stem}.jpg", split, "16", "24", str(sh), str(sw), *cells]))
    # The splits take turns in the index.
    write_tables(folder, lines[::2] + lines[1::2])


@pytest.fixture(scope="module")
def broden(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "broden"
    write_broden(folder)
    return folder


@pytest.fixture(scope="module")
def built(broden, tmp_path_factory):
    """tfds's folder, with broden in it; only read."""
    data_dir = tmp_path_factory.mktemp("built")
    build(f"broden:{broden}", data_dir=data_dir)
    return data_dir


def assert_same_images(read, expected):
    for split in SPLITS:
        ours, theirs = read.splits[split], expected.splits[split]
        assert isinstance(ours, ImageSplit)
        assert len(ours) == len(theirs)
        for i in range(len(ours)):
            assert ours.name(i) == theirs.name(i)
            np.testing.assert_array_equal(np.asarray(ours.image(i)), np.asarray(theirs.image(i)))


def assert_same_annotation(read, expected):
    assert read.labels == expected.labels
    assert read.image_size == expected.image_size
    assert [category for category, _ in read.masks] == [category for category, _ in expected.masks]
    for (_, ours), (_, theirs) in zip(read.masks, expected.masks, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_broden_is_the_same_from_records_as_in_place(broden, built):
    expected, read = open_broden(broden, "broden:x"), open_tfds(f"broden@{built}")
    assert read.name == "tfds:broden/1.0.0"
    assert (read.concepts, read.unprobed, read.skip_corrupt) == (expected.concepts, ("color",), False)
    assert read.coverage == expected.coverage
    np.testing.assert_array_equal(read.primary_concepts(), expected.primary_concepts())
    assert_same_images(read, expected)
    for split in SPLITS:
        for i in range(len(read.splits[split])):
            assert_same_annotation(read.splits[split].annotation(i), expected.splits[split].annotation(i))
    # What the tree is there for is in what was compared.
    annotations = [expected.splits["train"].annotation(i) for i in range(5)]
    assert any([category for category, _ in found.masks].count("part") == 2 for found in annotations)
    assert any(found.labels == (("texture", 290), ("texture", 372)) for found in annotations)
    assert any(not found.masks and not found.labels for found in annotations)
    assert {mask.shape for found in annotations for _, mask in found.masks} == {(8, 12), (16, 24)}


@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("categories", [(), ("part", "texture"), ("color",)])
def test_label_tables_are_equal(broden, built, task, categories):
    transform = Transform((8, 8), crop="none")
    tables = {}
    for kind, dataset in (("in place", open_broden(broden, "x")), ("records", open_tfds(f"broden@{built}"))):
        dataset = dataset.select(categories)
        tables[kind] = build_labels(
            dataset.splits["train"], dataset.concepts, transform=transform, patch_size=4, task=task
        )
    ours, theirs = tables["records"], tables["in place"]
    assert theirs.slots.any()
    np.testing.assert_array_equal(ours.slots, theirs.slots)
    np.testing.assert_array_equal(ours.slot_category, theirs.slot_category)
    assert (ours.concepts, ours.categories) == (theirs.concepts, theirs.categories)


def test_a_selection_reads_no_other_category(built):
    split = open_tfds(f"broden@{built}").select(("part", "scene")).splits["train"]
    annotation = split.annotation(0)
    assert [category for category, _ in annotation.masks] == ["part", "part"]
    assert annotation.labels == (("scene", 83),)


@pytest.mark.parametrize("highest", [255, 256, 65535])
def test_masks_survive_their_png(highest):
    mask = np.random.default_rng(0).integers(0, highest + 1, (5, 7), np.int32)
    mask[0, 0] = highest
    decoded = decode_mask(encode_mask(mask), "x")
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, mask)


def test_imagenet200_is_the_same_from_records_as_in_place(tmp_path):
    write_folder(tmp_path / "source/train", 4)
    config = Imagenet200Config(seed=3, train_per_class=2, val_per_class=1)
    assert config.name == "seed3_2_1"
    builder = Imagenet200(config=config, data_dir=tmp_path / "built")
    builder.download_and_prepare(
        download_dir=tmp_path / "downloads",
        download_config=tfds.download.DownloadConfig(manual_dir=tmp_path / "source"),
        file_format="array_record",
    )
    read = open_tfds(f"imagenet200/seed3_2_1@{tmp_path / 'built'}")
    expected = open_imagenet200(tmp_path / "source", "x", seed=3, train_per_class=2, val_per_class=1)
    assert read.name == "tfds:imagenet200/seed3_2_1/1.0.0"
    assert (read.concepts, read.unprobed, read.skip_corrupt) == (expected.concepts, (), True)
    assert_same_images(read, expected)
    for split in SPLITS:
        for i in range(len(read.splits[split])):
            assert_same_annotation(read.splits[split].annotation(i), expected.splits[split].annotation(i))
    with pytest.raises(InputError, match=r"no .* imagenet200 is .*; there is imagenet200/seed3_2_1:1.0.0$"):
        open_tfds(f"imagenet200@{tmp_path / 'built'}")
    # What a user builds has the full counts, from a folder or from the archive.
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / ARCHIVE).write_bytes(
        tar_of(class_tars(tmp_path / "source/train", np.random.default_rng(0)))
    )
    for source in ("source", "archive", f"archive/{ARCHIVE}"):
        for seed in (0, 3):
            with pytest.raises(InputError, match=r"has 4 images in .*, 550 are drawn of each"):
                build(f"imagenet200:{tmp_path / source}", data_dir=tmp_path / "built", seed=seed)


def test_a_configuration_is_called_by_its_seed():
    assert Imagenet200Config().name == "seed0"
    assert Imagenet200Config(seed=7).name == "seed7"
    assert [Imagenet200.default_builder_config] == Imagenet200.BUILDER_CONFIGS


def test_fingerprint_follows_the_content_not_the_place(broden, built, tmp_path):
    before = open_tfds(f"broden@{built}").fingerprint
    shutil.copytree(built, tmp_path / "moved")
    assert open_tfds(f"broden@{tmp_path / 'moved'}").fingerprint == before
    build(f"broden:{broden}", data_dir=tmp_path / "again")
    assert open_tfds(f"broden@{tmp_path / 'again'}").fingerprint == before
    # Record files are padded to whole blocks and keep their size when bytes change; the source's digest does not.
    metadata = tmp_path / "moved/broden/1.0.0/metadata.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"fingerprint": "another"}))
    assert open_tfds(f"broden@{tmp_path / 'moved'}").fingerprint != before
    shutil.copytree(broden, tmp_path / "other")
    write_image(tmp_path / "other/images/street/val1.jpg", 32, 48)
    build(f"broden:{tmp_path / 'other'}", data_dir=tmp_path / "changed")
    assert open_tfds(f"broden@{tmp_path / 'changed'}").fingerprint != before


def test_splits_go_to_worker_processes_without_their_files(built):
    split = open_tfds(f"broden@{built}").splits["train"]
    fresh = pickle.dumps(split)
    image = np.asarray(split.image(3))
    assert pickle.dumps(split) == fresh
    np.testing.assert_array_equal(np.asarray(pickle.loads(fresh).image(3)), image)


def test_images_reach_the_pipeline(built):
    split = open_tfds(f"broden@{built}").splits["train"]
    transform = Transform((16, 24), crop="none")
    (batch,) = image_batches(split, transform, batch_size=8)
    assert batch.num_valid == 5
    assert batch.errors == ()
    for i in range(5):
        np.testing.assert_array_equal(batch.images[i], np.asarray(split.image(i)))


def test_a_damaged_record_is_named(built, tmp_path):
    shutil.copytree(built, tmp_path / "data")
    path = next((tmp_path / "data/broden/1.0.0").glob("*train*"))
    content = bytearray(path.read_bytes())
    start = content.index(b"\xff\xd8\xff")
    content[start : start + 20_000] = bytes(20_000)
    path.write_bytes(content)
    split = open_tfds(f"broden@{tmp_path / 'data'}").splits["train"]
    with pytest.raises(InputError, match=r"broden/1.0.0: record 0 of train: cannot be (read|decoded)"):
        [split.image(i) for i in range(len(split))]


def test_build_refuses_what_it_cannot_build(broden, built, tmp_path):
    for spec in ("shapes:8", "broden:", "imagenet200", ""):
        with pytest.raises(InputError, match=r"nothing to build; give imagenet200:DIR or broden:DIR"):
            build(spec, data_dir=tmp_path)
    with pytest.raises(InputError, match=r"--dataset: /nowhere is no folder that exists"):
        build("broden:/nowhere", data_dir=tmp_path)
    with pytest.raises(
        InputError, match=rf"--data_dir: .* is built already.* --dataset=tfds:broden@{built}, or delete"
    ):
        build(f"broden:{broden}", data_dir=built)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"--data_dir: .*file/broden/1.0.0 cannot be written"):
        build(f"broden:{broden}", data_dir=tmp_path / "file")


def test_a_source_that_is_refused_in_place_leaves_nothing_built(broden, tmp_path):
    shutil.copytree(broden, tmp_path / "source")
    (tmp_path / "source/images/street/val10.jpg").write_bytes(b"no jpeg")
    with pytest.raises(InputError, match=r"val10.jpg: cannot be decoded"):
        build(f"broden:{tmp_path / 'source'}", data_dir=tmp_path / "built")
    (tmp_path / "source/images/street/val10.jpg").unlink()
    with pytest.raises(InputError, match=r"1 of its .* files are not in"):
        build(f"broden:{tmp_path / 'source'}", data_dir=tmp_path / "built")
    with pytest.raises(InputError, match=r"no tfds data set broden is prepared"):
        open_tfds(f"broden@{tmp_path / 'built'}")
    write_image(tmp_path / "source/images/street/val10.jpg", 16, 24)
    build(f"broden:{tmp_path / 'source'}", data_dir=tmp_path / "built")
    assert len(open_tfds(f"broden@{tmp_path / 'built'}").splits["val"]) == 3


def test_tensorflow_is_never_imported(broden, tmp_path):
    """The command builds, another process reads; a TensorFlow that is there and must not be touched lies in the path."""
    (tmp_path / "fake/tensorflow").mkdir(parents=True)
    (tmp_path / "fake/tensorflow/__init__.py").write_text("raise SystemExit('TensorFlow was imported')")
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "fake"), root])}
    touched = subprocess.run([sys.executable, "-c", "import tensorflow"], env=environment, capture_output=True)
    assert b"TensorFlow was imported" in touched.stderr
    command = [sys.executable, "-m", "vitprobe_jax.data.tfds_builders", f"--dataset=broden:{broden}"]
    built = subprocess.run(
        [*command, f"--data_dir={tmp_path / 'built'}"], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert built.returncode == 0, built.stderr
    spec = f"tfds:broden@{tmp_path / 'built'}"
    assert built.stdout.splitlines()[-1] == f"--dataset={spec}"
    reads = (
        "import sys; from vitprobe_jax.data import open_dataset\n"
        "for split in open_dataset(sys.argv[1], seed=0).splits.values():\n"
        "    print(split.name(0), split.image(0).size, len(split.annotation(0).masks), 'tensorflow' in sys.modules)"
    )
    read = subprocess.run([sys.executable, "-c", reads, spec], env=environment, capture_output=True, text=True)
    assert read.stdout.splitlines() == [
        "street/train1.jpg (24, 16) 4 False",
        "street/val10.jpg (24, 16) 4 False",
    ], read.stderr
    refused = subprocess.run([*command[:3], "--dataset=shapes:3"], env=environment, capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: --dataset: 'shapes:3' is nothing to build")


def test_records_of_an_earlier_version_do_not_know_primary_categories(built, tmp_path):
    shutil.copytree(built, tmp_path / "data")
    metadata = tmp_path / "data/broden/1.0.0/metadata.json"
    content = json.loads(metadata.read_text())
    del content["coverage"]
    metadata.write_text(json.dumps(content))
    dataset = open_tfds(f"broden@{tmp_path / 'data'}")
    with pytest.raises(InputError, match=r"--label_categories: .*'door, wooden' has several; .*--label_categories=all"):
        dataset.primary_concepts()
    assert dataset.select(("object", "scene")).primary_concepts().all()
