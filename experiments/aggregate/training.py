"""All heads of one backbone, trained at once by epochs of random crops; gone on with after a stop, kept when finished.

One pass of the frozen backbone over a batch feeds every representation, learning rate and initialisation. What an epoch
sees hangs on the seed and its number alone, and a checkpoint stands after each, so a training that was stopped ends in the
bytes of one that was not.
"""

import dataclasses
import json
import os
from collections.abc import Iterator

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jaxtyping import Float

from experiments import processes
from experiments.aggregate.steps import Steps
from experiments.aggregate.stream import Placed, fetched
from experiments.aggregate.workbench import Workbench
from experiments.progress import progress
from vitprobe_jax.atomic import is_remote, write_whole
from vitprobe_jax.data.random_crops import CroppedSplit
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.store import Cell
from vitprobe_jax.probes.head_files import load_heads, save_heads
from vitprobe_jax.probes.head_training import add_micro_batch, apply_gradients, zero_gradients
from vitprobe_jax.probes.heads import HeadsConfig, HeadsState, init_heads
from vitprobe_jax.report.measured.pictures import picture_stem


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedHeads:
    """What a training came to.

    Attributes:
        config: which heads.
        state: their parameters, on every device.
        losses: of each representation, mean training loss by epoch and member.
    """

    config: HeadsConfig
    state: HeadsState
    losses: dict[str, Float[np.ndarray, "epochs M"]]

    def diverged(self, name: str, rate: int) -> int | None:
        """The first epoch, from 1, in which a member of this rate (its place) had no finite loss; None for none."""
        seeds = len(self.config.seeds)
        broken = ~np.isfinite(self.losses[name][:, rate * seeds : (rate + 1) * seeds]).all(axis=1)
        return int(np.argmax(broken)) + 1 if broken.any() else None


