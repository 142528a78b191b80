"""Flags -> one frozen, validated record. The flags that all studies share are defined here, once."""

import dataclasses
import functools
import itertools
import math
import os
import re
from collections.abc import Sequence
from typing import ClassVar

from absl import flags
from etils import epath

from vitprobe_jax.errors import InputError
from vitprobe_jax.probes.hyperplane import DEFAULT_MEMORY_MB, SOLVERS, HyperplaneConfig, Solver
from vitprobe_jax.types import (
    ALL_TOKENS,
    FEATURE_NORMS,
    PATCH_LABELS,
    RULES,
    TASKS,
    TOKENS,
    FeatureNorm,
    PatchLabel,
    Rule,
    Task,
    Token,
)

_SHARED_CACHE = "several processes meet there: name a folder or a bucket that all of them reach"
_NOTHING_TO_KEEP = "this study keeps no features, as every epoch sees other crops of the images; leave it out"
RULE_OF_SOLVER: dict[Solver, Rule] = {"lbfgs": "hyperplane", "paper": "hyperplane_paper"}
"""What results call hyperplanes that were fitted by each solver."""
ASKED_RULES = tuple(rule for rule in RULES if rule != RULE_OF_SOLVER["paper"])
"""The values of `--rules`; `--solver` selects which hyperplane rules are fitted."""
SOLVER_FLAGS: dict[Solver, dict[str, str]] = {
    "lbfgs": {"penalty": "penalty"},
    "paper": {"epochs": "epochs", "probe_batch": "batch_size", "learning_rate": "learning_rate"},
}
"""The flags that one solver alone reads, and their fields in `HyperplaneConfig`."""
CROPS = ("auto", "family", "none")
DTYPES = ("float32", "bfloat16")
LABEL_CATEGORIES = ("primary", "all")
NOT_IN_RESULTS = (
    "out",
    "resume",
    "dry_run",
    "cache_dir",
    "num_workers",
    "host_memory",
    "device_memory",
    "probe_memory",
    "mesh",
    "coordinator",
    "num_processes",
    "process_id",
    "examples",
    "knn_memory",
)
"""Fields that change where, how fast, and what is kept beside the results; never the results."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """What every long command asks for: data, devices and processes, a folder, a seed.

    Attributes are the flags of the same names (`--help`).
    """

    dataset: str
    num_workers: int
    out: epath.Path
    seed: int
    resume: bool
    mesh: int
    coordinator: str
    num_processes: int | None
    process_id: int | None

    def __post_init__(self):
        require(bool(self.dataset), "dataset", "name one, as shapes:400 or broden:DIR")
        require(self.num_workers >= 0, "num_workers", "must be 0 (threads) or more")
        require(self.mesh >= 0, "mesh", "must be 0 (as the machine has) or more")
        given = (self.num_processes is not None, self.process_id is not None)
        named = self.coordinator not in ("", "auto")
        require(given == (named, named), "coordinator", "HOST:PORT, --num_processes and --process_id go together")
        require(
            not named or 0 <= self.process_id < self.num_processes,
            "process_id",
            "must be from 0 to --num_processes - 1",
        )
        require(0 <= self.seed < 2**32, "seed", "must be a number from 0 to 2^32 - 1")
        require(str(self.out) != "", "out", "name a results folder")

    def resolved(self) -> dict:
        """Every field, JSON-ready."""
        record = dataclasses.asdict(self)
        return {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in record.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(LaunchConfig):
    """What every study asks for beside: backbones, tokens, extraction.

    Attributes are the flags of the same names (`--help`); `image_size` is (height, width); it and `gsd` are None for the
    backbone's own.
    """

    backbones: tuple[str, ...]
    tokens: tuple[Token, ...]
    layers: str | tuple[int | str, ...]
    image_size: tuple[int, int] | None
    gsd: float | None
    batch_size: int
    dtype: str
    crop: str
    patch_label: PatchLabel
    max_images: int
    patches_per_image: int
    host_memory: int
    device_memory: int
    cache_dir: epath.Path | None
    dry_run: bool

    keeps_rows: ClassVar[bool] = True
    """Whether the study extracts rows that are kept, so that its processes meet in a cache."""

    def __post_init__(self):
        super().__post_init__()
        require(bool(self.backbones), "backbones", "name one at least")
        require(len(set(self.backbones)) == len(self.backbones), "backbones", "a name stands twice")
        require(self.gsd is None or 0 < self.gsd < math.inf, "gsd", "must be a number of metres above 0")
        require(self.batch_size >= 1, "batch_size", "must be at least 1")
        require(self.max_images >= 0, "max_images", "must be 0 (all) or more")
        require(self.patches_per_image >= 0, "patches_per_image", "must be 0 (all) or more")
        for flag in ("host_memory", "device_memory"):
            require(getattr(self, flag) >= 0, flag, "must be 0 (as the machine has) or more")
        if self.keeps_rows:
            require(not self.coordinator or self.cache_dir is not None, "cache_dir", _SHARED_CACHE)
        else:
            for flag in ("cache_dir", "host_memory", "device_memory"):
                require(not getattr(self, flag), flag, _NOTHING_TO_KEEP)

    def blocks(self, depth: int) -> tuple[int, ...]:
        """The wanted block numbers of a model with `depth` blocks."""
        if self.layers == "all":
            return tuple(range(depth))
        named = (self.layers,) if isinstance(self.layers, str) else self.layers
        return tuple(sorted({depth - 1 if layer == "last" else layer for layer in named}))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepConfig(RunConfig):
    """The main study's own flags beside the shared ones.

    Attributes are the flags of the same names (`--help`); `hyperplane` holds the protocol's numbers for all solvers, see
    `hyperplane_of`.
    """

    task: Task
    rules: tuple[Rule, ...]
    solver: tuple[Solver, ...]
    shots: tuple[int, ...]
    trials: int
    categories: tuple[str, ...]
    label_categories: str
    min_positives: int
    feature_norm: FeatureNorm
    drop_features: int
    hyperplane: HyperplaneConfig
    probe_memory: int
    pixel_level: bool
    examples: bool
    seeds: int

    def __post_init__(self):
        super().__post_init__()
        last = "must be at least 1, and --seed + --seeds at most 2^32: the last seed is --seed + --seeds - 1"
        require(self.seeds >= 1 and self.seed + self.seeds <= 2**32, "seeds", last)
        require(bool(self.shots) and min(self.shots) >= 1, "shots", "name one at least, each 1 or more")
        require(len(set(self.shots)) == len(self.shots), "shots", "a number stands twice")
        require(self.trials >= 1, "trials", "must be at least 1")
        require(self.min_positives >= 1, "min_positives", "must be at least 1")
        require(self.drop_features >= 0, "drop_features", "must be 0 (none) or more")
        require(self.probe_memory >= 1, "probe_memory", "must be at least 1")
        pixels_of_patches = "its score maps need every patch, which --patches_per_image leaves out; drop one of the two"
        require(not (self.pixel_level and self.patches_per_image), "pixel_level", pixels_of_patches)
        pixels_of_images = "--task=classification has one row an image and no score maps; give --nopixel_level"
        require(not (self.pixel_level and self.task == "classification"), "pixel_level", pixels_of_images)

    @property
    def fitted_rules(self) -> tuple[Rule, ...]:
        """The rules as results call them: hyperplanes once for each solver."""
        solved = tuple(RULE_OF_SOLVER[solver] for solver in self.solver)
        chosen = {rule for own in self.rules for rule in (solved if own == "hyperplane" else (own,))}
        return tuple(rule for rule in RULES if rule in chosen)

    def hyperplane_of(self, rule: Rule) -> HyperplaneConfig:
        """The protocol's numbers under one of the hyperplane rules."""
        (solver,) = (solver for solver, own in RULE_OF_SOLVER.items() if own == rule)
        return dataclasses.replace(self.hyperplane, solver=solver)

    def resolved(self) -> dict:
        """Every field, JSON-ready, without the numbers of solvers that are not asked for: nothing depends on them."""
        record = super().resolved()
        unread = {field for solver in SOLVERS if solver not in self.solver for field in SOLVER_FLAGS[solver].values()}
        read = {name: value for name, value in record["hyperplane"].items() if name not in {"solver", *unread}}
        return record | {"hyperplane": read}

    def by_seed(self) -> "tuple[SweepConfig, ...]":
        """The configuration of each seed's draws and fits: those of a sweep with this `--seed` on the same features."""
        return tuple(dataclasses.replace(self, seed=self.seed + i, seeds=1) for i in range(self.seeds))


