import pytest

from tests.data.broden_tree import write_image, write_mask, write_tables
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


def test_shapes_need_no_file():
    dataset = open_dataset("shapes:8", seed=1)
    assert dataset.name == "shapes:8"
    assert all(len(split) for split in dataset.splits.values())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "no known kind; give one of broden:DIR, imagefolder:DIR, shapes:N"),
        ("imagenet:/data", "no known kind"),
        ("/data/broden", "no known kind"),
        ("broden", "lacks what to open; give broden:DIR"),
        ("imagefolder:", "lacks what to open; give imagefolder:DIR"),
        ("shapes:", "lacks what to open; give shapes:N"),
        ("shapes:many", "whole number"),
        ("shapes:0", "whole number"),
        ("shapes:-3", "whole number"),
        ("broden:/nowhere/at/all", "not a folder"),
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
