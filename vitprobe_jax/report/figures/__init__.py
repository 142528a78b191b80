"""Results table -> figures: one function for each figure of the main study, and for what the paper left for later.

    from vitprobe_jax.metrics.results import read_table
    from vitprobe_jax.report import figures

    figures.accuracy_by_token(read_table("out/cls/results.parquet")).savefig("accuracy.pdf")

| of the paper | here |
|---|---|
| Figure 6, left and right | `accuracy_by_token`, `precision_recall_f1_by_token` |
| Figures 7 and 12 | `cosine_by_token` |
| Figures 8 and 14 | `scores_over_shots` |
| Figure 9 | `precision_recall_by_token`, `accuracy_f1_by_token` |
| Figure 10 | `f1_by_category` |
| Figure 11 | `precision_recall_by_category` |
| Figure 13 | `cosine_by_category` |
| Figure 15 | `mask_examples` |
| Figure 16 | `best_concepts` |
| beyond it | `layer_token_heatmap`, `centred_beside_plain`, `pixels_beside_patches`, `trained_less_control` |

A matplotlib `Figure` comes back; `svg` and `save` turn it into an SVG for a page, or into files. `illustrate` makes all that
a table allows, with captions.
"""

from vitprobe_jax.report.figures.catalogue import SECTIONS, illustrate
from vitprobe_jax.report.figures.categories import (
    cosine_by_category,
    f1_by_category,
    precision_recall_by_category,
    scores_by_category,
)
from vitprobe_jax.report.figures.illustration import Illustration
from vitprobe_jax.report.figures.layers import layer_token_heatmap
from vitprobe_jax.report.figures.masks import best_concepts, mask_examples
from vitprobe_jax.report.figures.output import save, svg
from vitprobe_jax.report.figures.pairs import centred_beside_plain, pixels_beside_patches, trained_less_control
from vitprobe_jax.report.figures.shots import scores_over_shots
from vitprobe_jax.report.figures.style import ALWAYS_POSITIVE
from vitprobe_jax.report.figures.tokens import (
    accuracy_by_token,
    accuracy_f1_by_token,
    cosine_by_token,
    precision_recall_by_token,
    precision_recall_f1_by_token,
    scores_by_token,
)

__all__ = [
    "ALWAYS_POSITIVE",
    "SECTIONS",
    "Illustration",
    "accuracy_by_token",
    "accuracy_f1_by_token",
    "best_concepts",
    "centred_beside_plain",
    "cosine_by_category",
    "cosine_by_token",
    "f1_by_category",
    "illustrate",
    "layer_token_heatmap",
    "mask_examples",
    "pixels_beside_patches",
    "precision_recall_by_category",
    "precision_recall_by_token",
    "precision_recall_f1_by_token",
    "save",
    "scores_by_category",
    "scores_by_token",
    "scores_over_shots",
    "svg",
    "trained_less_control",
]
