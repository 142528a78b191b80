"""The main study: which token, at which layer, under which rule, carries which concept.

`python -m experiments.sweep --flagfile=seg.flags --dataset=broden:DIR --backbones=DIR,DIR --out=DIR`
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from absl import flags
from etils import epath
from jaxtyping import Bool

from experiments import config as run_config
from experiments import processes
from experiments.backbones import input_digests, load_backbones, note_backbone
from experiments.cells import Design, SweepCell, paper_notes
from experiments.config import SweepConfig, require
from experiments.examples import make_examples
from experiments.labelling import label_digests, label_note, probed_concepts
from experiments.pixel_data import pixel_grid, pixel_table
from experiments.plan import BackbonePlan, format_plan
from experiments.preparation import PreparedData
from experiments.progress import expected_time, progress
from experiments.results_folder import ResultsFolder
from vitprobe_jax import cli
from vitprobe_jax.backbones.loading import Backbone
from vitprobe_jax.data import open_dataset
from vitprobe_jax.features.moments import variant_name
from vitprobe_jax.features.store import Cell
from vitprobe_jax.metrics.results import make_table
from vitprobe_jax.probes.feature_norm import CHANGES
from vitprobe_jax.report.examples import masks_path, write_examples
from vitprobe_jax.report.page import write_report
from vitprobe_jax.types import HYPERPLANE_RULES, SPLITS, Rule


def run_sweep(config: SweepConfig) -> epath.Path | None:
    """Runs a whole sweep, or with `--dry_run` says what it would do.

    Returns:
        The path of the report; None from a dry run, and in all but the first of several processes.

    Raises:
        InputError: bad input of any kind; what was finished before stays in the results folder.
    """
    mesh, local_mesh = processes.make_meshes(config.mesh)
    whole = load_backbones(config)
    backbones = [_variant(backbone, config.drop_features) for backbone in whole]
    if config.pixel_level:
        for backbone in backbones:
            pixel_grid(config, backbone)
    dataset = open_dataset(config.dataset, seed=config.seed).select(config.categories)
    dataset.require_splits(*SPLITS)
    probed = probed_concepts(config, dataset)
    folder = ResultsFolder(config.out, config.seed)
    if not config.dry_run:
        inputs = input_digests(dataset, whole) | label_digests(config, dataset)
        folder = processes.on_first(lambda: ResultsFolder.open(config, inputs)) or folder
    if note := label_note(config, dataset):
        folder.note(note)
    data = PreparedData(config, config.task, dataset, folder, mesh, local_mesh)
    if config.feature_norm != "none":
        changes = CHANGES[config.feature_norm]
        folder.note(
            f"--feature_norm={config.feature_norm}: {changes}; folded into the templates, which apply to raw tokens"
        )
    if config.seeds > 1:
        folder.note(
            f"--seeds={config.seeds}: draws and fits are repeated for the seeds {config.seed} to "
            f"{config.seed + config.seeds - 1} on the same images and features; templates/ and the examples are those of "
            f"seed {config.seed}"
        )
    if config.drop_features:
        folder.note(
            f"--drop_features={config.drop_features}: so many features of each token, those of highest variance over its "
            "training rows, are left out under every rule; templates apply to raw tokens and give them no weight"
        )
    work = [_open_cells(config, backbone, folder) for backbone in backbones]
    plans = [
        data.plan(backbone, list(dict.fromkeys(cell for cell, _, _ in todo)))
        for backbone, (todo, _) in zip(backbones, work, strict=True)
    ]
    if processes.is_first():
        finished = {plan.backbone: len(paths) - len(todo) for plan, (todo, paths) in zip(plans, work, strict=True)}
        fits = {plan.backbone: len(todo) for plan, (todo, _) in zip(plans, work, strict=True)}
        print(format_plan(plans, finished, data.bounds, fits=fits if config.seeds > 1 else {}), flush=True)
    if config.dry_run:
        _foretell(data, backbones, plans)
        return None
    for backbone, plan, (todo, _) in zip(backbones, plans, work, strict=True):
        _sweep_backbone(config, backbone, plan, set(todo), data, folder, probed)

    def finish() -> epath.Path:
        table = folder.finish([path for _, paths in work for path in paths])
        for note in paper_notes(table):
            folder.warn(note)
        folder.write_run()
        changed = any(todo for todo, _ in work) or not masks_path(config.out).exists()
        if config.task == "segmentation" and config.examples and changed:
            write_examples(config.out, make_examples(backbones, data, table))
            folder.write_run()
        return write_report(config.out)

    return processes.on_first(finish)


def _variant(backbone: Backbone, dropped: int) -> Backbone:
    """The same backbone under the name that it has with so many features left out.

    Raises:
        InputError: no feature would be left.
    """
    name, width = backbone.spec.name, backbone.spec.config.width
    require(dropped < width, "drop_features", f"{name} has {width} features; give at most {width - 1}")
    return dataclasses.replace(backbone, spec=dataclasses.replace(backbone.spec, name=variant_name(name, dropped)))


def _open_cells(
    config: SweepConfig, backbone: Backbone, folder: ResultsFolder
) -> tuple[list[tuple[Cell, Rule, int]], list[epath.Path]]:
    """What is not finished of a backbone, as the first process sees it, and the paths of all its cells' rows.

    A cell of this list is a block and token, a rule, and a seed.
    """
    seeds = [seeded.seed for seeded in config.by_seed()]
    places = itertools.product(config.blocks(backbone.spec.config.depth), config.tokens)
    all_cells = list(itertools.product(places, config.fitted_rules, seeds))
    paths = [folder.sweep_cell(backbone.spec.name, *cell, rule, seed) for cell, rule, seed in all_cells]
    there = np.array([processes.is_first() and path.exists() for path in paths])
    there = processes.from_first(there)
    return [item for item, finished in zip(all_cells, there, strict=True) if not finished], paths


def _sweep_backbone(
    config: SweepConfig,
    backbone: Backbone,
    plan: BackbonePlan,
    todo: set[tuple[Cell, Rule, int]],
    data: PreparedData,
    folder: ResultsFolder,
    probed: Bool[np.ndarray, " K"],
) -> None:
    """All open cells of one backbone, from as few passes over the images as fit the memory.

    Seed by seed within a pass, as the draws of one seed may take gigabytes; the rows of the pass are read again for each.
    """
    spec = backbone.spec
    note_backbone(backbone, config.task, folder)
    labels = design = None
    last_seeds = {cell: seed for cell, _, seed in sorted(todo, key=lambda item: item[2])}
    for cells in plan.passes:
        data.extract(backbone, plan, cells)
        if labels is None:
            # Only now is it known which images cannot be decoded.
            labels = {split: data.labels(backbone, split) for split in SPLITS}
        for seeded in config.by_seed():
            open_cells = [
                cell for cell in cells if any((cell, rule, seeded.seed) in todo for rule in config.fitted_rules)
            ]
            named = f"{spec.name}, seed {seeded.seed}" if config.seeds > 1 else spec.name
            if open_cells and (design is None or design.seed != seeded.seed):
                with folder.stage(f"draw, {named}", "concepts", int(probed.sum())):
                    design = Design.draw(labels["train"], labels["val"], seeded, probed)
                mining_note = design.mining_note(seeded) if "hyperplane" in config.rules else ""
                if mining_note:
                    folder.note(f"{named}: {mining_note}")
            for cell in progress(open_cells, total=len(open_cells), label=f"{named} probes", unit="token"):
                rules = [rule for rule in config.fitted_rules if (cell, rule, seeded.seed) in todo]
                tables = [data.table(backbone, split, cell, labels[split], plan) for split in SPLITS]
                work = SweepCell(seeded, data.dataset.name, spec, cell, design, *tables)
                for rule in rules:
                    _fit(work, rule, named, data, backbone, folder)
                if seeded.seed == last_seeds[cell]:
                    data.release(backbone, cell)


def _fit(
    work: SweepCell, rule: Rule, named: str, data: PreparedData, backbone: Backbone, folder: ResultsFolder
) -> None:
    """Fits and tests one cell under one rule and seed, and writes what it finds; `named` is what stages call it."""
    layer, token = work.cell
    with folder.stage(f"{rule}, {named} {layer} {token}", "concepts", int(work.design.probed.sum())):
        templates, rows, notes = work.run(rule)
    if work.config.pixel_level and rule in HYPERPLANE_RULES:
        pixels = pixel_table(data, backbone, work.cell)
        with folder.stage(f"pixels, {named} {layer} {token}", "images", pixels.num_images):
            rows += work.pixel_rows(templates, pixels, rows)
    for note in notes:
        folder.warn(f"seed {work.config.seed}: {note}" if data.config.seeds > 1 else note)
    if processes.is_first():
        folder.add_cell(templates, make_table(rows), work.config.seed)


def _foretell(data: PreparedData, backbones: Sequence[Backbone], plans: Sequence[BackbonePlan]) -> None:
    """Prints how long the extraction of every backbone will take, by its first batches."""
    for backbone, plan in zip(backbones, plans, strict=True):
        if plan.cells:
            rate = data.trial(backbone, plan.passes[0])
            print(f"  {expected_time(plan.backbone, rate, plan.images)}", flush=True)


def main(argv: Sequence[str]) -> None:
    """Runs the sweep that the flags ask for and says where its report is."""
    processes.carry_out(argv, run_config.sweep_config, run_sweep)


if __name__ == "__main__":
    run_config.define_sweep_flags()
    flags.adopt_module_key_flags(run_config)  # --help lists the flags of this program, not only of this file
    cli.run(
        main,
        flagfile_package="experiments.flags",
        interrupted=processes.INTERRUPTED,
    )
