"""What every reader of files needs: decoding an image, listing a tree."""

import os
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from vitprobe_jax.data.encoded import decode_image
from vitprobe_jax.errors import InputError


def read_image(path: str | Path, *, mode: str | None = None) -> Image.Image:
    """The fully decoded image, converted to `mode` (`RGB`) where one is given.

    Raises:
        InputError: the file is missing or cannot be decoded; names it.
    """
    return decode_image(path, str(path), mode=mode)


def image_file_size(path: str | Path) -> tuple[int, int]:
    """Height and width of an image by its header; the pixels are not decoded.

    Raises:
        InputError: the file is missing or is no image; names it.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width
    # As in `decode_image`: on broken bytes pillow raises errors of many kinds.
    except Exception as error:
        raise InputError(f"{path}: has no readable size ({error}); replace the file") from error


def walk_files(folder: str | Path) -> Iterator[os.DirEntry]:
    """Every file below a folder, one scan a folder, in no particular order; hidden folders are left out."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_dir():
                yield entry
            elif not entry.name.startswith("."):
                yield from walk_files(entry.path)


def existing_folder(folder: str | Path) -> Path:
    """The folder as a path.

    Raises:
        InputError: it does not exist, is no folder, or is empty.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise InputError(f"--dataset: {path} is not a folder; give one that exists")
    if not any(path.iterdir()):
        raise InputError(f"--dataset: the folder {path} is empty; unpack the data set into it")
    return path


def read_lines(path: str | Path) -> list[str]:
    """The lines of a text file in UTF-8.

    Raises:
        InputError: the file cannot be read, or is no text; names it.
    """
    try:
        return Path(path).read_bytes().decode("utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); restore the file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({error}); restore the file") from error


def file_sizes(root: Path, folders: set[str]) -> dict[str, int]:
    """Bytes of every file in some folders of the root, by its path from there. Missing folders are empty."""
    sizes = {}
    for folder in sorted(folders):
        if (root / folder).is_dir():
            with os.scandir(root / folder) as entries:
                sizes |= {f"{folder}/{entry.name}": entry.stat().st_size for entry in entries if entry.is_file()}
    return sizes
