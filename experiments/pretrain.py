"""Trains a small ViT by DINO's or MAE's recipe: `python -m experiments.pretrain --objective=dino --out=out/dino`.

OUT/NAME is a backbone folder as `checkpoints_convert` writes them, with the recipe and the training curve beside the
weights; OUT/checkpoints is what `--resume` goes on from. The bundled `dino_shapes_tiny` and `mae_shapes_tiny` came from it.
"""

import contextlib
import csv
import dataclasses
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import flags
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import UInt8

from experiments import config as run_config
from experiments import processes
from experiments.config import NOT_IN_RESULTS, LaunchConfig, define_launch_flags, launch_values, require
from experiments.progress import progress
from experiments.results_folder import enter_folder, package_versions
from vitprobe_jax import cli
from vitprobe_jax.atomic import is_remote
from vitprobe_jax.backbones.config import BackboneSpec, DecoderConfig, Preprocess, ViTConfig, sized
from vitprobe_jax.backbones.families import FAMILIES
from vitprobe_jax.backbones.saving import save_backbone, streamed
from vitprobe_jax.data import open_dataset
from vitprobe_jax.data.dataset import Dataset, ImageSubset
from vitprobe_jax.data.pipeline import image_batches
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.table import DATA_AXIS, replicate
from vitprobe_jax.pretraining.dino import DINO
from vitprobe_jax.pretraining.mae import MAE
from vitprobe_jax.pretraining.training import PARTS, Objective, Schedule, TrainState, init_state, train_step

