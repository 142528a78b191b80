"""Arrays of pictures that a run keeps beside its numbers: photographs, and what was made of them."""

import zipfile
import zlib
from collections.abc import Callable, Mapping

import numpy as np
from etils import epath

from vitprobe_jax.errors import InputError

_MEND = "delete it and its rows in cells/, then run the study again with --resume"


def picture_stem(dataset: str, part: str, layer: int, token: str) -> str:
    """What the files of one cell of a part are called, without an ending: those of pictures, and those of rows."""
    return f"{dataset.replace(':', '_').replace('/', '_')}_{part}_{layer}_{token}"


def read_pictures(
    folder: epath.PathLike,
    backbone: str,
    dataset: str,
    part: str,
    cell: tuple[int, str],
    fits: Callable[[Mapping[str, np.ndarray]], bool],
) -> dict[str, np.ndarray]:
    """The arrays of one cell by their names; {} where the run kept none, or one of nothing.

    Args:
        folder: the results folder.
        backbone: whose.
        dataset: of the images.
        part: of the study.
        cell: block and token.
        fits: whether arrays are what the part keeps.

    Raises:
        InputError: a file that is damaged or holds something else.
    """
    path = epath.Path(folder) / "pictures" / backbone / f"{picture_stem(dataset, part, *cell)}.npz"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, TypeError) as error:
        raise InputError(f"{path}: not readable pictures ({_line(error)}); {_MEND}") from error
    if not fits(arrays):
        raise InputError(f"{path}: holds other arrays than pictures; {_MEND}")
    return arrays if all(len(array) for array in arrays.values()) else {}


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
