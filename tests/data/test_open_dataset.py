import functools

import pytest

from tests.data.broden_tree import write_image, write_mask, write_tables
from tests.data.imagenet_tree import write_folder
from vitprobe_jax import data
from vitprobe_jax.data import open_dataset
from vitprobe_jax.errors import InputError


@pytest.fixture
def broden(tmp_path):
    folder = tmp_path / "street"
    write_image(folder / "images/a.jpg")
    write_mask(folder / "images/a.png", [[7, 7], [7, 7]])
    write_tables(folder, [f"a.jpg,{split},8,8,2,2,,a.png,,,83," for split in ("train", "val")])
    return folder


def test_folders_are_called_by_their_last_name(broden, tmp_path, monkeypatch):
    monkeypatch.chdir(broden)
    write_image(tmp_path / "zoo/train/a/x.jpg")
    write_image(tmp_path / "zoo/val/a/x.jpg")
    for spec in (f"broden:{broden}", f"broden:{broden}/", "broden:.", "broden:../street"):
        assert open_dataset(spec, seed=0).name == "broden:street"
    assert open_dataset(f"imagefolder:{tmp_path}/zoo", seed=0).name == "imagefolder:zoo"


def test_imagenet200_is_drawn_by_the_seed_and_called_by_its_folder(tmp_path, monkeypatch):
    write_folder(tmp_path / "ilsvrc/train", 3)
    few = functools.partial(data.open_imagenet200, train_per_class=1, val_per_class=1)
    monkeypatch.setattr(data, "open_imagenet200", few)
    first, again, other = (open_dataset(f"imagenet200:{tmp_path}/ilsvrc", seed=seed) for seed in (0, 0, 1))
    assert first.name == "imagenet200:ilsvrc"
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_shapes_need_no_file():
    dataset = open_dataset("shapes:8", seed=1)
    assert dataset.name == "shapes:8"
    assert all(len(split) for split in dataset.splits.values())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "",
            r"no known kind; give one of ade20k:DIR, bdd100k:DIR, broden:DIR, cars:DIR, cityscapes:DIR, coco:DIR, "
            r"cub200:DIR, fair1m:DIR, food101:DIR, imagefolder:DIR, imagenet200:DIR, mot16:DIR, mot17:DIR, mot20:DIR, "
            r"nuswide:DIR, pets:DIR, resisc45:DIR, shapes:N, tfds:NAME\[@DATA_DIR\], ucmerced:DIR",
        ),
        ("imagenet:/data", "no known kind"),
        ("/data/broden", "no known kind"),
        ("broden", "lacks what to open; give broden:DIR"),
        ("imagefolder:", "lacks what to open; give imagefolder:DIR"),
        ("shapes:", "lacks what to open; give shapes:N"),
        ("imagenet200:", "lacks what to open; give imagenet200:DIR"),
        ("tfds", r"lacks what to open; give tfds:NAME\[@DATA_DIR\]"),
        ("shapes:many", "whole number"),
        ("shapes:0", "whole number"),
        ("shapes:-3", "whole number"),
        ("broden:/nowhere/at/all", "not a folder"),
        ("imagenet200:/nowhere/at/all", "not a folder"),
        ("ade20k:/nowhere/at/all", "not a folder"),
        ("cityscapes:/nowhere/at/all", "not a folder"),
        ("coco:/nowhere/at/all", "not a folder"),
        ("nuswide:/nowhere/at/all", "not a folder"),
        ("tfds:broden@/nowhere/at/all", "no tfds data set broden is prepared in /nowhere/at/all"),
    ],
)
def test_what_cannot_be_opened_is_one_line_that_names_the_flag(spec, message):
    with pytest.raises(InputError, match=message) as caught:
        open_dataset(spec, seed=0)
    assert str(caught.value).startswith("--dataset: ")
    assert "\n" not in str(caught.value)


def test_both_splits_must_have_images(broden):
    write_tables(broden, ["a.jpg,train,8,8,2,2,,a.png,,,83,"])
    with pytest.raises(InputError, match=r"--dataset: .*street has no val images"):
        open_dataset(f"broden:{broden}", seed=0)
