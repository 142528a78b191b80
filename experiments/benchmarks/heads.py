"""One epoch of 24 heads on the same tokens, all at once, against PyTorch: one by one, and all together.

The heads are four representations at six learning rates, trained by LARS. Tokens are in memory and in batches before the
clock starts; all contenders start from the same parameters and see the same batches in the same order. One by one, each
head is a module with a pass over the tokens of its own; together, all modules are in one pass, with one sum of losses and
one `backward`. Quality is how far loss curves are from the library's, and where they end.

Modules project every patch to keys and values; the library folds these products away (`probes.pooling`) and stacks the
heads. The last contender has this mathematics written out by hand for these four representations: it tells how much of
the ratios is the mathematics. It is no part of the last line's number, which is about modules as they are written.
"""

import dataclasses

import jax
import numpy as np
from jaxtyping import Float, Int

from experiments.benchmarks.comparison import Comparison
from experiments.benchmarks.config import BenchConfig
from experiments.benchmarks.planted import STRENGTH
from experiments.benchmarks.timing import Work, measure
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.frozen import ImageTokens
from vitprobe_jax.features.table import deal, make_mesh
from vitprobe_jax.probes.head_training import add_micro_batch, apply_gradients, zero_gradients
from vitprobe_jax.probes.heads import HeadsConfig, init_heads
from vitprobe_jax.probes.pooling import parse_pooling

NEEDS = ("torch",)
DEFAULTS = {"rows": 1024, "concepts": 200, "patches": 196}
REPRESENTATIONS = ("mean", "cls", "abmilp_1", "attentive_12")
RATES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Of LARS at the peak, for which 0.1 to 3.2 is usual: an epoch here has few steps, and losses should move."""
BATCH = 256
"""Images of a batch, which is a step."""
TOGETHER = "PyTorch, all together"
INFORMATIVE = 4
"""One patch in so many carries the image's class, beside [CLS]."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """Tokens of images, the classes they carry, and the heads that are trained on them."""

    cls: Float[np.ndarray, "batches B D"]
    patches: Float[np.ndarray, "batches B P D"]
    labels: Int[np.ndarray, "batches B"]
    heads: HeadsConfig


def draw_problem(config: BenchConfig) -> Problem:
    """The images of whole batches; noise of deviation 1, and the direction of a class in [CLS] and some of the patches."""
    batches, size = config.rows // BATCH, BATCH
    if not batches:
        raise InputError(f"--rows={config.rows}: less than a batch; give {BATCH} images or more")
    rng = np.random.default_rng(config.seed)
    directions = rng.standard_normal((config.concepts, config.width), dtype=np.float32)
    directions *= STRENGTH / np.linalg.norm(directions, axis=1, keepdims=True)
    labels = rng.integers(config.concepts, size=(batches, size)).astype(np.int32)
    tokens = rng.standard_normal((batches, size, 1 + config.patches, config.width), dtype=np.float32)
    tokens[:, :, ::INFORMATIVE] += directions[labels][:, :, None]
    heads = HeadsConfig(
        poolings=tuple(map(parse_pooling, REPRESENTATIONS)),
        rates=RATES,
        seeds=(config.seed,),
        num_classes=config.concepts,
        multilabel=False,
        width=config.width,
        optimizer="lars",
        steps=batches,
        warmup_steps=0,
    )
    return Problem(tokens[:, :, 0].copy(), tokens[:, :, 1:].copy(), labels, heads)


def compare(config: BenchConfig) -> list[Comparison]:
    """Measures the contenders."""
    contenders = {
        "vitprobe_jax": (prepare_library,),
        "PyTorch, one by one": (prepare_modules, False),
        TOGETHER: (prepare_modules, True),
        "PyTorch, folded by hand": (prepare_stacked,),
    }
    measured = measure(contenders, config)
    curves = [measurement.evidence for measurement in measured]
    apart = [float(np.max(np.abs(curve - curves[0]) / curves[0])) for curve in curves[1:]]
    quality = {
        "first loss": [float(curve[:, 0].mean()) for curve in curves],
        "last loss": [float(curve[:, -1].mean()) for curve in curves],
        "curves apart": [None, *apart],
    }
    images = config.rows // BATCH * BATCH
    title = (
        f"heads: {len(REPRESENTATIONS)} representations x {len(RATES)} rates, an epoch of {images} images x "
        f"{1 + config.patches} tokens x {config.width}, {config.concepts} classes, {BATCH} images a step"
    )
    return [Comparison(title, measured, quality)]


def headline(comparisons: list[Comparison]) -> tuple[str, float]:
    """The last line's words and number: all ratios, last and as the number that of all modules together."""
    ((library, *rivals),) = [comparison.measurements for comparison in comparisons]
    ratios = {rival.name: rival.seconds / library.seconds for rival in rivals}
    joint = ratios.pop(TOGETHER)
    words = [f"{name} / vitprobe_jax {ratio:.2f}" for name, ratio in ratios.items()]
    return "; ".join([*words, f"{TOGETHER} / vitprobe_jax"]), joint


def prepare_library(config: BenchConfig) -> Work:
    """All heads in one call a batch, on all devices."""
    problem, mesh = draw_problem(config), make_mesh()
    valid = np.ones(BATCH, np.float32)
    batches = [
        deal((ImageTokens(cls, patches, {}), labels, valid), mesh)
        for cls, patches, labels in zip(problem.cls, problem.patches, problem.labels, strict=True)
    ]
    jax.block_until_ready(batches)

    def run():
        state = init_heads(problem.heads, mesh)
        curve = []
        for batch in batches:
            gradients = zero_gradients(problem.heads, mesh, state)
            state, gradients = add_micro_batch(problem.heads, mesh, state, gradients, *batch)
            state, losses = apply_gradients(problem.heads, mesh, state, gradients)
            curve.append(losses)
        return jax.block_until_ready((curve, state))[0]

    def evidence(curve):
        return np.stack([np.concatenate([losses[name] for name in REPRESENTATIONS]) for losses in curve], axis=1)

    return Work(run, evidence)


def prepare_modules(config: BenchConfig, together: bool) -> Work:
    """A module a head, one after the other or all in one pass with one backward pass a batch."""
    from experiments.benchmarks.heads_rivals import train_modules

    problem = draw_problem(config)
    batches = _torch_batches(problem)
    return Work(lambda: train_modules(problem.heads, batches, together=together), lambda curves: curves)


def prepare_stacked(config: BenchConfig) -> Work:
    """What the library does, by hand."""
    from experiments.benchmarks.heads_rivals import train_stacked

    problem = draw_problem(config)
    batches = _torch_batches(problem)
    return Work(lambda: train_stacked(problem.heads, batches), lambda curves: curves)


def _torch_batches(problem: Problem):
    import torch

    labels = problem.labels.astype(np.int64)
    return [tuple(map(torch.from_numpy, batch)) for batch in zip(problem.cls, problem.patches, labels, strict=True)]