class _Definer:
    """absl's DEFINE functions for one set of flags."""

    def __init__(self, values: flags.FlagValues):
        self.string = functools.partial(flags.DEFINE_string, flag_values=values)
        self.list = functools.partial(flags.DEFINE_list, flag_values=values)
        self.float = functools.partial(flags.DEFINE_float, flag_values=values)
        self.integer = functools.partial(flags.DEFINE_integer, flag_values=values)
        self.enum = functools.partial(flags.DEFINE_enum, flag_values=values)
        self.boolean = functools.partial(flags.DEFINE_boolean, flag_values=values)


def define_launch_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """The flags of `LaunchConfig`; every long command calls this once."""
    define = _Definer(values)
    define.string(
        "dataset",
        "",
        "What to probe: broden:DIR, imagefolder:DIR, imagenet200:DIR, cub200:DIR, cars:DIR, pets:DIR, food101:DIR, "
        "ucmerced:DIR, resisc45:DIR, cityscapes:DIR, ade20k:DIR, fair1m:DIR, tfds:NAME or "
        "shapes:N (procedural, N images); experiments.local and experiments.aggregate take several, by commas, the one "
        "mot16:DIR, mot17:DIR, mot20:DIR and bdd100k:DIR too, the other coco:DIR and nuswide:DIR.",
    )
    define.integer("num_workers", 0, "Processes that decode images; 0 decodes in threads.")
    define.string("out", "", "Results folder, or gs://BUCKET/NAME.")
    define.integer("mesh", 0, "Devices of each process to use; 0 for all.")
    define.string(
        "coordinator",
        "",
        "For a run of several processes: auto on a Cloud TPU slice, under Slurm or Open MPI; else HOST:PORT of the first.",
    )
    define.integer("num_processes", None, "How many there are, with --coordinator=HOST:PORT.")
    define.integer("process_id", None, "Which of them this one is, from 0.")
    define.integer("seed", 0, "All randomness.")
    define.boolean("resume", False, "Go on where a stopped run with the same flags left off.")


