"""ImageNet-200: Tiny ImageNet's 200 classes in ImageNet's own images, read from where ImageNet lies.

The training images of ImageNet (ILSVRC 2012) are known in four shapes, and all are read without unpacking or copying:

    DIR/train/n01443537/*.JPEG      or without train/
    DIR/train/n01443537.tar         or without train/
    DIR/ILSVRC2012_img_train.tar    the official archive, one tar a class inside; the file itself may be given too

The held-out images of the set come from the training images as well: ImageNet's own validation set has 50 a class, which
stay free for whoever reports on them.
"""

import dataclasses
import functools
import hashlib
import os
import posixpath
import tarfile
from collections.abc import Collection
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from vitprobe_jax.data.dataset import Annotation, Dataset
from vitprobe_jax.data.encoded import decode_image
from vitprobe_jax.data.files import existing_folder, walk_files
from vitprobe_jax.data.imagefolder import EXTENSIONS
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Concept, Split

ARCHIVE = "ILSVRC2012_img_train.tar"
TRAIN_PER_CLASS = 500
VAL_PER_CLASS = 50


class ImageFile(NamedTuple):
    """Where the bytes of an image are.

    Attributes:
        name: `n01443537/n01443537_10007.JPEG`, whatever shape ImageNet has.
        path: the image's own file, or the archive.
        offset: of the first byte; 0 where the file is the image's own.
        size: in bytes; -1 for a file of its own that nobody has looked at yet.
    """

    name: str
    path: str
    offset: int
    size: int


@dataclasses.dataclass(frozen=True)
class Imagenet200Split:
    """The images of one split.

    Attributes:
        files: sorted by class, then by name.
        numbers: the class number of each file.
    """

    files: tuple[ImageFile, ...]
    numbers: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return self.files[index].name

    def content(self, index: int) -> bytes:
        """The image file's bytes.

        Raises:
            InputError: they are not there any more.
        """
        file = self.files[index]
        try:
            with open(file.path, "rb") as source:
                source.seek(file.offset)
                content = source.read(file.size)
        except OSError as error:
            raise InputError(f"{file.path}: cannot be read ({error.strerror}); restore the file") from error
        if len(content) < file.size:
            raise InputError(
                f"{file.path}: is shorter than when it was opened, {file.name} is cut off; restore the file"
            )
        return content

    def image(self, index: int) -> Image.Image:
        file = self.files[index]
        source = file.path if file.offset == 0 else f"{file.path}: {file.name}"
        return decode_image(self.content(index), source)

    def annotation(self, index: int) -> Annotation:
        return Annotation(labels=(("class", self.numbers[index]),))


@functools.cache
def wnids() -> tuple[str, ...]:
    """The WordNet ids of Tiny ImageNet's 200 classes, sorted; class number i is the i-th, from 1."""
    return tuple(resources.files("vitprobe_jax.data").joinpath("tiny_imagenet_wnids.txt").read_text().split())


def open_imagenet200(
    folder: str | Path,
    name: str,
    *,
    seed: int,
    train_per_class: int = TRAIN_PER_CLASS,
    val_per_class: int = VAL_PER_CLASS,
) -> Dataset:
    """Draws 550 images of each class by `seed`, 500 to train on and 50 held out; nothing is decoded yet.

    What is drawn of a class depends on the seed, its id and its file names alone: not on the other classes, on the order
    of a listing, or on whether files or archives hold the images. Names and fingerprint are the same for all of them.
    Listing the official archive means a look at 260,000 headers all over its 138 GB.

    Args:
        folder: of ImageNet, in one of the shapes above, or the archive of all training images.
        name: what results call the data set.
        seed: of the draw, at least 0.
        train_per_class: training images of a class.
        val_per_class: held-out images of a class.

    Returns:
        Concepts are the 200 classes in the order of `wnids`, called by their ids.

    Raises:
        InputError: there is no ImageNet, a class is missing or has too few images, an archive is damaged.
    """
    listed = _list_classes(Path(folder).expanduser())
    wanted = train_per_class + val_per_class
    digest = hashlib.sha256()
    files: dict[Split, list[ImageFile]] = {"train": [], "val": []}
    numbers: dict[Split, list[int]] = {"train": [], "val": []}
    for number, wnid in enumerate(wnids(), 1):
        found = sorted(listed[wnid])
        if len(found) < wanted:
            raise InputError(
                f"--dataset: the class {wnid} has {len(found)} images in {folder}, {wanted} are drawn of each; "
                "complete it from ImageNet's training images"
            )
        drawn = np.random.default_rng([seed, int(wnid[1:])]).choice(len(found), wanted, replace=False)
        parts: dict[Split, np.ndarray] = {"train": drawn[:train_per_class], "val": drawn[train_per_class:]}
        for split, chosen in parts.items():
            for file in (_with_size(found[i]) for i in np.sort(chosen)):
                files[split].append(file)
                numbers[split].append(number)
                digest.update(f"{split}\0{file.name}\0{file.size}\n".encode("utf-8", "surrogateescape"))
    return Dataset(
        name=name,
        concepts=tuple(Concept(number=i, name=wnid, category="class") for i, wnid in enumerate(wnids(), 1)),
        splits={split: Imagenet200Split(tuple(files[split]), tuple(numbers[split])) for split in files},
        skip_corrupt=True,
        fingerprint=digest.hexdigest(),
    )


