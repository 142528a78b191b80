"""A mask file for every photograph: what readers of such folders share."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from vitprobe_jax.data.files import image_file_size, walk_files
from vitprobe_jax.data.plain_tree import read_mask
from vitprobe_jax.errors import InputError


class Pair(NamedTuple):
    """A photograph and its mask, as paths within the data set."""

    image: str
    mask: str


def find_pairs(root: Path, images: str, masks: str, *, image_ending: str, mask_ending: str) -> tuple[Pair, ...]:
    """All photographs below a folder and their masks below another one, which differ in their endings alone.

    Folders are searched to any depth; hidden files and files of other endings are left out. Nothing is opened.

    Args:
        root: of the data set.
        images: folder of the photographs, relative to the root.
        masks: folder of the masks, likewise.
        image_ending: what the names of photographs end in, `_leftImg8bit.png`.
        mask_ending: what the names of masks end in.

    Returns:
        The pairs, sorted by path, folder by folder.

    Raises:
        InputError: a folder is missing, there are no photographs, one has no mask, or a mask has no photograph.
    """
    expected = f"expected {images}/ with *{image_ending} and {masks}/ with *{mask_ending}"
    for folder in (images, masks):
        if not (root / folder).is_dir():
            raise InputError(f"--dataset: {root} has no folder {folder}; {expected}")
    image_stems, mask_stems = _stems(root / images, image_ending), _stems(root / masks, mask_ending)
    if not image_stems:
        raise InputError(f"--dataset: no images in {root / images}; {expected}")
    bare = sorted(image_stems - mask_stems)
    if bare:
        raise InputError(
            f"--dataset: {len(bare)} of {len(image_stems)} images in {root / images} have no mask, the first is "
            f"{bare[0]}{image_ending}; add {masks}/{bare[0]}{mask_ending}, or take the image out"
        )
    alone = sorted(mask_stems - image_stems)
    if alone:
        raise InputError(
            f"--dataset: {len(alone)} of {len(mask_stems)} masks in {root / masks} have no image, the first is "
            f"{alone[0]}{mask_ending}; add {images}/{alone[0]}{image_ending}, or take the mask out"
        )
    ordered = sorted(image_stems, key=lambda stem: stem.split("/"))
    return tuple(Pair(f"{images}/{stem}{image_ending}", f"{masks}/{stem}{mask_ending}") for stem in ordered)


def read_pair_mask(root: Path, pair: Pair, *, largest: int) -> Int[np.ndarray, "sh sw"]:
    """The label number of every pixel of a mask; of its photograph only the size is read.

    Args:
        root: of the data set.
        pair: which one.
        largest: label number that the data set has.

    Raises:
        InputError: a file is missing or cannot be decoded, the mask is no PNG of one channel, is not of its photograph's
            size, or holds a number above `largest`; names the file.
    """
    path = root / pair.mask
    mask = read_mask(path)
    height, width = image_file_size(root / pair.image)
    if mask.shape != (height, width):
        raise InputError(
            f"{path}: is {mask.shape[0]} x {mask.shape[1]}, its image {pair.image} is {height} x {width}; "
            "replace one of them"
        )
    if mask.max() > largest:
        raise InputError(f"{path}: holds label {mask.max()}, the largest there is is {largest}; replace the mask")
    return mask


def pairs_fingerprint(root: Path, pairs: Iterable[Pair], table: bytes = b"") -> str:
    """Hex digest of the paths and sizes of all files of the pairs, and of a table that goes with them."""
    digest = hashlib.sha256(table)
    for pair in pairs:
        for file in pair:
            digest.update(f"{file}\0{(root / file).stat().st_size}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _stems(folder: Path, ending: str) -> set[str]:
    """The files of an ending, as paths within the folder without it."""
    return {
        Path(file.path).relative_to(folder).as_posix().removesuffix(ending)
        for file in walk_files(folder)
        if file.name.endswith(ending) and not file.name.startswith(".")
    }