def define_run_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """The flags of `RunConfig`; every study calls this once."""
    define_launch_flags(values)
    define = _Definer(values)
    define.list(
        "backbones",
        [],
        "Converted backbone folders, patterns of such as 'zoo/*' (in their names' order), or bundled names.",
    )
    define.list(
        "tokens",
        list(TOKENS),
        f"Tokens to probe, of {','.join(ALL_TOKENS)}; the rotated ones are q and k after RoPE, where a model has it; x2_raw "
        "is the output of a block before the final norm.",
    )
    define.string("layers", "last", "Blocks to probe: last, all, or numbers from 0 on, as 0,5,11 or 7,last.")
    define.string("image_size", "", "Side in pixels, as 224, or HEIGHTxWIDTH; default: each backbone's own.")
    define.float(
        "gsd",
        None,
        "Metres a pixel of the images as --image_size leaves them, for backbones whose positions know it (Scale-MAE); "
        "default: each backbone's own.",
    )
    define.integer("batch_size", 32, "Images a forward pass; rounded down to a power of two.")
    define.enum("dtype", "float32", DTYPES, "Of the forward pass and of the feature table.")
    define.enum(
        "crop",
        "auto",
        CROPS,
        "family: resize the short side and crop the centre as the family's evaluation does; none: the whole image is "
        "resized to --image_size; auto: none for segmentation, family otherwise.",
    )
    define.enum("patch_label", "majority", PATCH_LABELS, "How a mask becomes one label a patch.")
    define.integer("max_images", 0, "Use at most so many images of each split, drawn by --seed; 0 for all.")
    define.integer(
        "patches_per_image", 0, "Keep so many labelled patches of each image, drawn by --seed; 0 for all patches."
    )
    define.integer(
        "host_memory", 0, "MiB of features that a process may hold in memory at a time; 0 for half of the machine's."
    )
    define.integer(
        "device_memory",
        0,
        "MiB of features that may lie on a device at a time; larger tables are streamed. 0: 60% of an accelerator's memory, "
        "a quarter of the machine's on a CPU.",
    )
    define.string(
        "cache_dir", "", "Keep extracted features here, in a folder or as gs://BUCKET/NAME; a later sweep reuses them."
    )
    define.boolean("dry_run", False, "Print what would be done, with memory, disk and time, and do nothing.")


