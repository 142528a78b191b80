"""The parts of the study: one file a part, each with its `PART`."""

from experiments.local.parts import (
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
from experiments.measuring import Part

PARTS: dict[str, Part] = {
    module.PART.name: module.PART
    for module in (patches, variance, corruptions, retrieval, tracking, reconstruction, context, layers, scale)
}

__all__ = ["PARTS"]
