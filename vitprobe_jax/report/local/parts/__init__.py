"""The parts of the study as the page shows them: one file a part, each with its `view`."""

from collections.abc import Callable, Mapping

from vitprobe_jax.report.local.parts import (
    context,
    corruptions,
    layers,
    patches,
    reconstruction,
    retrieval,
    scale,
    tracking,
    variance,
)
from vitprobe_jax.report.local.parts.view import PartView, Sources
from vitprobe_jax.report.local.rows import PartTable

VIEWS: Mapping[str, Callable[[PartTable, Sources], PartView]] = {
    "patches": patches.view,
    "variance": variance.view,
    "corruptions": corruptions.view,
    "retrieval": retrieval.view,
    "tracking": tracking.view,
    "reconstruction": reconstruction.view,
    "context": context.view,
    "layers": layers.view,
    "scale": scale.view,
}
"""Each of a part that has a number on a data set; by its name, a key of `rows.TITLES`."""

__all__ = ["VIEWS", "PartView", "Sources"]
