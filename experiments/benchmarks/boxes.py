"""Boxes of maps scored against true ones, beside OpenCV: what localisation does for every map of attention.

A map has the weights of 14 x 14 patches of an image of `--image_size`, as attention has them: most patches are nearly
equal, a few stand out. Both contenders enlarge it and take the boxes of all contours at each threshold of the benchmark of
weakly supervised localisation (1,000, as in its code), and each uses all of the machine's cores. Two true boxes an image.

Quality: the share of (map, threshold) at which both rules, the largest contour's box and any contour's, have the library's
overlap. Each enlarges its maps itself, and they differ in the last bits of float32, so a pixel may have another level here
and there.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float

from experiments.benchmarks.comparison import Comparison
from experiments.benchmarks.config import BenchConfig
from experiments.benchmarks.timing import Work, measure
from vitprobe_jax.metrics.localisation import best_ious, box_iou, map_to_image

NEEDS = ("cv2",)
DEFAULTS = {}
MAPS, GRID = 48, 14
THRESHOLDS = np.linspace(0.0, 1.0, 1000, endpoint=False)


def compare(config: BenchConfig) -> list[Comparison]:
    """Measures both on the same maps."""
    contenders = {"vitprobe_jax": (prepare_library,), "OpenCV findContours": (prepare_opencv,)}
    measured = measure(contenders, config)
    ours, theirs = (np.asarray(one.evidence) for one in measured)
    equal = float(np.mean(np.abs(ours - theirs) < 1e-6))
    title = f"boxes: {MAPS} maps of {config.image_size} pixels a side, {len(THRESHOLDS)} thresholds"
    return [Comparison(title, measured, {"overlaps equal": [None, equal]})]


def plant_maps(config: BenchConfig) -> tuple[Float[np.ndarray, "N P P"], list[Float[np.ndarray, "2 4"]]]:
    """Softmax weights of patches, and two true boxes of each image."""
    generator = np.random.default_rng(config.seed)
    logits = generator.standard_normal((MAPS, GRID, GRID))
    # Neighbours are alike, and some maps are sharper than others.
    smooth = sum(np.roll(logits, (i, j), (1, 2)) for i in (-1, 0, 1) for j in (-1, 0, 1)) / 3
    weights = np.exp(smooth * generator.uniform(0.5, 2.5, (MAPS, 1, 1)))
    weights = (weights / weights.sum(axis=(1, 2), keepdims=True)).astype(np.float32)
    corners = np.sort(generator.integers(0, config.image_size, (MAPS, 2, 2, 2)), axis=2)
    boxes = np.concatenate([corners[:, :, 0], corners[:, :, 1] + 1], axis=2).astype(float)
    return weights, list(boxes)


def prepare_library(config: BenchConfig) -> Work:
    """As part `localisation` scores maps."""
    size = config.image_size, config.image_size

    def score(weights, truth):
        return np.stack(best_ious(map_to_image(weights, size), truth, THRESHOLDS))

    return _on_all_cores(score, config)


def prepare_opencv(config: BenchConfig) -> Work:
    """The same arithmetic with OpenCV's resize, threshold and contours, one threshold after the other."""
    import cv2

    cv2.setNumThreads(1)
    side = config.image_size

    def score(weights, truth):
        enlarged = cv2.resize(weights, (side, side), interpolation=cv2.INTER_CUBIC)
        enlarged = enlarged - enlarged.min()
        levels = (enlarged / enlarged.max() * 255).astype(np.uint8)
        found = np.zeros((2, len(THRESHOLDS)))
        for t, threshold in enumerate(THRESHOLDS):
            _, above = cv2.threshold(levels, int(threshold * levels.max()), 255, cv2.THRESH_BINARY)
            contours, _ = cv2.findContours(above, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
            corners = np.array([cv2.boundingRect(contour) for contour in contours], float)
            corners[:, 2:] = np.minimum(corners[:, :2] + corners[:, 2:] + 1, side)
            overlaps = box_iou(corners, truth).max(axis=1)
            areas = [cv2.contourArea(contour) for contour in contours]
            found[:, t] = overlaps[int(np.argmax(areas))], overlaps.max()
        return found

    return _on_all_cores(score, config)


def _on_all_cores(score, config: BenchConfig) -> Work:
    weights, truth = plant_maps(config)

    def run():
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return np.stack(list(pool.map(score, weights, truth)))

    return Work(run, lambda found: found)
