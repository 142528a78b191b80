"""The parts of study 2 as the page shows them: one file a part, each with its `view`."""

from collections.abc import Mapping

from vitprobe_jax.metrics.retrieval import OUTCOMES
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
from vitprobe_jax.report.measured.view import PartOfPage

PARTS: Mapping[str, PartOfPage] = {
    "patches": PartOfPage(
        "What is on a patch",
        "Every patch of held-out images is told by its nearest patches of a small training draw, or by a linear probe.",
        ("miou",),
        patches.view,
    ),
    "variance": PartOfPage(
        "The features of highest variance",
        "A few features vary far more than the others. What do distances between patches gain without them?",
        ("variance", "miou"),
        variance.view,
    ),
    "corruptions": PartOfPage(
        "Corrupted images",
        "Training patches are clean; the held-out images are blurred or noisy.",
        ("miou",),
        corruptions.view,
    ),
    "retrieval": PartOfPage(
        "Finding a patch again",
        "An image is moved, turned, scaled, blurred or made noisy: which patch of the original images is nearest to each of "
        "its patches?",
        OUTCOMES,
        retrieval.view,
    ),
    "tracking": PartOfPage(
        "Finding an object again",
        "Boxes are annotated. Is an object's nearest object some frames later the same one?",
        ("same_instance",),
        tracking.view,
    ),
    "reconstruction": PartOfPage(
        "What the decoder needs",
        "MAE's decoder is given tokens without the features of highest, or of lowest, variance.",
        ("mse",),
        reconstruction.view,
    ),
    "context": PartOfPage(
        "What a patch knows of the image",
        "Each concept's share of the image is predicted from the patch in its middle.",
        ("mean_r2",),
        context.view,
    ),
    "layers": PartOfPage(
        "Block by block", "Patches are told by their nearest ones, block after block.", ("miou",), layers.view
    ),
    "scale": PartOfPage(
        "Other ground sample distances",
        "Whole images are told by their nearest ones, seen from ever farther off.",
        ("accuracy",),
        scale.view,
    ),
}
"""By name, in the page's order."""
