"""Which optimiser, learning rate and feature norm hyperplanes want: measured on held-out data, printed as a table.

`python -m experiments.protocol --dataset=shapes:400 --backbones=untrained_dino_tiny`

takes the flags of the sweep. Every combination of `SETTINGS` and of feature norms fits the same pools of the same tokens;
accuracy and F1 are means over concepts, tokens and backbones of the held-out split. docs/protocol.md holds such tables and
the choice of defaults that they led to.
"""

import dataclasses
import itertools
import tempfile
from collections.abc import Iterator, Sequence

import numpy as np
from absl import flags
from etils import epath

from experiments import config as run_config
from experiments.backbones import input_digests, load_backbones
from experiments.cells import Design, SweepCell
from experiments.config import SweepConfig
from experiments.labelling import probed_concepts
from experiments.plan import BackbonePlan
from experiments.preparation import PreparedData
from experiments.processes import make_meshes
from experiments.progress import progress
from experiments.results_folder import ResultsFolder
from vitprobe_jax import cli
from vitprobe_jax.backbones.loading import Backbone
from vitprobe_jax.data import open_dataset
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.store import Cell
from vitprobe_jax.types import FEATURE_NORMS, SPLITS

SETTINGS = (
    ("sgd", 1e-2),
    ("sgd", 1e-1),
    ("sgd", 1.0),
    ("adam", 1e-3),
    ("adam", 1e-2),
    ("adam", 1e-1),
    ("lbfgs", 1.0),
)
"""Optimisers with their learning rates; lbfgs searches its own."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One combination on one token of one backbone.

    Attributes:
        feature_norm: of the combination.
        optimizer: of the combination.
        learning_rate: of the combination.
        token: which token.
        accuracy: mean balanced accuracy over the concepts, held out.
        f1: mean balanced F1.
        warned: the sweep would have warned of regressions that overshot, or skipped diverged ones.
    """

    feature_norm: str
    optimizer: str
    learning_rate: float
    token: str
    accuracy: float
    f1: float
    warned: bool


def outcomes(config: SweepConfig) -> Iterator[Outcome]:
    """Every combination on every token of every backbone."""
    backbones = load_backbones(config)
    dataset = open_dataset(config.dataset, seed=config.seed).select(config.categories)
    dataset.require_splits(*SPLITS)
    with tempfile.TemporaryDirectory() as temporary:
        run = dataclasses.replace(config, out=epath.Path(temporary) / "run")
        folder = ResultsFolder.open(run, input_digests(dataset, backbones))
        data = PreparedData(run, config.task, dataset, folder, *make_meshes(config.mesh))
        for backbone in backbones:
            plan = data.plan(
                backbone, list(itertools.product(config.blocks(backbone.spec.config.depth), config.tokens))
            )
            for cells in plan.passes:
                data.extract(backbone, plan, cells)
                yield from _outcomes_of_pass(config, data, backbone, plan, cells)


def _outcomes_of_pass(
    config: SweepConfig, data: PreparedData, backbone: Backbone, plan: BackbonePlan, cells: Sequence[Cell]
) -> Iterator[Outcome]:
    labels = {split: data.labels(backbone, split) for split in SPLITS}
    design = Design.draw(labels["train"], labels["val"], config, probed_concepts(config, data.dataset))
    for cell in progress(cells, total=len(cells), label=backbone.spec.name, unit="token"):
        tables = [data.table(backbone, split, cell, labels[split], plan) for split in SPLITS]
        for norm, (optimizer, rate) in itertools.product(FEATURE_NORMS, SETTINGS):
            hyperplane = dataclasses.replace(config.hyperplane, optimizer=optimizer, learning_rate=rate)
            tried = dataclasses.replace(config, feature_norm=norm, hyperplane=hyperplane)
            work = SweepCell(tried, data.dataset.name, backbone.spec, cell, design, *tables)
            _, rows, notes = work.run("hyperplane")
            fitted = [row for row in rows if row["skipped"] is None]
            diverged = any("diverged" in (row["skipped"] or "") for row in rows)
            accuracy, f1 = (float(np.mean([row[name] for row in fitted] or [0.0])) for name in ("accuracy", "f1"))
            yield Outcome(norm, optimizer, rate, cell[1], accuracy, f1, bool(notes) or diverged)
        data.release(backbone, cell)


def format_outcomes(tried: Sequence[Outcome]) -> str:
    """A Markdown table: a line a combination, accuracy by token, then means; the best mean of a column is bold."""
    tokens = list(dict.fromkeys(outcome.token for outcome in tried))
    lines: dict[tuple[str, str], list[float]] = {}
    warned: dict[tuple[str, str], float] = {}
    for norm, (optimizer, rate) in itertools.product(FEATURE_NORMS, SETTINGS):
        mine = [o for o in tried if (o.feature_norm, o.optimizer, o.learning_rate) == (norm, optimizer, rate)]
        key = (norm, optimizer if optimizer == "lbfgs" else f"{optimizer} {rate:g}")
        by_token = [float(np.mean([o.accuracy for o in mine if o.token == token])) for token in tokens]
        lines[key] = [*by_token, *(float(np.mean([getattr(o, name) for o in mine])) for name in ("accuracy", "f1"))]
        warned[key] = float(np.mean([o.warned for o in mine]))
    best = np.max(list(lines.values()), axis=0)
    header = ["feature norm", "optimiser", *tokens, "accuracy", "F1", "warned"]
    text = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for key, values in lines.items():
        shown = [f"**{v:.3f}**" if v >= top - 5e-4 else f"{v:.3f}" for v, top in zip(values, best, strict=True)]
        text.append("| " + " | ".join([*key, *shown, f"{warned[key]:.0%}"]) + " |")
    return "\n".join(text)


def main(argv: Sequence[str]) -> None:
    """Prints the table of the data set and backbones that the flags name."""
    if len(argv) > 1:
        raise InputError(f"unexpected argument {argv[1]!r}; every option is a flag (--help lists them)")
    flags.FLAGS.out = flags.FLAGS.out or "unused"
    print(format_outcomes(list(outcomes(run_config.sweep_config(flags.FLAGS)))))


if __name__ == "__main__":
    run_config.define_sweep_flags()
    flags.adopt_module_key_flags(run_config)
    cli.run(main, flagfile_package="experiments.flags")
