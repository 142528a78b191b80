"""Image classification in folders: split/class/*.jpg."""

import dataclasses
import hashlib
import os
from pathlib import Path

from absl import logging
from PIL import Image

from vitprobe_jax.data.dataset import Annotation, Dataset
from vitprobe_jax.data.files import existing_folder, image_file_size, read_image, walk_files
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Concept

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "validation", "test")}


@dataclasses.dataclass(frozen=True)
class FolderSplit:
    """The images of one split; its groups are the classes.

    Attributes:
        folder: the root of the data set.
        files: paths relative to it, sorted by class, then by path.
        numbers: the class number of each file.
        group_names: the classes, by number from 1; a split need not have images of all.
    """

    folder: Path
    files: tuple[str, ...]
    numbers: tuple[int, ...]
    group_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return self.files[index]

    def image(self, index: int) -> Image.Image:
        return read_image(self.folder / self.files[index], mode="RGB")

    def size(self, index: int) -> tuple[int, int]:
        return image_file_size(self.folder / self.files[index])

    def annotation(self, index: int) -> Annotation:
        return Annotation(labels=(("class", self.numbers[index]),))

    def groups(self, index: int) -> tuple[str, ...]:
        return (self.group_names[self.numbers[index] - 1],)


def open_imagefolder(folder: str | Path, name: str) -> Dataset:
    """Lists a tree of `train/CLASS/*` and `val/CLASS/*` (else `validation`, else `test`); nothing is decoded yet.

    Classes are numbered from 1 in the sorted order of the folder names of both splits. Folders within a class are
    searched too; hidden ones are not. Files that are no images by their name, or lie in no class, are skipped with a
    warning.

    Args:
        folder: holds the splits.
        name: what results call the data set.

    Raises:
        InputError: the folder is missing or empty, a split is missing or has no images.
    """
    folder = existing_folder(folder)
    found, skipped = {}, []
    for split, candidates in _SPLIT_FOLDERS.items():
        present = [candidate for candidate in candidates if (folder / candidate).is_dir()]
        if not present:
            raise InputError(
                f"--dataset: {folder} has no folder {' or '.join(candidates)}; "
                "expected train/CLASS/*.jpg and val/CLASS/*.jpg"
            )
        found[split], ignored = _scan(folder, present[0])
        skipped += ignored
        if not any(found[split].values()):
            raise InputError(f"--dataset: no images in {folder / present[0]}; expected {present[0]}/CLASS/*.jpg")
    if skipped:
        logging.warning(
            "%s: skipped %d files that are no images in a class folder: %s%s",
            folder,
            len(skipped),
            ", ".join(sorted(skipped)[:3]),
            ", ..." if len(skipped) > 3 else "",
        )

    numbers = {class_name: i for i, class_name in enumerate(sorted(set().union(*found.values())), 1)}
    digest = hashlib.sha256()
    splits = {}
    for split, classes in found.items():
        listed = [(path, size, numbers[name]) for name in sorted(classes) for path, size in sorted(classes[name])]
        for path, size, _ in listed:
            digest.update(f"{path}\0{size}\n".encode("utf-8", "surrogateescape"))
        files, labels = (tuple(row[column] for row in listed) for column in (0, 2))
        splits[split] = FolderSplit(folder, files, labels, tuple(numbers))
    return Dataset(
        name=name,
        concepts=tuple(Concept(number=n, name=class_name, category="class") for class_name, n in numbers.items()),
        splits=splits,
        skip_corrupt=True,
        fingerprint=digest.hexdigest(),
    )


def _scan(root: Path, split: str) -> tuple[dict[str, list[tuple[str, int]]], list[str]]:
    """Each class's images as (path relative to the root, bytes), and the other files."""
    classes, skipped = {}, []
    with os.scandir(root / split) as entries:
        for entry in entries:
            if not entry.is_dir():
                skipped.append(f"{split}/{entry.name}")
            elif not entry.name.startswith("."):
                classes[entry.name] = []
                for file in walk_files(entry.path):
                    path = Path(file.path).relative_to(root).as_posix()
                    if file.name.lower().endswith(EXTENSIONS):
                        classes[entry.name].append((path, file.stat().st_size))
                    else:
                        skipped.append(path)
    return classes, skipped