def _list_classes(root: Path) -> dict[str, list[ImageFile]]:
    """Every image of every class."""
    if root.is_file():
        return _list_archive(root)
    root = existing_folder(root)
    for base in (root / "train", root):
        classes = {wnid: path for wnid in wnids() for path in (base / wnid, base / f"{wnid}.tar") if path.exists()}
        if classes:
            _require_all(classes, base)
            return {wnid: _list_class(path, wnid) for wnid, path in classes.items()}
    if (root / ARCHIVE).is_file():
        return _list_archive(root / ARCHIVE)
    raise InputError(
        f"--dataset: {root} holds no ImageNet; expected train/{wnids()[0]}/*.JPEG, train/{wnids()[0]}.tar or {ARCHIVE}"
    )


def _list_class(path: Path, wnid: str) -> list[ImageFile]:
    if path.is_file():
        return _list_tar(path, wnid, 0, path.stat().st_size)
    # By slicing: a Path for each of 260,000 files takes longer than listing them.
    inside = len(os.path.join(path, ""))
    files = (
        ImageFile(f"{wnid}/{entry.path[inside:].replace(os.sep, '/')}", entry.path, 0, -1) for entry in walk_files(path)
    )
    return [file for file in files if _is_image(file.name)]


def _list_archive(path: Path) -> dict[str, list[ImageFile]]:
    """The official archive: a tar of one tar a class, none of them compressed."""
    members = {posixpath.basename(member.name): member for member in _members(path, 0, path.stat().st_size)}
    tars = {wnid: members[f"{wnid}.tar"] for wnid in wnids() if f"{wnid}.tar" in members}
    _require_all(tars, path)
    return {wnid: _list_tar(path, wnid, tar.offset, tar.offset + tar.size) for wnid, tar in tars.items()}


def _list_tar(path: Path, wnid: str, start: int, end: int) -> list[ImageFile]:
    # A member that stands twice in a tar is, as for tar itself, what the last one says.
    files = {}
    for member in _members(path, start, end):
        name = f"{wnid}/{posixpath.normpath(member.name).removeprefix(wnid + '/')}"
        if _is_image(name):
            files[name] = member._replace(name=name)
    return list(files.values())


def _members(path: Path, start: int, end: int) -> list[ImageFile]:
    """The files of the tar that lies from `start` to `end` in a file."""
    members = []
    try:
        with open(path, "rb") as file:
            file.seek(start)
            # tarfile counts the offsets from the start of the file, not of the tar.
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    if member.offset_data + member.size > end:
                        raise tarfile.ReadError(f"{member.name} is cut off")
                    if member.isfile():
                        members.append(ImageFile(member.name, str(path), member.offset_data, member.size))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"--dataset: {path} is no whole, uncompressed tar archive ({error}); get it again") from error
    return members


def _require_all(classes: Collection[str], where: Path) -> None:
    missing = [wnid for wnid in wnids() if wnid not in classes]
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise InputError(
            f"--dataset: {where} lacks {len(missing)} of the 200 classes ({shown}); add them from ImageNet"
        )


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not posixpath.basename(name).startswith(".")


def _with_size(file: ImageFile) -> ImageFile:
    """Looks at a file of its own only when it is drawn: most are not."""
    if file.size >= 0:
        return file
    try:
        return file._replace(size=os.stat(file.path).st_size)
    except OSError as error:
        raise InputError(f"--dataset: {file.path} cannot be read ({error.strerror}); restore the file") from error