OBJECTIVES = ("dino", "mae")
_HEADS = {"dino": 3, "mae": 4}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig(LaunchConfig):
    """What `python -m experiments.pretrain` asks for; attributes are its flags."""

    objective: str
    name: str
    image_size: int
    patch_size: int
    width: int
    depth: int
    num_heads: int
    steps: int
    batch_size: int
    learning_rate: float
    checkpoint_every: int
    log_every: int
    decoder: bool

    def __post_init__(self):
        super().__post_init__()
        for flag in (
            "image_size",
            "patch_size",
            "width",
            "depth",
            "steps",
            "batch_size",
            "checkpoint_every",
            "log_every",
        ):
            require(getattr(self, flag) >= 1, flag, "must be at least 1")
        require(
            self.image_size % self.patch_size == 0, "image_size", f"is no multiple of --patch_size={self.patch_size}"
        )
        require(self.batch_size % PARTS == 0, "batch_size", f"must be a multiple of {PARTS}")
        part = self.batch_size // PARTS
        require(part <= 4 or part % 4 == 0, "batch_size", f"must be a multiple of {4 * PARTS}, or below")
        require(self.learning_rate > 0, "learning_rate", "must be positive")
        require(self.width % 4 == 0, "width", "must be a multiple of 4, for the sines and cosines of positions")
        require(not is_remote(self.out), "out", "a training needs a local folder; copy the backbone afterwards")
        name = re.fullmatch(r"\w[\w.+-]*", self.name)
        require(
            bool(name), "name", f"{self.name!r} is no name for a backbone; use letters, digits, '_', '.', '+' and '-'"
        )

    @property
    def vit(self) -> ViTConfig:
        """The architecture."""
        side = self.image_size // self.patch_size
        return sized(
            FAMILIES[self.objective].architectures[0],
            patch_size=self.patch_size,
            width=self.width,
            depth=self.depth,
            num_heads=self.num_heads or _HEADS[self.objective],
            mlp_dim=4 * self.width,
            grid=(side, side),
        )

    @property
    def preprocess(self) -> Preprocess:
        """Images come at the size that the network sees: no margin is cut off."""
        return Preprocess(resize_ratio=1.0)

    def command(self) -> str:
        """What asks for the same training again."""
        names = [field.name for field in dataclasses.fields(self) if field.name not in NOT_IN_RESULTS]
        given = [f"--{name}={getattr(self, name)}" for name in names]
        return " ".join(["python -m experiments.pretrain", *given, "--out=DIR"])

    def method(self) -> Objective:
        """The objective: published constants, but for crops scaled to the image, and what is said below."""
        if self.objective == "mae":
            decoder = DecoderConfig(width=64, depth=2, num_heads=4, mlp_dim=256)
            return MAE(self.vit, decoder, self.preprocess)
        # A half and a quarter of the image's side, in whole patches: tokens are what training time goes into.
        crops = [max(1, round(share * self.vit.grid[0])) * self.patch_size for share in (1 / 2, 1 / 4)]
        # Published: momentum 0.996, temperature 0.04, 65,536 prototypes, for hundreds of thousands of steps. In a thousand
        # the teacher has to follow faster, and sharper targets end the phase sooner in which all images look alike to it.
        return DINO(self.vit, self.preprocess, *crops, prototypes=512, teacher_temperature=0.02, momentum=0.98)

    def schedule(self) -> Schedule:
        """The published optimiser; its rate is higher and its warm-up shorter, for a training of a thousand steps."""
        common = {"steps": self.steps, "warmup": self.steps // 10, "learning_rate": self.learning_rate}
        if self.objective == "mae":
            return Schedule(**common, final_rate=0.0, weight_decay=0.05, final_weight_decay=0.05, clip=0.0)
        return Schedule(**common, final_rate=1e-6, weight_decay=0.04, final_weight_decay=0.4, clip=3.0)


def pretrain(config: PretrainConfig) -> Path | None:
    """Trains, or goes on with, one backbone.

    Returns:
        Its folder; None in all but the first of several processes.

    Raises:
        InputError: bad input of any kind; checkpoints stay.
    """
    mesh, _ = processes.make_meshes(config.mesh)
    if PARTS % mesh.size:
        raise InputError(f"--mesh: {mesh.size} devices cannot share {PARTS} parts of a batch; use 1, 2, 4 or 8")
    dataset = open_dataset(config.dataset, seed=config.seed)
    dataset.require_splits("train")
    require(len(dataset.splits["train"]) >= config.batch_size, "batch_size", "the data set has fewer images")
    processes.on_first(lambda: enter_folder(config, {f"the content of {dataset.name}": dataset.fingerprint}))
    objective, schedule = config.method(), config.schedule()
    of_start, of_steps = replicate(tuple(jax.random.split(jax.random.key(config.seed))), mesh)
    state, curve = init_state(of_start, objective, schedule, mesh), []
    with _checkpoints(config) as checkpoints:
        done = checkpoints.latest_step() or 0
        if done:
            state, curve = _restore(checkpoints, done, state)
        sharding = NamedSharding(mesh, PartitionSpec(DATA_AXIS))
        rate = schedule.rate
        batches = _batches(config, dataset, done)
        for step, images in zip(
            progress(range(done + 1, config.steps + 1), total=config.steps - done, label=config.name, unit="step"),
            batches,
            strict=False,
        ):
            images = jax.make_array_from_process_local_data(sharding, images)
            state, shown = train_step(of_steps, state, images, objective, schedule, mesh)
            if step % config.log_every == 0 or step == config.steps:
                record = {"step": step, "learning_rate": float(rate(step - 1))}
                curve.append(record | {name: float(value) for name, value in shown.items()})
                _check_finite(curve[-1])
            if step % config.checkpoint_every == 0 or step == config.steps:
                items = ocp.args.Composite(state=ocp.args.StandardSave(state), curve=ocp.args.JsonSave(curve))
                checkpoints.save(step, args=items)
        batches.close()
    return processes.on_first(lambda: _finish(config, dataset, objective, schedule, state, curve))


def _batches(config: PretrainConfig, dataset: Dataset, done: int) -> Iterator[UInt8[np.ndarray, "B height width 3"]]:
    """This process' part of every batch from step `done` on: epochs in seeded orders, what fills no batch left out."""
    split = dataset.splits["train"]
    size, own = config.batch_size, processes.share(config.batch_size)
    transform = Transform((config.image_size, config.image_size), "family", 1.0, config.preprocess.interpolation)
    by_epoch = len(split) // size
    while True:
        epoch, first = divmod(done, by_epoch)
        order = np.random.default_rng([config.seed, epoch]).permutation(len(split))[: by_epoch * size]
        mine = order.reshape(by_epoch, size)[first:, own.start : own.stop]
        images = ImageSubset(split, mine.ravel())
        with contextlib.closing(
            image_batches(images, transform, batch_size=len(own), num_workers=config.num_workers)
        ) as batches:
            for batch in batches:
                if batch.errors:
                    raise InputError(batch.errors[0][1])
                yield batch.images
        done += by_epoch - first


def _checkpoints(config: PretrainConfig) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
    return ocp.CheckpointManager(Path(config.out).resolve() / "checkpoints", options=options)


def _restore(checkpoints: ocp.CheckpointManager, step: int, state: TrainState) -> tuple[TrainState, list[dict]]:
    items = ocp.args.Composite(state=ocp.args.StandardRestore(state), curve=ocp.args.JsonRestore())
    try:
        found = checkpoints.restore(step, args=items)
    # Orbax and tensorstore raise many kinds for a damaged checkpoint; none of them is a bug of ours.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{checkpoints.directory}: step {step} cannot be read ({reason}); name another --out"
        ) from error
    return found["state"], found["curve"]


