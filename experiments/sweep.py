"""The main study: which token, at which layer, under which rule, carries which concept.

`python -m experiments.sweep --flagfile=seg.flags --dataset=broden:DIR --backbones=DIR,DIR --out=DIR`
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags, logging
from jax.sharding import Mesh

from experiments import config as run_config
from experiments.cells import Design, SweepCell
from experiments.config import SweepConfig
from experiments.preparation import PreparedData, input_digests, load_backbones, note_backbone, progress
from experiments.results_folder import ResultsFolder
from vitprobe_jax import cli
from vitprobe_jax.backbones.loading import Backbone
from vitprobe_jax.data import open_dataset
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.table import make_mesh, place_table
from vitprobe_jax.metrics.results import make_table, write_table
from vitprobe_jax.probes.feature_norm import CHANGES
from vitprobe_jax.probes.templates import save_templates, template_path
from vitprobe_jax.report.page import write_report


def run_sweep(config: SweepConfig) -> Path:
    """Runs a whole sweep and returns the path of its report.

    Raises:
        InputError: bad input of any kind; what was finished before stays in the results folder.
    """
    backbones = load_backbones(config)
    dataset = open_dataset(config.dataset, seed=config.seed).select(config.categories)
    folder = ResultsFolder.open(config, input_digests(dataset, backbones))
    data = PreparedData(config, config.task, dataset, folder)
    if config.feature_norm != "none":
        changes = CHANGES[config.feature_norm]
        folder.note(
            f"--feature_norm={config.feature_norm}: {changes}; folded into the templates, which apply to raw tokens"
        )
    finished = [path for backbone in backbones for path in _sweep_backbone(config, backbone, data, folder, make_mesh())]
    folder.finish(finished, config.seed)
    return write_report(config.out)


def _sweep_backbone(
    config: SweepConfig, backbone: Backbone, data: PreparedData, folder: ResultsFolder, mesh: Mesh
) -> list[Path]:
    """All cells of one backbone, from one pass over each split; returns the paths of their finished rows."""
    spec = backbone.spec
    note_backbone(backbone, config.task, folder)
    cells = [(layer, token) for layer in config.blocks(spec.config.depth) for token in config.tokens]
    paths = {(cell, rule): folder.cell(spec.name, *cell, rule) for cell in cells for rule in config.rules}
    open_cells = list(dict.fromkeys(cell for (cell, _), path in paths.items() if not path.exists()))
    if open_cells:
        labels = {split: data.labels(backbone, split) for split in ("train", "val")}
        features = {split: data.features(backbone, split, open_cells, mesh) for split in ("train", "val")}
        labels = {split: labels[split].take(features[split].kept) for split in labels}
        with folder.stage(f"draw, {spec.name}", "concepts", len(data.dataset.concepts)):
            design = Design.draw(labels["train"], labels["val"], config)
        for cell in progress(open_cells, total=len(open_cells), label=f"{spec.name} probes", unit="token"):
            tables = [place_table(features[split].rows[cell], labels[split], mesh) for split in ("train", "val")]
            work = SweepCell(config, data.dataset.name, spec, cell, design, *tables)
            for rule in config.rules:
                if not paths[cell, rule].exists():
                    with folder.stage(f"{rule}, {spec.name} {cell[0]} {cell[1]}", "concepts", len(design.pools)):
                        templates, rows, notes = work.run(rule)
                    for note in notes:
                        logging.warning("%s", note)
                        folder.note(note)
                    folder.templates(spec.name).mkdir(parents=True, exist_ok=True)
                    save_templates(template_path(folder.templates(spec.name), *cell, rule), templates)
                    # The rows come last: where they stand, the cell is finished.
                    paths[cell, rule].parent.mkdir(exist_ok=True)
                    write_table(make_table(rows), paths[cell, rule])
    return list(paths.values())


def main(argv: Sequence[str]) -> None:
    """Runs the sweep that the flags ask for and says where its report is."""
    if len(argv) > 1:
        raise InputError(f"unexpected argument {argv[1]!r}; every option is a flag (--help lists them)")
    report = run_sweep(run_config.sweep_config(flags.FLAGS))
    print(f"report: {report}")


if __name__ == "__main__":
    run_config.define_sweep_flags()
    flags.adopt_module_key_flags(run_config)  # --help lists the flags of this program, not only of this file
    cli.run(main, flagfile_package="experiments.flags")
