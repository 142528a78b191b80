"""Arrays of pictures that a run keeps beside its numbers: photographs, and what was made of them."""

import zipfile
import zlib

import numpy as np
from etils import epath

from vitprobe_jax.errors import InputError

_MEND = "delete it and its rows in cells/, then run the study again with --resume"


def picture_stem(dataset: str, part: str, layer: int, token: str) -> str:
    """What the files of one cell of a part are called, without an ending: those of pictures, and those of rows."""
    return f"{dataset.replace(':', '_').replace('/', '_')}_{part}_{layer}_{token}"


def read_pictures(
    folder: epath.PathLike, backbone: str, dataset: str, part: str, cell: tuple[int, str]
) -> dict[str, np.ndarray]:
    """The arrays of one cell by their names; {} where the run kept none.

    Every array is uint8 colours [n, H, W, 3] or a map of whole numbers from 0 on [n, H, W]; all have the same n, H and W.
    One is called `image`.

    Args:
        folder: the results folder.
        backbone: whose.
        dataset: of the images.
        part: of the study.
        cell: block and token.

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
    shape = arrays["image"].shape if "image" in arrays else ()
    if len(shape) != 4 or not all(_fits(array, shape) for array in arrays.values()):
        raise InputError(f"{path}: holds other arrays than pictures; {_MEND}")
    return arrays if shape[0] else {}


def _fits(array: np.ndarray, shape: tuple[int, ...]) -> bool:
    if array.shape == shape and shape[-1] == 3:
        return array.dtype == np.uint8
    return array.shape == shape[:-1] and array.dtype.kind == "u"


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