def _check_finite(record: dict) -> None:
    if not np.isfinite(record["loss"]):
        raise InputError(f"--learning_rate: the loss is {record['loss']} at step {record['step']}; give a lower one")


def _finish(
    config: PretrainConfig,
    dataset: Dataset,
    objective: Objective,
    schedule: Schedule,
    state: TrainState,
    curve: list[dict],
) -> Path:
    """Writes the backbone's folder, unless it stands there from before."""
    folder = Path(config.out) / config.name
    if folder.exists():
        return folder
    encoder = jax.tree.map(np.asarray, objective.encoder(state.params, state.memory))
    recipe = {
        "command": config.command(),
        "objective": {"name": config.objective} | _record(objective),
        "schedule": _record(schedule),
        "data": {"name": dataset.name, "fingerprint": dataset.fingerprint, "images": len(dataset.splits["train"])},
        "images_seen": config.steps * config.batch_size,
        "batch_size": config.batch_size,
        "seed": config.seed,
        "versions": package_versions(),
        "devices": {"count": jax.device_count(), "kind": jax.devices()[0].device_kind},
    }
    spec = BackboneSpec(
        name=config.name,
        family=config.objective,
        objective=FAMILIES[config.objective].objective,
        config=config.vit,
        preprocess=config.preprocess,
        decoder=objective.decoder if isinstance(objective, MAE) and config.decoder else None,
        source=f"experiments.pretrain on {dataset.name}, seed {config.seed}",
    )
    decoder = jax.tree.map(np.asarray, state.params["decoder"]) if spec.decoder else {}
    extra = {"recipe.json": json.dumps(recipe, indent=1) + "\n", "curve.csv": _csv(curve)}
    save_backbone(folder, spec, streamed(encoder), streamed(decoder), extra=extra)
    return folder


def _record(record) -> dict:
    """A dataclass' fields as JSON has them."""
    fields = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    return {name: _record(value) if dataclasses.is_dataclass(value) else value for name, value in fields.items()}


def _csv(curve: Sequence[dict]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(curve[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in curve)
    return text.getvalue()


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """The flags of `PretrainConfig`."""
    define_launch_flags(values)
    values["dataset"].value = "shapes:200000"
    of = {"flag_values": values}
    flags.DEFINE_enum("objective", "dino", OBJECTIVES, "The pre-training method.", **of)
    flags.DEFINE_string("name", "", "How results call the backbone; OBJECTIVE_tiny unless given.", **of)
    flags.DEFINE_integer("image_size", 128, "Side of the images in pixels.", **of)
    flags.DEFINE_integer("patch_size", 8, "Side of a patch in pixels.", **of)
    flags.DEFINE_integer("width", 96, "Feature size.", **of)
    flags.DEFINE_integer("depth", 4, "Blocks.", **of)
    flags.DEFINE_integer("num_heads", 0, "Attention heads; 0 for 3 (dino) or 4 (mae).", **of)
    flags.DEFINE_integer("steps", 1600, "Optimiser steps.", **of)
    flags.DEFINE_integer("batch_size", 64, "Images a step, over all devices.", **of)
    flags.DEFINE_float("learning_rate", 1e-3, "The highest, after the warm-up of a tenth of the steps.", **of)
    flags.DEFINE_integer("checkpoint_every", 50, "Steps between checkpoints.", **of)
    flags.DEFINE_integer("log_every", 10, "Steps between points of the curve.", **of)
    flags.DEFINE_boolean("decoder", True, "Keep MAE's decoder beside the encoder.", **of)


def pretrain_config(values: flags.FlagValues) -> PretrainConfig:
    """The record from parsed flags.

    Raises:
        InputError: a value that makes no sense; names the flag.
    """
    names = {field.name for field in dataclasses.fields(PretrainConfig)}
    own = names - {field.name for field in dataclasses.fields(LaunchConfig)}
    given = {name: getattr(values, name) for name in own}
    given["name"] = given["name"] or f"{given['objective']}_tiny"
    return PretrainConfig(**launch_values(values), **given)


def main(argv: Sequence[str]) -> None:
    """Trains the backbone that the flags ask for and says where it is."""
    processes.carry_out(argv, pretrain_config, pretrain, "backbone")


if __name__ == "__main__":
    define_flags()
    flags.adopt_module_key_flags(run_config)
    cli.run(main, interrupted="interrupted; the last checkpoint is kept: go on with the same command and --resume")
