"""Cosine templates of every concept, shot count and trial, against a loop over scikit-learn's precision_recall_curve.

The loop takes the same support images, runs on `--sample` concepts and is scaled; its thresholds must be the library's.
With one row an image, as in classification, support images hold no negatives. As long as `--patches` does not ask for one
case, images of 28 x 28 rows, which do, make a second.
"""

import dataclasses

import jax
import numpy as np
from jaxtyping import Float

from experiments.benchmarks.comparison import Comparison
from experiments.benchmarks.config import BenchConfig
from experiments.benchmarks.planted import plant
from experiments.benchmarks.timing import Work, measure
from vitprobe_jax.errors import InputError
from vitprobe_jax.probes.cosine import SLACK, fit_cosine
from vitprobe_jax.probes.feature_norm import fit_feature_norm
from vitprobe_jax.probes.sampling import draw_support
from vitprobe_jax.probes.trials import Support

NEEDS = ("sklearn",)
DEFAULTS = {"rows": 100_000, "concepts": 200}
TOLERANCE = 1e-5
"""Thresholds this near are equal: both cosines are sums of `--width` products in float32, of numbers up to 1."""


PATCHES = 28 * 28
PATCH_CONCEPTS = 4
IMAGES_A_SHOT = 4
"""The second case draws from so many times its shot count of images: 2.4 GB of rows for 500."""


def compare(config: BenchConfig) -> list[Comparison]:
    """Measures both; quality is the share of the sampled concepts' thresholds that equal the rival's."""
    if config.patches > 1:
        return [_compare(config)]
    shots = max(config.shots)
    concepts = min(PATCH_CONCEPTS, config.concepts)
    patches = {"patches": PATCHES, "rows": IMAGES_A_SHOT * shots * PATCHES, "shots": (shots,)}
    return [_compare(config), _compare(dataclasses.replace(config, **patches, concepts=concepts, sample=1))]


def _compare(config: BenchConfig) -> Comparison:
    needed = max(config.shots) * config.patches
    if config.rows < needed:
        raise InputError(f"--rows={config.rows}: fewer images than the largest of --shots; give --rows={needed}")
    contenders = {"vitprobe_jax": (prepare_library,), "precision_recall_curve loop": (prepare_loop,)}
    library, rival = measure(contenders, config)
    equal = np.abs(library.evidence + SLACK - rival.evidence) <= TOLERANCE
    quality = {
        "equal thresholds": [float(equal.mean()), 1.0],
        "mean threshold": [float(m.evidence.mean()) for m in (library, rival)],
    }
    shots = ",".join(map(str, config.shots))
    title = (
        f"cosine: {config.rows} rows x {config.width}, {config.patches} an image, {config.concepts} concepts, "
        f"shots {shots}, {config.trials} trials"
    )
    return Comparison(title, [library, rival], quality)


def prepare_library(config: BenchConfig) -> Work:
    """Everything in one call."""
    train, draw = _problem(config)
    table = train.place()
    norm = fit_feature_norm(table, kind="none")
    support = Support.of(draw, train.labels, np.arange(config.concepts, dtype=np.int32), table.mesh)

    def run():
        return jax.block_until_ready(fit_cosine(table, support, norm=norm, shots=config.shots))

    return Work(run, lambda fitted: np.asarray(fitted[1])[..., : config.sample])


def prepare_loop(config: BenchConfig) -> Work:
    """One curve a concept, trial and shot count; the threshold of the highest F1, the largest of equals."""
    from sklearn.metrics import precision_recall_curve

    train, draw = _problem(config)
    rows = train.rows.reshape(len(train.labels.slots), config.patches, -1)
    concept = train.concept.reshape(rows.shape[:2])

    def threshold(k: int, trial: int, shots: int) -> float:
        images = draw.images[k, trial, : min(shots, draw.counts[k, trial])]
        z, pos = rows[images].reshape(-1, rows.shape[-1]), concept[images].ravel() == k
        alpha = z[pos].mean(0)
        scores = z @ alpha / (np.linalg.norm(z, axis=1) * np.linalg.norm(alpha))
        precision, recall, thresholds = precision_recall_curve(pos, scores)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        # Thresholds ascend. The curve's F1 are rounded, so equal ones are those within rounding.
        return float(thresholds[np.flatnonzero(f1[:-1] >= f1[:-1].max() - 1e-12)[-1]])

    def run() -> Float[np.ndarray, "shots trials k"]:
        trials, concepts = range(config.trials), range(config.sample)
        return np.array([[[threshold(k, trial, s) for k in concepts] for trial in trials] for s in config.shots])

    return Work(run, lambda thresholds: thresholds, scale=config.concepts / config.sample)


def _problem(config: BenchConfig):
    """The training split, and the support images of every concept and trial."""
    train = plant(config, "train", patches=config.patches)
    return train, draw_support(train.labels, shots=max(config.shots), trials=config.trials, seed=config.seed)