def define_sweep_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """The flags of `SweepConfig`."""
    define_run_flags(values)
    define = _Definer(values)
    define.enum("task", "segmentation", TASKS, "Probe patches (segmentation) or [CLS] (classification).")
    define.list("rules", ["hyperplane", "cosine"], f"Decision rules, of {','.join(ASKED_RULES)}.")
    define.list(
        "solver",
        ["lbfgs"],
        "How hyperplanes are fitted, of lbfgs (to the minimum of their loss) and paper (the paper's few epochs of SGD, "
        "which stop before it); of both, results call the second rule hyperplane_paper.",
    )
    define.list("shots", ["1", "5", "10", "50", "100", "500"], "Support images of cosine templates.")
    define.integer("trials", 10, "Random draws of support images.")
    define.integer(
        "seeds",
        1,
        "Repeat all draws (pools, support sets, queries) and fits with this many seeds, from --seed on, on the same images "
        "and features; intervals and tests then include seeds.",
    )
    define.list("categories", [], "Concept categories to probe; default: all but color.")
    define.enum(
        "label_categories",
        "primary",
        LABEL_CATEGORIES,
        "primary: a label of several categories is one concept, in the category that it covers most of; all: a concept in "
        "each, so that it counts twice in means and tests.",
    )
    define.integer(
        "min_positives", 5, "Concepts with fewer positive training rows are reported as skipped, not probed."
    )
    define.enum(
        "feature_norm",
        "none",
        FEATURE_NORMS,
        "Normalisation of features by training statistics, for cosine templates and --solver=paper; --solver=lbfgs "
        "standardises features itself.",
    )
    define.integer(
        "drop_features",
        0,
        "Leave out so many features of each token, those of highest variance over its training rows; results call the "
        "backbone NAME-200.",
    )
    defaults = HyperplaneConfig()
    define.float(
        "penalty",
        defaults.penalty,
        "--solver=lbfgs: weight of |w|^2 / 2 beside the mean cross-entropy of a hyperplane, on standardised features.",
    )
    define.float(
        "learning_rate",
        defaults.learning_rate,
        "--solver=paper: learning rate of SGD, on features as --feature_norm leaves them.",
    )
    define.integer("probe_batch", defaults.batch_size, "--solver=paper: rows of a gradient step.")
    define.integer("epochs", defaults.epochs, "--solver=paper: passes over a round's rows.")
    define.integer("rounds", defaults.rounds, "Rounds of hard-negative mining; the first trains on random negatives.")
    define.integer("pool_ratio", defaults.pool_ratio, "Negative pool of a concept, in positives.")
    define.integer("negative_ratio", defaults.negative_ratio, "Negatives of a round, in positives.")
    define.integer("probe_memory", DEFAULT_MEMORY_MB, "MiB that fitting hyperplanes may take beside the feature table.")
    define.boolean(
        "pixel_level",
        False,
        "Segmentation: evaluate hyperplanes on pixels too, by score maps that are enlarged to the masks.",
    )
    define.boolean("examples", True, "Segmentation: keep images with what templates found on them, for the report.")


def launch_values(values: flags.FlagValues) -> dict:
    """The fields of `LaunchConfig` from parsed flags."""
    return {
        "dataset": values.dataset,
        "num_workers": values.num_workers,
        "out": epath.Path(values.out).expanduser() if values.out else _missing("out", "name a results folder"),
        "seed": values.seed,
        "resume": values.resume,
        "mesh": values.mesh,
        "coordinator": values.coordinator,
        "num_processes": values.num_processes,
        "process_id": values.process_id,
    }


def run_values(values: flags.FlagValues) -> dict:
    """The fields of `RunConfig` from parsed flags."""
    return launch_values(values) | {
        "backbones": tuple(itertools.chain.from_iterable(map(_expanded, values.backbones))),
        "tokens": choices("tokens", values.tokens, ALL_TOKENS),
        "layers": _layers(values.layers),
        "image_size": image_size("image_size", values.image_size),
        "gsd": values.gsd,
        "batch_size": values.batch_size,
        "dtype": values.dtype,
        "crop": values.crop,
        "patch_label": values.patch_label,
        "max_images": values.max_images,
        "patches_per_image": values.patches_per_image,
        "host_memory": values.host_memory,
        "device_memory": values.device_memory,
        "cache_dir": epath.Path(values.cache_dir).expanduser() if values.cache_dir else None,
        "dry_run": values.dry_run,
    }


