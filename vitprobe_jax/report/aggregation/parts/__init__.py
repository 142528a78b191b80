"""The parts of study 3 as the page shows them: one file a part, each with its `view`."""

from collections.abc import Mapping

from vitprobe_jax.report.aggregation.parts import attention, localisation, probing, untrained
from vitprobe_jax.report.measured.view import PartOfPage

PARTS: Mapping[str, PartOfPage] = {
    "attention": PartOfPage(
        "Where attention goes",
        "How much of its attention does [CLS], and does a patch, give to itself, and how selectively does it spread the "
        "rest over the patches?",
        tuple(attention.FLOW),
        attention.view,
    ),
    "probing": PartOfPage(
        "Linear probing",
        "How well does a linear classifier do on each representation of the frozen backbone?",
        ("top1_best", "map_best"),
        probing.view,
    ),
    "untrained": PartOfPage(
        "Aggregation without training",
        "Do weights that attention gives for nothing do as well as learned ones, and how far are they from them?",
        ("top1_best", "map_best", "weights_entropy"),
        untrained.view,
    ),
    "localisation": PartOfPage(
        "Where objects are",
        "The weights of patches are a map of the image: do boxes around its bright parts fit the annotated ones?",
        ("maxboxaccv2",),
        localisation.view,
    ),
}
"""By name, in the page's order."""
