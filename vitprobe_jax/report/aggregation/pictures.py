"""What arrays the parts of study 3 keep as pictures: photographs, the weights of their patches, boxes."""

from collections.abc import Mapping

import numpy as np

_WEIGHTS, _BOXES = "weights_", "boxes_"


def are_maps(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether arrays are photographs with maps, and perhaps boxes.

    `images` uint8 [n, H, W, 3]; `names` text [n]; `weights_NAME` finite numbers [n, rows, columns], none below 0; `truth`
    [m, 5], of each box the number of its image, left, top, right and bottom in pixels; `boxes_NAME` [n, 4].
    """
    images = arrays.get("images")
    if images is None or images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        return False
    return all(_fits(name, array, len(images)) for name, array in arrays.items() if name != "images")


def representations_of(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """The representations that there are maps of."""
    return [name.removeprefix(_WEIGHTS) for name in arrays if name.startswith(_WEIGHTS)]


def names_of(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """What photographs are called; [] where nothing was kept."""
    return arrays["names"].tolist() if "names" in arrays else []


def weights_of(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """The maps of a representation, [n, rows, columns]."""
    return arrays[_WEIGHTS + name]


def boxes_of(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray | None:
    """The boxes of a representation, [n, 4]; None where it has none."""
    return arrays.get(_BOXES + name)


def _fits(name: str, array: np.ndarray, count: int) -> bool:
    if name == "names":
        return array.shape == (count,) and array.dtype.kind == "U"
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        return False
    if name == "truth":
        return array.ndim == 2 and array.shape[1] == 5 and bool(np.isin(array[:, 0], np.arange(count)).all())
    if name.startswith(_BOXES):
        return array.shape == (count, 4)
    return name.startswith(_WEIGHTS) and array.ndim == 3 and len(array) == count and not bool((array < 0).any())
