import io
import pickle
import shutil
import tarfile

import numpy as np
import pytest

from tests.data.imagenet_tree import class_tars, image_bytes, tar_of, write_folder
from vitprobe_jax.data import open_dataset
from vitprobe_jax.data.dataset import ImageSplit
from vitprobe_jax.data.imagenet200 import ARCHIVE, open_imagenet200, wnids
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import SPLITS, Concept

PER_CLASS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Only read; what changes it works on a copy."""
    root = tmp_path_factory.mktemp("imagenet")
    write_folder(root / "train", PER_CLASS)
    return root


@pytest.fixture(scope="module")
def tars(folder):
    return class_tars(folder / "train", np.random.default_rng(0))


def small(folder, seed=0):
    return open_imagenet200(folder, "imagenet200:x", seed=seed, train_per_class=3, val_per_class=2)


def everything(dataset):
    """Names, bytes and classes, in the order of the splits."""
    return {
        split: [(images.name(i), images.content(i), images.annotation(i).labels) for i in range(len(images))]
        for split, images in dataset.splits.items()
    }


def names_by_class(dataset):
    """What was drawn: {class: {split: names}}."""
    drawn = {wnid: {split: [] for split in SPLITS} for wnid in wnids()}
    for split, images in dataset.splits.items():
        for i in range(len(images)):
            name = images.name(i)
            drawn[name.partition("/")[0]][split].append(name)
    return drawn


def test_the_classes_are_those_of_tiny_imagenet(shared_data):
    assert list(wnids()) == sorted((shared_data / "tiny_imagenet_wnids.txt").read_text().split())
    assert len(set(wnids())) == 200


def test_draws_so_many_of_each_class_and_none_twice(folder):
    dataset = small(folder)
    assert dataset.concepts == tuple(Concept(i, wnid, "class") for i, wnid in enumerate(wnids(), 1))
    assert [len(dataset.splits[split]) for split in SPLITS] == [600, 400]
    assert all(isinstance(split, ImageSplit) for split in dataset.splits.values())
    drawn = everything(dataset)
    for split, count in (("train", 3), ("val", 2)):
        assert drawn[split] == sorted(drawn[split])
        for name, content, labels in drawn[split]:
            wnid, _, file = name.partition("/")
            assert labels == (("class", wnids().index(wnid) + 1),)
            assert content == image_bytes(wnid, int(file.removeprefix(f"{wnid}_").removesuffix(".JPEG")))
        assert {len(names[split]) for names in names_by_class(dataset).values()} == {count}
    assert len({name for split in drawn.values() for name, _, _ in split}) == 1000
    assert dataset.skip_corrupt


def test_all_shapes_of_imagenet_are_one_data_set(folder, tars, tmp_path):
    expected = small(folder)
    for base in ("a", "b/train"):
        (tmp_path / base).mkdir(parents=True)
        for name, content in tars.items():
            (tmp_path / base / name).write_bytes(content)
        # A class that was unpacked beside its archive.
        shutil.copytree(folder / "train" / wnids()[7], tmp_path / base / wnids()[7])
        (tmp_path / base / f"{wnids()[7]}.tar").unlink()
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / ARCHIVE).write_bytes(tar_of(tars))
    (tmp_path / "renamed.tar").write_bytes(tar_of({f"./{name}": content for name, content in tars.items()}))
    for root in (folder / "train", *(tmp_path / name for name in ("a", "b", "c", "renamed.tar"))):
        dataset = small(root)
        assert everything(dataset) == everything(expected), root
        assert dataset.fingerprint == expected.fingerprint, root


def test_members_may_carry_their_class_folder_and_the_last_of_a_name_counts(folder, tmp_path):
    wnid = wnids()[0]
    shutil.copytree(folder / "train", tmp_path / "train")
    shutil.rmtree(tmp_path / "train" / wnid)
    stale = {f"{wnid}/{wnid}_{i}.JPEG": b"an older version" for i in range(PER_CLASS)}
    fresh = {f"./{wnid}/{wnid}_{i}.JPEG": image_bytes(wnid, i) for i in range(PER_CLASS)}
    (tmp_path / "train" / f"{wnid}.tar").write_bytes(
        tar_of(stale | fresh | {f"{wnid}/._x.JPEG": b"", "notes.txt": b""})
    )
    assert everything(small(tmp_path)) == everything(small(folder))


def test_a_class_is_drawn_by_the_seed_and_itself_alone(folder, tmp_path):
    first, other = wnids()[:2]
    shutil.copytree(folder / "train", tmp_path / "train")
    (tmp_path / "train" / first / f"{first}_3.JPEG").unlink()
    for stray in ("notes.txt", "._x.JPEG", ".cache/x.JPEG"):
        (tmp_path / "train" / other / stray).parent.mkdir(exist_ok=True)
        (tmp_path / "train" / other / stray).write_bytes(b"no image")
    before, after, reseeded = (names_by_class(x) for x in (small(folder), small(tmp_path), small(folder, seed=1)))
    assert [wnid for wnid in wnids() if before[wnid] != after[wnid]] == [first]
    assert sum(before[wnid] != reseeded[wnid] for wnid in wnids()) > 150
    # Each of the six is held out in a third of 200 classes, give or take four standard deviations of a binomial.
    held_out = [name.rpartition("_")[2] for drawn in before.values() for name in drawn["val"]]
    counts = [held_out.count(f"{i}.JPEG") for i in range(PER_CLASS)]
    assert sum(counts) == 400
    assert max(abs(count - 200 / 3) for count in counts) < 4 * (200 * 1 / 3 * 2 / 3) ** 0.5


def test_images_are_decoded_from_folders_and_archives(folder, tars, tmp_path):
    (tmp_path / ARCHIVE).write_bytes(tar_of(tars))
    for root in (folder, tmp_path):
        split = pickle.loads(pickle.dumps(small(root).splits["val"]))
        for i in (0, 133, 399):
            image = np.asarray(split.image(i))
            assert image.shape == (4, 5, 3)
            # Grey survives JPEG up to rounding.
            assert np.abs(image.astype(int) - (split.numbers[i] - 1)).max() <= 1


def test_corrupt_images_are_named(folder, tmp_path):
    shutil.copytree(folder / "train", tmp_path / "train")
    wnid = wnids()[0]
    for path in (tmp_path / "train" / wnid).iterdir():
        path.write_bytes(b"no jpeg")
    with pytest.raises(InputError, match=rf"train/{wnid}/{wnid}_\d.JPEG: cannot be decoded \(no image\)"):
        small(tmp_path).splits["train"].image(0)
    tars = class_tars(tmp_path / "train", np.random.default_rng(0))
    (tmp_path / "x.tar").write_bytes(tar_of(tars))
    split = small(tmp_path / "x.tar").splits["train"]
    with pytest.raises(InputError, match=rf"x.tar: {wnid}/{wnid}_\d.JPEG: cannot be decoded"):
        split.image(0)
    with open(tmp_path / "x.tar", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(InputError, match=r"x.tar: is shorter than when it was opened"):
        split.image(0)
    (tmp_path / "x.tar").unlink()
    with pytest.raises(InputError, match=r"x.tar: cannot be read \(No such file"):
        split.image(0)


def test_fingerprint_follows_what_is_drawn(folder, tmp_path):
    shutil.copytree(folder / "train", tmp_path / "train")
    before = small(folder)
    assert small(tmp_path).fingerprint == before.fingerprint
    assert small(folder, seed=1).fingerprint != before.fingerprint
    with open(tmp_path / "train" / before.splits["val"].name(0), "ab") as file:
        file.write(b"\0")
    assert small(tmp_path).fingerprint != before.fingerprint


def test_too_few_images_name_the_class_and_the_count(folder):
    with pytest.raises(InputError, match=rf"the class {wnids()[0]} has 6 images in .*, 550 are drawn of each"):
        open_dataset(f"imagenet200:{folder}", seed=0)


def test_a_dangling_link_is_named(folder, tmp_path):
    shutil.copytree(folder / "train", tmp_path / "train")
    wnid = wnids()[0]
    for path in (tmp_path / "train" / wnid).iterdir():
        path.unlink()
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=rf"{wnid}_\d.JPEG cannot be read"):
        small(tmp_path)


def cut_off(content, tmp_path):
    (tmp_path / ARCHIVE).write_bytes(content[: len(content) // 2])


def compressed(content, tmp_path):
    with tarfile.open(tmp_path / ARCHIVE, "w:gz") as archive:
        member = tarfile.TarInfo("x")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (cut_off, r"no whole, uncompressed tar archive"),
        (compressed, r"no whole, uncompressed tar archive"),
        (
            lambda content, path: (path / ARCHIVE).write_bytes(b"no tar at all" * 99),
            r"no whole, uncompressed tar archive",
        ),
        (lambda content, path: (path / ARCHIVE).write_bytes(b""), r"no whole, uncompressed tar archive"),
        (lambda content, path: (path / ARCHIVE).write_bytes(tar_of({"a.tar": b""})), r"lacks 200 of the 200 classes"),
        (lambda content, path: None, r"is empty"),
        (
            lambda content, path: (path / "notes.txt").write_text("x"),
            r"holds no ImageNet; expected train/n01443537/\*.JPEG",
        ),
        (lambda content, path: (path / wnids()[3]).mkdir(), r"lacks 199 of the 200 classes \(n0.*, ...\)"),
        (lambda content, path: path.rmdir(), r"is not a folder"),
    ],
)
def test_what_is_no_imagenet_ends_in_one_line(break_it, message, tars, tmp_path):
    (tmp_path / "data").mkdir()
    break_it(tar_of(tars), tmp_path / "data")
    with pytest.raises(InputError, match=message) as caught:
        small(tmp_path / "data")
    assert str(caught.value).startswith("--dataset: ")
    assert "\n" not in str(caught.value)


def test_a_class_that_is_cut_off_inside_the_archive_is_refused(folder, tars, tmp_path):
    wnid = wnids()[4]
    damaged = tars | {f"{wnid}.tar": tars[f"{wnid}.tar"][:700]}
    (tmp_path / ARCHIVE).write_bytes(tar_of(damaged))
    with pytest.raises(InputError, match=r"cut off"):
        small(tmp_path)
