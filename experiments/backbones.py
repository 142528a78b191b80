"""The backbones of a run: loaded as its flags say, the images that they are given, what readers are told of them."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

from experiments.config import RunConfig
from experiments.results_folder import ResultsFolder
from vitprobe_jax.backbones.capture import check_layers
from vitprobe_jax.backbones.config import Preprocess
from vitprobe_jax.backbones.loading import Backbone, load_backbone
from vitprobe_jax.backbones.untrained import OBJECTIVE as UNTRAINED_OBJECTIVE
from vitprobe_jax.data.dataset import Dataset
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Rows


def load_backbones(config: RunConfig) -> list[Backbone]:
    """All backbones of a run, checked against its layers and image size before any work starts.

    Raises:
        InputError: one cannot be loaded, lacks a wanted block, does not fit the image size; two have one name; none takes
            the `--gsd` that is given.
    """
    backbones = [at_gsd(load_backbone(name), config.gsd) for name in config.backbones]
    names = [backbone.spec.name for backbone in backbones]
    if len(set(names)) < len(names):
        raise InputError(f"--backbones: two are called the same ({', '.join(names)}); convert one with another --name")
    if config.gsd is not None and not any(map(_takes_gsd, backbones)):
        raise InputError("--gsd: the positions of no backbone of this run know a ground sample distance; leave it out")
    common = math.lcm(*(backbone.spec.config.patch_size for backbone in backbones))
    for backbone in backbones:
        check_layers(config.blocks(backbone.spec.config.depth), backbone.spec.config)
        height, width = make_transform(config, "segmentation", backbone).size
        patch = backbone.spec.config.patch_size
        if height % patch or width % patch:
            raise InputError(
                f"--image_size: {height}x{width} is no multiple of the patch size {patch} of {backbone.spec.name}; sides "
                f"that are multiples of {common} suit every backbone of this run"
            )
    return backbones


def _takes_gsd(backbone: Backbone) -> bool:
    return backbone.spec.config.positions == "gsd"


def at_gsd(backbone: Backbone, gsd: float | None) -> Backbone:
    """The backbone for images of so many metres a pixel, where its positions know that; as it is for None."""
    if gsd is None or not _takes_gsd(backbone):
        return backbone
    config = dataclasses.replace(backbone.spec.config, gsd=gsd)
    return dataclasses.replace(backbone, spec=dataclasses.replace(backbone.spec, config=config))


def input_digests(dataset: Dataset, backbones: Sequence[Backbone]) -> dict[str, str]:
    """What a run's results depend on beside its flags, by what a user would call it."""
    weights = {f"the weights of {backbone.spec.name}": backbone.spec.params_sha256 for backbone in backbones}
    return {f"the content of {dataset.name}": dataset.fingerprint} | weights


def make_transform(config: RunConfig, task: Rows, backbone: Backbone) -> Transform:
    """How images reach this backbone under the run's flags."""
    spec = backbone.spec
    crop = config.crop
    if crop == "auto":
        crop = "none" if task == "segmentation" else "family"
    size = config.image_size or spec.image_size
    return family_transform(spec.preprocess, size, crop)


def family_transform(preprocess: Preprocess, size: tuple[int, int], crop: Literal["family", "none"]) -> Transform:
    """How images of any size become `size`, in pixels, by a backbone's record."""
    return Transform(
        size,
        crop,
        preprocess.ratio_at(size),
        preprocess.interpolation,
        preprocess.resize_rounding,
        preprocess.aspect,
        preprocess.crop_rounding,
    )


def note_backbone(backbone: Backbone, task: Rows, folder: ResultsFolder) -> None:
    """Writes down what a reader of the results must know of a backbone, and which file it was converted from."""
    spec = backbone.spec
    folder.backbones[spec.name] = spec.source
    if spec.objective == UNTRAINED_OBJECTIVE:
        folder.note(
            f"{spec.name} is an untrained control: random weights; its numbers say what architecture alone gives"
        )
    if _takes_gsd(backbone):
        folder.note(f"{spec.name}: its positions are those of images of {spec.config.gsd:g} m a pixel (--gsd)")
    if task == "classification" and spec.config.pool != "class":
        reason = "it was fine-tuned on this mean, not on [CLS]" if spec.config.class_token else "it has no [CLS]"
        beside = (
            "; its own global representation, a predictor's, is no token" if spec.config.pool == "predictor" else ""
        )
        folder.note(f"{spec.name}: the mean of its patch tokens stands for the image, as {reason}{beside}")
