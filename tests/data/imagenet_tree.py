"""A small ImageNet in the shapes that it is found in, written by code."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from vitprobe_jax.data.imagenet200 import wnids


def image_bytes(wnid: str, i: int) -> bytes:
    """A JPEG whose grey tells the class; what follows its end, which decoders ignore, tells the image."""
    content = io.BytesIO()
    Image.fromarray(np.full((4, 5, 3), wnids().index(wnid), np.uint8)).save(content, "JPEG", quality=95)
    return content.getvalue() + f"{wnid}:{i}".encode() + b"." * i


def write_folder(root: Path, per_class: int) -> None:
    """`root/n01443537/n01443537_10.JPEG`, the 200 classes and one that nobody asks for."""
    for wnid in (*wnids(), "n00000001"):
        (root / wnid).mkdir(parents=True)
        for i in range(per_class):
            content = image_bytes(wnid, i) if wnid in wnids() else b"of no interest"
            (root / wnid / f"{wnid}_{i}.JPEG").write_bytes(content)


def tar_of(files: dict[str, bytes]) -> bytes:
    """A plain tar, in the order of the dict."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, file in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(file)
            archive.addfile(member, io.BytesIO(file))
    return content.getvalue()


def class_tars(folder: Path, rng: np.random.Generator) -> dict[str, bytes]:
    """The tar of each class of a folder by its name, classes and images in a random order."""
    tars = {}
    for wnid in rng.permutation([path.name for path in folder.iterdir()]):
        files = sorted((folder / wnid).iterdir())
        tars[f"{wnid}.tar"] = tar_of({files[i].name: files[i].read_bytes() for i in rng.permutation(len(files))})
    return tars
