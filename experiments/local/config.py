"""The flags of study 2 beside those that all studies share."""

import dataclasses
from typing import get_args

from absl import flags

from experiments.config import RunConfig, choices, define_run_flags, image_size, numbers, require, run_values
from vitprobe_jax.data.corruptions import CORRUPTIONS
from vitprobe_jax.data.transformations import RETRIEVALS
from vitprobe_jax.probes.knn import Metric

PARTS = (
    "patches",
    "variance",
    "corruptions",
    "retrieval",
    "tracking",
    "reconstruction",
    "context",
    "layers",
    "scale",
)
TILINGS = ("tiles", "whole")
METHODS = ("knn", "knn_batchnorm", "linear", "linear_gradient", "linear_batchnorm")
FIGURE_METHODS = ("knn", "linear", "linear_batchnorm")
"""Those of the curves of parts variance and corruptions."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalConfig(RunConfig):
    """Study 2's own flags beside the shared ones.

    Attributes are the flags of the same names (`--help`); `whole_size` is (height, width), None for each data set's own.
    """

    parts: tuple[str, ...]
    images_per_group: tuple[int, ...]
    val_images_per_group: int | None
    tiling: tuple[str, ...]
    tile: int
    whole_size: tuple[int, int] | None
    methods: tuple[str, ...]
    neighbours: tuple[int, ...]
    metric: str
    drop_features: tuple[int, ...]
    corruptions: tuple[str, ...]
    transformations: tuple[str, ...]
    gaps: tuple[int, ...]
    native_gsd: float | None
    gsds: tuple[float, ...]
    knn_memory: int
    examples: int

    def __post_init__(self):
        super().__post_init__()
        require(len(set(self.datasets)) == len(self.datasets), "dataset", "a data set stands twice")
        require(self.patches_per_image == 0, "patches_per_image", "the local study needs every patch; leave it out")
        require((self.val_images_per_group or 0) >= 0, "val_images_per_group", "must be 0 (all) or more")
        require(
            len(set(self.images_per_group)) == len(self.images_per_group), "images_per_group", "a number stands twice"
        )
        require(self.tile >= 0, "tile", "must be 0 (each data set's own) or more")
        require(min(self.neighbours) >= 1, "neighbours", "must be 1 or more each")
        require(max(self.neighbours) <= 200, "neighbours", "must be at most 200 each")
        require(min(self.gaps) >= 1, "gaps", "must be 1 frame or more each")
        require(self.native_gsd is None or self.native_gsd > 0, "native_gsd", "must be a number of metres above 0")
        require(all(gsd > 0 for gsd in self.gsds), "gsds", "must be numbers of metres above 0")
        require(self.knn_memory >= 1, "knn_memory", "must be at least 1")
        require(self.examples >= 0, "examples", "must be 0 or more")

    @property
    def datasets(self) -> tuple[str, ...]:
        """What `--dataset` names."""
        return tuple(self.dataset.split(","))


def define_local_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """The flags of `LocalConfig`."""
    define_run_flags(values)
    values.set_default("tokens", ["x2"])
    listed, integer, number = (
        lambda name, default, text, define=define: define(name, default, text, flag_values=values)
        for define in (flags.DEFINE_list, flags.DEFINE_integer, flags.DEFINE_float)
    )
    listed(
        "parts",
        list(PARTS),
        f"What to measure, of {','.join(PARTS)}; each part on every data set that has what it needs.",
    )
    listed(
        "images_per_group",
        [],
        "Sizes of the training draw: images of each city, class or kind of tile; 0 for all. The largest is that of the "
        "parts that need only one. Default: each data set's own, those of the paper (4 of Cityscapes and ADE20K, 8 of "
        "FAIR1M); part patches compares 2, 4 and 8 of Cityscapes.",
    )
    integer(
        "val_images_per_group",
        None,
        "Images of each group of the held-out draw; 0 for all. Default: each data set's own (10, of ADE20K 2).",
    )
    listed(
        "tiling",
        ["tiles"],
        "How images larger than the model's are fed: tiles (cut, and put together again), whole (resampled positions), or "
        "both for the parts that compare them.",
    )
    integer("tile", 0, "Side in pixels of a tile, which is resized to --image_size; 0 for each data set's own.")
    flags.DEFINE_string(
        "whole_size",
        "",
        "HEIGHTxWIDTH that whole images are resized to; default: the first image's own, down to whole patches.",
        flag_values=values,
    )
    listed("methods", list(METHODS), f"How patches are classified, of {','.join(METHODS)}.")
    listed("neighbours", ["1"], "Numbers k of nearest neighbours that vote, at most 200.")
    flags.DEFINE_enum("metric", "l2", get_args(Metric), "Distance of nearest neighbours.", flag_values=values)
    listed(
        "drop_features",
        ["0", "200"],
        "Variants of every backbone: how many features of highest variance over the training draw are left out.",
    )
    listed("corruptions", list(CORRUPTIONS), f"Kinds of corrupted images, of {','.join(CORRUPTIONS)}.")
    listed(
        "transformations", list(RETRIEVALS), f"Kinds of images whose patches are looked for, of {','.join(RETRIEVALS)}."
    )
    listed(
        "gaps", ["1", "2", "4", "8", "16", "32", "64"], "Frames between a tracked object and where it is looked for."
    )
    number("native_gsd", None, "Metres a pixel of the images of part scale, as they are.")
    listed(
        "gsds", [], "Metres a pixel that part scale resizes images to; default: once, twice and four times their own."
    )
    integer("knn_memory", 256, "MiB that the search for neighbours may take on a device, beside the features.")
    integer("examples", 4, "Images that pictures of predictions and reconstructions are kept of, for the report.")


def local_config(values: flags.FlagValues) -> LocalConfig:
    """The study's record from parsed flags.

    Raises:
        InputError: a value that makes no sense; names the flag.
    """
    gsds = [text.strip() for text in values.gsds]
    return LocalConfig(
        **run_values(values),
        parts=choices("parts", values.parts, PARTS),
        images_per_group=_sizes(numbers("images_per_group", values.images_per_group)),
        val_images_per_group=values.val_images_per_group,
        tiling=choices("tiling", values.tiling, TILINGS),
        tile=values.tile,
        whole_size=image_size("whole_size", values.whole_size),
        methods=choices("methods", values.methods, METHODS),
        neighbours=tuple(sorted(set(_some("neighbours", values.neighbours)))),
        metric=values.metric,
        drop_features=tuple(sorted(set(_some("drop_features", values.drop_features)))),
        corruptions=choices("corruptions", values.corruptions, tuple(CORRUPTIONS)),
        transformations=choices("transformations", values.transformations, tuple(RETRIEVALS)),
        gaps=tuple(sorted(set(_some("gaps", values.gaps)))),
        native_gsd=values.native_gsd,
        gsds=tuple(sorted(_metres(text) for text in gsds)),
        knn_memory=values.knn_memory,
        examples=values.examples,
    )


def _some(flag: str, texts: list[str]) -> tuple[int, ...]:
    require(bool(texts), flag, "name one number at least")
    return numbers(flag, texts)


def _sizes(counts: tuple[int, ...]) -> tuple[int, ...]:
    """Ascending, with 0, which is all, at the end."""
    return tuple(sorted(counts, key=lambda count: (count == 0, count)))


def _metres(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        require(False, "gsds", f"{text!r} is no number of metres")
