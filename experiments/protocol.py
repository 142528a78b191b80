"""What the solver of hyperplanes and its settings do to held-out scores and to the order of tokens, printed as a table.

`python -m experiments.protocol --dataset=shapes:400 --backbones=untrained_dino_tiny --seeds=3`

takes the flags of the sweep but those that it tries itself. Every one of `SETTINGS` fits the same pools of the same tokens.
Numbers are means over concepts, then tokens and backbones, of the held-out split; with several seeds, means over seeds and
their standard deviation. docs/protocol.md holds such tables and the choice of defaults that they led to.
"""

import dataclasses
import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence

import numpy as np
from absl import flags
from etils import epath
from jaxtyping import Float
from scipy import stats

from experiments import config as run_config
from experiments.backbones import input_digests, load_backbones
from experiments.cells import Design, SweepCell
from experiments.config import RULE_OF_SOLVER, SweepConfig, require
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
from vitprobe_jax.probes.hyperplane import SOLVERS, HyperplaneConfig, Solver
from vitprobe_jax.types import ALL_TOKENS, FEATURE_NORMS, SPLITS, FeatureNorm, Token

OWN_FLAGS = ("solver", "penalty", "learning_rate", "feature_norm")
"""Flags of the sweep whose values this command tries itself."""
MEASURES = ("accuracy", "f1", "recall", "degenerate", "unconverged", "seconds")
NOTHING = "\N{EN DASH}"
_TITLES = ("accuracy", "F1", "recall", "degenerate", "not converged", "seconds")


@dataclasses.dataclass(frozen=True)
class Setting:
    """A solver and what it is given.

    Attributes:
        solver: which one.
        value: penalty of `lbfgs`, learning rate of `paper`.
        feature_norm: that `paper` takes its steps on; `lbfgs` does not depend on it.
    """

    solver: Solver
    value: float
    feature_norm: FeatureNorm = "none"

    def apply(self, config: SweepConfig) -> SweepConfig:
        """The configuration of a sweep under this setting."""
        name = "penalty" if self.solver == "lbfgs" else "learning_rate"
        hyperplane = dataclasses.replace(config.hyperplane, **{name: self.value})
        return dataclasses.replace(config, solver=(self.solver,), feature_norm=self.feature_norm, hyperplane=hyperplane)