def sweep_config(values: flags.FlagValues) -> SweepConfig:
    """The sweep's record from parsed flags.

    Raises:
        InputError: a value that makes no sense, or a flag that nothing asked for would read; names the flag.
    """
    rules = choices("rules", values.rules, ASKED_RULES)
    solver = tuple(sorted(choices("solver", values.solver, SOLVERS), key=SOLVERS.index))
    _require_read(values, rules, solver)
    return SweepConfig(
        **run_values(values),
        task=values.task,
        rules=rules,
        solver=solver,
        shots=tuple(sorted(numbers("shots", values.shots))),
        trials=values.trials,
        categories=tuple(values.categories),
        label_categories=values.label_categories,
        min_positives=values.min_positives,
        feature_norm=values.feature_norm,
        drop_features=values.drop_features,
        hyperplane=HyperplaneConfig(
            rounds=values.rounds,
            epochs=values.epochs,
            pool_ratio=values.pool_ratio,
            negative_ratio=values.negative_ratio,
            batch_size=values.probe_batch,
            penalty=values.penalty,
            learning_rate=values.learning_rate,
        ),
        probe_memory=values.probe_memory,
        pixel_level=values.pixel_level,
        examples=values.examples,
        seeds=values.seeds,
    )


def _require_read(values: flags.FlagValues, rules: Sequence[Rule], solver: Sequence[Solver]) -> None:
    """Refuses flags that were given, on the command line or in a flag file, but that would change nothing."""
    for own, names in SOLVER_FLAGS.items():
        for name in names:
            mend = f"applies to --solver={own} only; add it or remove the flag"
            require(own in solver or not values[name].present, name, mend)
    reads_norm = "cosine" in rules or ("hyperplane" in rules and "paper" in solver)
    require(
        reads_norm or not values["feature_norm"].present or values.feature_norm == "none",
        "feature_norm",
        "applies to --rules=cosine and --solver=paper only; add one of them or remove the flag",
    )


def _expanded(name: str) -> list[str]:
    """The name; of a pattern, the converted folders that match it, but those half written: their names begin with a dot."""
    path = epath.Path(name).expanduser()
    plain = list(itertools.takewhile(lambda part: not re.search(r"[*?[]", part), path.parts))
    if len(plain) == len(path.parts) or path.exists():
        return [name]
    matching = epath.Path(*plain).glob("/".join(path.parts[len(plain) :]))
    shown = [folder for folder in matching if not folder.name.startswith(".")]
    found = sorted(os.fspath(folder) for folder in shown if (folder / "backbone.json").exists())
    require(
        bool(found), "backbones", f"{name!r} matches no converted folder (one with a backbone.json); check the pattern"
    )
    return found


def _layers(text: str) -> str | tuple[int | str, ...]:
    """`last`, `all`, or block numbers, ascending, with `last` at the end where it stands among them."""
    if text in ("last", "all"):
        return text
    named = [part.strip() for part in text.split(",")]
    last = ("last",) if "last" in named else ()
    return tuple(sorted(set(numbers("layers", [part for part in named if part != "last"])))) + last


def image_size(flag: str, text: str) -> tuple[int, int] | None:
    """Height and width from `224` or `224x448`; None from nothing."""
    if not text:
        return None
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    require(bool(match) and int(match[1]) > 0 and match[2] != "0", flag, f"{text!r} is not 224 or 224x448")
    return int(match[1]), int(match[2] or match[1])


def numbers(flag: str, texts: Sequence[str]) -> tuple[int, ...]:
    """Whole numbers from the parts of a list flag."""
    wrong = [text for text in texts if not re.fullmatch(r"\d+", text.strip())]
    require(not wrong, flag, f"{', '.join(map(repr, wrong))} is not a whole number")
    return tuple(int(text) for text in texts)


def choices(flag: str, values: Sequence[str], allowed: Sequence[str]) -> tuple[str, ...]:
    """The parts of a list flag, each one of those that are allowed and none twice; one at least."""
    unknown = [value for value in values if value not in allowed]
    require(not unknown, flag, f"{', '.join(map(repr, unknown))} unknown; choose from {', '.join(allowed)}")
    require(bool(values), flag, f"name one at least of {', '.join(allowed)}")
    require(len(set(values)) == len(values), flag, "a value stands twice")
    return tuple(values)


def require(holds: bool, flag: str, mend: str) -> None:
    """Refuses a flag's value with an `InputError` that says how to mend it, unless the condition holds."""
    if not holds:
        _missing(flag, mend)


def _missing(flag: str, mend: str):
    raise InputError(f"--{flag}: {mend}")
