"""The flags of study 3 beside those that all studies share."""

import dataclasses
import math
from typing import ClassVar

from absl import flags
from etils import epath

from experiments.config import RunConfig, choices, define_run_flags, require, run_values
from vitprobe_jax.backbones.config import ViTConfig
from vitprobe_jax.features.frozen import WEIGHTS
from vitprobe_jax.probes.head_optimizers import MOMENTA
from vitprobe_jax.probes.pooling import Pooling, parse_pooling

PARTS = ("attention", "probing", "untrained", "localisation")
BATCHES = {"lars": 16384, "sgd": 1024}
"""Images of a step of each optimiser, unless `--train_batch` says otherwise."""
BATCHNORM_IMAGES = 2048
"""Images that share BatchNorm's statistics in the paper: 16,384 on 4 GPUs in two passes (Appendix B.2)."""
EPOCHS, EPOCHS_OF_LARGE, LARGE = 90, 50, 1024
"""Epochs unless `--epochs` says otherwise, those of models from this width on (L and H), as the paper has them."""
REFERENCE = "abmilp_1"
"""The trained aggregation that untrained ones are held against (Table 6), and whose weights localise (Table 8)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AggregateConfig(RunConfig):
    """Study 3's own flags beside the shared ones.

    Attributes are the flags of the same names (`--help`); `rates` are base rates.
    """

    parts: tuple[str, ...]
    representations: tuple[str, ...]
    optimizer: str
    momentum: float
    rates: tuple[float, ...]
    train_batch: int
    micro_batch: int
    epochs: int
    warmup_epochs: int
    probe_seeds: int
    train_share: float
    train_list: str
    other_backbone: str
    boxes: str
    box_thresholds: int
    examples: int

    keeps_rows: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        require(len(set(self.datasets)) == len(self.datasets), "dataset", "a data set stands twice")
        require(self.patches_per_image == 0, "patches_per_image", "aggregation needs every patch; leave it out")
        require(bool(self.representations), "representations", "name one at least, as mean,cls,abmilp_1")
        names = [parse_pooling(name).name for name in self.representations]
        require(len(set(names)) == len(names), "representations", "one stands twice")
        given = [name for name in self.representations if parse_pooling(name).kind == "given"]
        require(not given, "representations", f"{', '.join(given)} belongs to --parts=untrained; leave it out")
        require(bool(self.rates), "rates", "name one at least, as 0.1")
        require(all(0 < rate < math.inf for rate in self.rates), "rates", "must be numbers above 0")
        require(len(set(self.rates)) == len(self.rates), "rates", "a rate stands twice")
        for flag in ("train_batch", "micro_batch", "probe_seeds", "box_thresholds"):
            require(getattr(self, flag) >= 1, flag, "must be at least 1")
        for flag in ("epochs", "warmup_epochs", "examples"):
            require(getattr(self, flag) >= 0, flag, "must be 0 or more")
        require(0 <= self.momentum < 1, "momentum", "must be at least 0 and below 1")
        require(0 < self.train_share <= 1, "train_share", "must be above 0 and at most 1, which is all")
        require(
            not (self.train_list and self.train_share < 1), "train_list", "names the images: leave --train_share out"
        )

    @property
    def datasets(self) -> tuple[str, ...]:
        """What `--dataset` names."""
        return tuple(self.dataset.split(","))

    @property
    def poolings(self) -> tuple[Pooling, ...]:
        """What the parts that are asked for need trained heads of."""
        names = dict.fromkeys(self.representations) if "probing" in self.parts else {}
        if "untrained" in self.parts:
            names |= dict.fromkeys(("mean", REFERENCE, *WEIGHTS))
        if "localisation" in self.parts:
            names |= dict.fromkeys((REFERENCE,))
        return tuple(parse_pooling(name) for name in names)

    def epochs_of(self, vit: ViTConfig) -> int:
        """Epochs for a backbone."""
        return self.epochs or (EPOCHS if vit.width < LARGE else EPOCHS_OF_LARGE)


def define_aggregate_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """The flags of `AggregateConfig`."""
    define_run_flags(values)
    values.set_default("tokens", ["x2_raw"])
    values["tokens"].help += " Here x2_raw unless given: the paper takes features before the final norm."
    listed, integer, number, text, enum = (
        lambda name, default, help_text, *more, define=define: define(
            name, default, *more, help_text, flag_values=values
        )
        for define in (
            flags.DEFINE_list,
            flags.DEFINE_integer,
            flags.DEFINE_float,
            flags.DEFINE_string,
            flags.DEFINE_enum,
        )
    )
    listed(
        "parts",
        list(PARTS),
        f"What to measure, of {','.join(PARTS)}; each part on every data set that has what it needs.",
    )
    listed(
        "representations",
        ["mean", "cls", "abmilp_1", "sa_abmilp", "attentive_1", "attentive_12"],
        "Representations that part probing trains heads on: mean (of patches), cls, abmilp_1 or abmilp_DEPTH_ACTIVATION "
        "(depth 2 to 4; relu, gelu, tanh), sa_abmilp, attentive_HEADS.",
    )
    enum(
        "optimizer",
        "lars",
        "Of the heads: lars, MAE's protocol, for large sets; sgd for small ones.",
        list(BATCHES),
    )
    number(
        "momentum",
        None,
        "Momentum of the optimiser; default: 0.9 for lars, 0 for sgd, as in the paper's code. Folders of earlier versions "
        "have 0.9 for sgd too.",
    )
    listed("rates", ["0.1"], "Base learning rates, all trained at once; the highest is rate x images a step / 256.")
    integer(
        "train_batch",
        0,
        "Images of an optimiser step, gradients accumulated; 0 for 16384 with lars, 1024 with sgd; at most all there are.",
    )
    integer(
        "micro_batch",
        BATCHNORM_IMAGES,
        "Images that share BatchNorm's statistics, and whose tokens are in memory together. The paper has 2048. Lower it "
        "where memory does not suffice; results change with it.",
    )
    integer("epochs", 0, f"Of the heads; 0 for {EPOCHS}, {EPOCHS_OF_LARGE} for widths from {LARGE} on (L and H).")
    integer("warmup_epochs", 10, "Of them, those in which the rate rises; at most half of all.")
    integer(
        "probe_seeds",
        3,
        "Initialisations of every head, --seed and the numbers after it; all trained at once. The paper averages 3.",
    )
    number("train_share", 1.0, "Share of each class's training images, drawn by --seed: 0.01 for the 1% subsets.")
    text("train_list", "", "File with the names of the training images to use, one a line, as SimCLR's 1percent.txt.")
    text(
        "other_backbone",
        "",
        "Converted folder or bundled name of the backbone whose [CLS] attention part untrained aggregates by, beside each "
        "backbone's own; default: the first of family dino among --backbones.",
    )
    text(
        "boxes",
        "",
        "Folder with ImageNet's box XML for part localisation, one file an image, found by the image's name.",
    )
    integer(
        "box_thresholds", 1000, "Thresholds of a map that boxes are taken at, evenly from 0 on; 1,000 in the benchmark."
    )
    integer("examples", 6, "Images that maps and boxes are kept of, for the report.")


def aggregate_config(values: flags.FlagValues) -> AggregateConfig:
    """The study's record from parsed flags.

    Raises:
        InputError: a value that makes no sense; names the flag.
    """
    own = {field.name for field in dataclasses.fields(AggregateConfig)} - {
        field.name for field in dataclasses.fields(RunConfig)
    }
    given = {name: getattr(values, name) for name in own}
    return AggregateConfig(
        **run_values(values)
        | given
        | {
            "parts": choices("parts", values.parts, PARTS),
            "representations": tuple(name.strip() for name in values.representations),
            "train_batch": values.train_batch or BATCHES[values.optimizer],
            "momentum": MOMENTA[values.optimizer] if values.momentum is None else values.momentum,
            "rates": tuple(sorted(_rate(text) for text in values.rates)),
            "boxes": str(epath.Path(values.boxes).expanduser()) if values.boxes else "",
        }
    )


def _rate(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        require(False, "rates", f"{text!r} is no learning rate")