SETTINGS = (
    *(Setting("lbfgs", penalty) for penalty in (1e-4, 1e-3, 1e-2, 1e-1)),
    *(Setting("paper", rate, norm) for norm in FEATURE_NORMS for rate in (1e-2, 1e-1, 1.0)),
)
DEFAULT = Setting("lbfgs", HyperplaneConfig().penalty)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One setting on one token of one backbone under one seed.

    Attributes:
        setting: the setting.
        seed: random seed of the draws and fits.
        token: which token.
        accuracy: mean balanced accuracy over the concepts, held out.
        f1: mean balanced F1.
        recall: mean recall.
        degenerate: share of templates that find no positive.
        unconverged: share of regressions that did not converge or diverged.
        seconds: time to fit and test all concepts; the first token of a seed includes compilation.
    """

    setting: Setting
    seed: int
    token: Token
    accuracy: float
    f1: float
    recall: float
    degenerate: float
    unconverged: float
    seconds: float


def outcomes(config: SweepConfig) -> Iterator[Outcome]:
    """Every setting on every token of every backbone under every seed."""
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
                for seeded in config.by_seed():
                    yield from _outcomes_of_pass(seeded, data, backbone, plan, cells)
                for cell in cells:
                    data.release(backbone, cell)


def _outcomes_of_pass(
    config: SweepConfig, data: PreparedData, backbone: Backbone, plan: BackbonePlan, cells: Sequence[Cell]
) -> Iterator[Outcome]:
    labels = {split: data.labels(backbone, split) for split in SPLITS}
    design = Design.draw(labels["train"], labels["val"], config, probed_concepts(config, data.dataset))
    label = f"{backbone.spec.name}, seed {config.seed}"
    for cell in progress(cells, total=len(cells), label=label, unit="token"):
        tables = [data.table(backbone, split, cell, labels[split], plan) for split in SPLITS]
        for setting in SETTINGS:
            work = SweepCell(setting.apply(config), data.dataset.name, backbone.spec, cell, design, *tables)
            start = time.monotonic()
            _, rows, _ = work.run(RULE_OF_SOLVER[setting.solver])
            yield _outcome(setting, config.seed, cell[1], rows, time.monotonic() - start)


def _outcome(setting: Setting, seed: int, token: Token, rows: Sequence[dict], seconds: float) -> Outcome:
    fitted = [row for row in rows if row["skipped"] is None]
    diverged = sum("diverged" in (row["skipped"] or "") for row in rows)
    means = (float(np.mean([row[name] for row in fitted] or [0.0])) for name in MEASURES[:4])
    missed = diverged + sum(not row["converged"] for row in fitted)
    return Outcome(setting, seed, token, *means, missed / max(1, len(fitted) + diverged), seconds)


def format_outcomes(tried: Sequence[Outcome]) -> str:
    """A Markdown table, a line for each setting; the highest accuracy and F1 are bold.

    The best token has the highest accuracy, mean over seeds and backbones. The last column is Spearman's correlation of the
    tokens' accuracies with those under `DEFAULT`, mean over seeds. Seconds are medians over tokens and backbones.
    """
    settings = list(dict.fromkeys(outcome.setting for outcome in tried))
    tokens = sorted({outcome.token for outcome in tried}, key=ALL_TOKENS.index)
    seeds = sorted({outcome.seed for outcome in tried})
    by_token = {s: np.array([[_mean(tried, s, seed, t) for t in tokens] for seed in seeds]) for s in settings}
    measured = {s: [_by_seed(tried, s, seeds, name) for name in MEASURES] for s in settings}
    best = np.max([[values.mean() for values in own[:2]] for own in measured.values()], axis=0)
    header = ["solver", "penalty or rate", "feature norm", *_TITLES, "best token", "order as the default's"]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for setting in settings:
        shown = [_with_deviation(values) for values in measured[setting]]
        for i, top in enumerate(best):
            shown[i] = f"**{shown[i]}**" if measured[setting][i].mean() >= top - 5e-4 else shown[i]
        norm = setting.feature_norm if setting.solver == "paper" else ""
        winner = tokens[int(by_token[setting].mean(axis=0).argmax())]
        order = _correlation(by_token[setting], by_token.get(DEFAULT))
        lines.append("| " + " | ".join([setting.solver, f"{setting.value:g}", norm, *shown, winner, order]) + " |")
    return "\n".join(lines)


def _mean(tried: Sequence[Outcome], setting: Setting, seed: int, token: Token) -> float:
    """Accuracy of a token, mean over backbones and blocks."""
    return float(np.mean([o.accuracy for o in tried if (o.setting, o.seed, o.token) == (setting, seed, token)]))


def _by_seed(
    tried: Sequence[Outcome], setting: Setting, seeds: Sequence[int], name: str
) -> Float[np.ndarray, " seeds"]:
    """A measure under every seed, over tokens and backbones."""
    join = np.median if name == "seconds" else np.mean
    return np.array(
        [join([getattr(o, name) for o in tried if (o.setting, o.seed) == (setting, seed)]) for seed in seeds]
    )


def _with_deviation(values: Float[np.ndarray, " seeds"]) -> str:
    deviation = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{deviation}"


def _correlation(values: Float[np.ndarray, "seeds T"], default: Float[np.ndarray, "seeds T"] | None) -> str:
    """Mean over seeds; a dash where tokens have no order on one side."""
    if default is None or not all(np.ptp(own) > 0 for own in (*values, *default)):
        return NOTHING
    correlations = np.array([stats.spearmanr(*pair).statistic for pair in zip(values, default, strict=True)])
    return _with_deviation(correlations)


def protocol_config(values: flags.FlagValues) -> SweepConfig:
    """The sweep's record from parsed flags, for both solvers.

    Raises:
        InputError: a value that makes no sense, or a flag whose values this command tries itself.
    """
    for name in OWN_FLAGS:
        require(not values[name].present, name, "this command tries values of its own; remove the flag")
    values.out = values.out or "unused"
    values.solver = list(SOLVERS)
    return run_config.sweep_config(values)


def main(argv: Sequence[str]) -> None:
    """Prints the table of the data set and backbones that the flags name."""
    if len(argv) > 1:
        raise InputError(f"unexpected argument {argv[1]!r}; every option is a flag (--help lists them)")
    print(format_outcomes(list(outcomes(protocol_config(flags.FLAGS)))))


if __name__ == "__main__":
    run_config.define_sweep_flags()
    flags.adopt_module_key_flags(run_config)
    cli.run(main, flagfile_package="experiments.flags")
