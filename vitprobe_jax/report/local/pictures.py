"""What arrays the parts of study 2 keep as pictures: photographs, and what was made of them."""

from collections.abc import Mapping

import numpy as np


def are_pictures(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether arrays are photographs and maps of the same size.

    Every array is uint8 colours [n, H, W, 3] or a map of whole numbers from 0 on [n, H, W]; all have the same n, H and W.
    One is called `image`.
    """
    shape = arrays["image"].shape if "image" in arrays else ()
    return len(shape) == 4 and all(_fits(array, shape) for array in arrays.values())


def _fits(array: np.ndarray, shape: tuple[int, ...]) -> bool:
    if array.shape == shape and shape[-1] == 3:
        return array.dtype == np.uint8
    return array.shape == shape[:-1] and array.dtype.kind == "u"
