"""How the page names the methods and the training draws of study 2, and their order."""

from collections.abc import Iterable, Sequence

from vitprobe_jax.report.measured.rows import Row

DRAWS = {"cityscapes": 4, "ade20k": 4, "fair1m": 8}
"""Images of each city, class or kind of tile in the training draw of all published numbers but those over sizes (Sections 3
and 5.1, A.4); other data sets have that of Cityscapes."""
_METHODS = {
    "linear": "linear probe",
    "linear_gradient": "linear, gradient descent",
    "linear_batchnorm": "linear, BatchNorm",
    "ridge": "ridge regression",
}
_TOLD_BY = {
    "linear": "by a linear probe",
    "linear_gradient": "by a linear probe trained by gradient descent",
    "linear_batchnorm": "by a linear probe with BatchNorm",
}


def method_title(method: str | None) -> str:
    """A method as the page names it: `1-NN`."""
    if method is None:
        return ""
    title = method.replace("-nn", "-NN").replace("NN other images", "NN, own image excluded")
    return _METHODS.get(method, title.replace("NN batchnorm", "NN after BatchNorm"))


def told_by(method: str) -> str:
    """A method in a sentence: `by 1-NN`, `by a linear probe`."""
    return _TOLD_BY.get(method, f"by {method_title(method)}")


def is_probe(method: str) -> bool:
    """Whether a method is fitted, and no search for neighbours."""
    return method in _METHODS


def methods_of(rows: Iterable[Row]) -> list[str]:
    """The methods of some rows: neighbours by their number, then probes."""
    return sorted({row.method for row in rows if row.method is not None}, key=_method_rank)


def method_titles(rows: Iterable[Row]) -> dict[str, str]:
    """What the methods of some rows are called, in their order."""
    return {method: method_title(method) for method in methods_of(rows)}


def _method_rank(method: str) -> tuple[bool, int, str]:
    if is_probe(method):
        return True, list(_METHODS).index(method), method
    neighbours = method.split("-")[0]
    return False, int(neighbours) if neighbours.isdigit() else 0, method


def largest_draw(rows: Sequence[Row]) -> int | None:
    """The largest size of the training draw of some rows; 0, which is all images, is larger than any."""
    sizes = shots_of(rows)
    return sizes[-1] if sizes else None


def main_draw(dataset: str, rows: Sequence[Row]) -> int | None:
    """The size of the training draw that sentences and tables are of: the data set's own in the paper, else the largest."""
    own = DRAWS.get(dataset.split(":")[0], DRAWS["cityscapes"])
    return own if own in shots_of(rows) else largest_draw(rows)


def shots_of(rows: Iterable[Row]) -> list[int]:
    """The sizes of the training draw of some rows, ascending, 0 (all images) last."""
    return sorted({row.shots for row in rows if row.shots is not None}, key=lambda shots: (shots == 0, shots))


def shots_title(shots: int | None) -> str:
    """A size of the training draw in words."""
    return "all images" if not shots else f"{shots} image{'' if shots == 1 else 's'} a group"