def heads_config(bench: Workbench) -> HeadsConfig:
    """The heads that the parts of this run need of a backbone."""
    config, steps = bench.config, _steps(bench)
    epochs = config.epochs_of(bench.backbone.spec.config)
    return HeadsConfig(
        poolings=tuple(pooling for pooling in config.poolings if bench.unfit(pooling) is None),
        rates=tuple(rate * steps.batch / 256 for rate in config.rates),
        seeds=tuple(config.seed + i for i in range(config.probe_seeds)),
        num_classes=len(bench.dataset.concepts),
        multilabel=bench.dataset.multilabel,
        width=bench.backbone.spec.config.width,
        optimizer=config.optimizer,
        momentum=config.momentum,
        steps=epochs * steps.count,
        warmup_steps=min(config.warmup_epochs, epochs // 2) * steps.count,
    )


def train_heads(bench: Workbench, cell: Cell) -> TrainedHeads:
    """Trains all heads of a cell, goes on with them, or reads them where they are finished.

    Raises:
        InputError: images that cannot be decoded, a checkpoint or heads that are damaged, a disk that refuses.
    """
    config = heads_config(bench)
    stem = picture_stem(bench.dataset.name, "heads", *cell)
    path = bench.folder.path / "heads" / bench.backbone.spec.name / f"{stem}.safetensors"
    curve_path = path.with_suffix(".json")
    finished = processes.is_first() and path.exists() and curve_path.exists()
    if not processes.from_first(np.array(finished)):
        _train(bench, cell, config, path)
    return TrainedHeads(config, load_heads(path, config, bench.mesh), _read_losses(curve_path))


def _steps(bench: Workbench) -> Steps:
    config, images = bench.config, len(bench.drawn.labelled("train"))
    if not images:
        raise InputError(
            f"--dataset: no training image of {bench.dataset.name} has a class; give one whose images have"
        )
    return Steps.of(
        images, step_images=config.train_batch, micro_batch=config.micro_batch, multiple=bench.stream.fitting(1)
    )


def _label(bench: Workbench) -> str:
    return f"heads, {bench.backbone.spec.name} on {bench.dataset.name}"


def training_plan(bench: Workbench) -> str:
    """What a training takes, as a line of text."""
    config, steps = heads_config(bench), _steps(bench)
    epochs = bench.config.epochs_of(bench.backbone.spec.config)
    return (
        f"{_label(bench)}: {len(config.poolings)} representations x {len(config.rates)} rates x {len(config.seeds)} seeds, "
        f"{epochs} epochs of {steps.images} images in {steps.count} steps of {steps.batch}; {steps.micro} images share "
        "BatchNorm's statistics"
    )


def _train(bench: Workbench, cell: Cell, config: HeadsConfig, path: epath.Path) -> None:
    """The training itself; ends with the heads under `path` and without its checkpoints."""
    epochs = bench.config.epochs_of(bench.backbone.spec.config)
    _tell(bench, epochs)
    state, curve = init_heads(config, bench.mesh), []
    folder = bench.folder.path / "checkpoints" / bench.backbone.spec.name / path.stem
    with _checkpoints(folder) as checkpoints:
        done = checkpoints.latest_step() or 0
        if done:
            state, curve = _restore(checkpoints, done, state)
        with bench.folder.stage(_label(bench), "images", (epochs - done) * _steps(bench).images):
            for epoch in range(done + 1, epochs + 1):
                state, losses = _epoch(bench, cell, config, state, epoch)
                curve.append({name: values.tolist() for name, values in losses.items()})
                items = ocp.args.Composite(state=ocp.args.StandardSave(state), curve=ocp.args.JsonSave(curve))
                checkpoints.save(epoch, args=items)

    def finish() -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_heads(path, config, jax.tree.map(np.asarray, state))
            write_whole(path.with_suffix(".json"), (json.dumps(curve) + "\n").encode())
            folder.rmtree()
        except OSError as error:
            raise InputError(
                f"--out: {path} cannot be written ({error.strerror or error}); make room, then go on with --resume"
            ) from error

    processes.on_first(finish)


def _epoch(
    bench: Workbench, cell: Cell, config: HeadsConfig, state: HeadsState, epoch: int
) -> tuple[HeadsState, dict[str, Float[np.ndarray, " M"]]]:
    """One pass over the training images; the mean loss of every member."""
    steps, targets = _steps(bench), bench.drawn.targets("train")
    weights = [pooling.weights for pooling in config.poolings if pooling.kind == "given"]
    gradients, collected, left_out = zero_gradients(config, bench.mesh, state), [], 0
    label = f"{_label(bench)}, epoch {epoch} of {bench.config.epochs_of(bench.backbone.spec.config)}"
    micro_batches = progress(_crops(bench, steps, epoch), total=steps.count * steps.turns, label=label, unit="batch")
    for turn, placed in enumerate(micro_batches, 1):
        left_out += int(np.sum((placed.indices >= 0) & ~placed.valid))
        tokens = bench.tokens(placed.images, cell, weights)
        of_images = bench.stream.put(targets[np.maximum(placed.indices, 0)])
        valid = bench.stream.put(placed.valid.astype(np.float32))
        state, gradients = add_micro_batch(config, bench.mesh, state, gradients, tokens, of_images, valid)
        if turn % steps.turns == 0:
            state, losses = apply_gradients(config, bench.mesh, state, gradients)
            gradients = zero_gradients(config, bench.mesh, state)
            collected.append(losses)
    # Once is enough; epochs that fill no step leave out other images each.
    if epoch == 1:
        bench.note_left_out("training", left_out)
    collected = [{name: fetched(loss) for name, loss in losses.items()} for losses in collected]
    return state, {name: np.mean([losses[name] for losses in collected], axis=0) for name in collected[0]}


def _crops(bench: Workbench, steps: Steps, epoch: int) -> Iterator[Placed]:
    """The micro batches of an epoch: random resized crops, mirrored or not."""
    size, preprocess = bench.eval_transform.size, bench.backbone.spec.preprocess
    cropped = CroppedSplit(
        bench.drawn.splits["train"],
        size,
        seed=bench.config.seed,
        epoch=epoch,
        interpolation=preprocess.interpolation,
    )
    order = steps.order(bench.drawn.labelled("train"), bench.config.seed, epoch)
    return bench.stream.batches(cropped, Transform(size, "none"), steps.micro, order)


def _tell(bench: Workbench, epochs: int) -> None:
    """Notes what readers must know of the protocol on this data set."""
    config, steps = bench.config, _steps(bench)
    if steps.batch < config.train_batch:
        bench.folder.note(
            f"{bench.dataset.name}: a step has all its {steps.batch} training images, fewer than the "
            f"{config.train_batch} of --train_batch; learning rates are scaled to it"
        )
    if config.warmup_epochs > epochs // 2:
        bench.folder.note(f"of {epochs} epochs {epochs // 2} are warm-up, not --warmup_epochs={config.warmup_epochs}")
    for pooling in config.poolings:
        reason = bench.unfit(pooling)
        if reason:
            bench.folder.note(f"{bench.backbone.spec.name}: no {pooling.name}, as {reason}")


def _checkpoints(folder: epath.Path) -> ocp.CheckpointManager:
    if not is_remote(folder):
        folder = epath.Path(os.path.abspath(folder))
    options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
    return ocp.CheckpointManager(folder, options=options)


def _restore(checkpoints: ocp.CheckpointManager, epoch: int, state: HeadsState) -> tuple[HeadsState, list[dict]]:
    items = ocp.args.Composite(state=ocp.args.StandardRestore(state), curve=ocp.args.JsonRestore())
    try:
        found = checkpoints.restore(epoch, args=items)
    # Orbax and tensorstore raise many kinds for a damaged checkpoint; none of them is a bug of ours.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{checkpoints.directory}: epoch {epoch} cannot be read ({reason}); delete the folder, then go on with --resume"
        ) from error
    logging.info("went on after epoch %d of %s", epoch, checkpoints.directory)
    return found["state"], found["curve"]


def _read_losses(path: epath.Path) -> dict[str, Float[np.ndarray, "epochs M"]]:
    try:
        curve = json.loads(path.read_text())
        return {name: np.array([epoch[name] for epoch in curve], np.float64) for name in curve[0]}
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(f"{path}: is damaged ({error}); delete it, then go on with --resume") from error
