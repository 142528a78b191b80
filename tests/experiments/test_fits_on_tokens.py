"""Hyperplanes of real photographs' tokens against scikit-learn, on the rows that the last round of mining chose."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from etils import epath
from sklearn.linear_model import LogisticRegression

from experiments.backbones import input_digests, load_backbones
from experiments.cells import Design
from experiments.labelling import probed_concepts
from experiments.preparation import PreparedData
from experiments.processes import make_meshes
from experiments.results_folder import ResultsFolder
from tests.backbones.random_folder import save_random
from tests.experiments.test_sweep import make_config
from vitprobe_jax.data import open_dataset
from vitprobe_jax.probes.feature_norm import fit_feature_norm
from vitprobe_jax.probes.hyperplane import HyperplaneConfig, fit_hyperplanes
from vitprobe_jax.probes.sampling import concept_identity
from vitprobe_jax.types import SPLITS, TOKENS

FULL_SIZE = {"patch_size": 16, "width": 384, "depth": 12, "num_heads": 6, "mlp_dim": 1536, "grid": (14, 14)}
PENALTY = HyperplaneConfig().penalty


def tables(out, *arguments):
    """(token, design, concepts that can be probed, training table, held-out table) of every token of the last block."""
    config = make_config(out, f"--tokens={','.join(TOKENS)}", *arguments)
    (backbone,) = load_backbones(config)
    dataset = open_dataset(config.dataset, seed=config.seed).select(config.categories)
    config = dataclasses.replace(config, out=epath.Path(out) / "run")
    folder = ResultsFolder.open(config, input_digests(dataset, [backbone]))
    data = PreparedData(config, config.task, dataset, folder, *make_meshes(config.mesh))
    cells = list(itertools.product(config.blocks(backbone.spec.config.depth), config.tokens))
    plan = data.plan(backbone, cells)
    for own in plan.passes:
        data.extract(backbone, plan, own)
        labels = {split: data.labels(backbone, split) for split in SPLITS}
        design = Design.draw(labels["train"], labels["val"], config, probed_concepts(config, dataset))
        skipped = design.skipped("hyperplane", config.min_positives)
        probed = [k for k in np.flatnonzero(design.probed) if k not in skipped]
        for cell in own:
            train, val = (data.table(backbone, split, cell, labels[split], plan) for split in SPLITS)
            yield cell[1], design, probed, train, (np.asarray(val.rows), labels["val"])


def compare(design, probed, train, val):
    """Relative distances of the losses from their minima, and mean accuracies of the fits and of scikit-learn's."""
    pools = [design.pools[k] for k in probed]
    identities = [concept_identity(design.labels.concepts[k]) for k in probed]
    norm = fit_feature_norm(train, kind="none")
    before, fitted = (
        fit_hyperplanes(jax.random.key(0), train, pools, identities, norm=norm, config=HyperplaneConfig(rounds=rounds))
        for rounds in (4, 5)
    )
    assert np.asarray(fitted.converged).all()
    rows = np.asarray(train.rows)[np.asarray(train.real)]
    rows = rows.reshape(-1, rows.shape[-1]).astype(np.float64)
    held_out, labels = val
    held_out = held_out.reshape(-1, rows.shape[1])[: labels.slots.shape[0] * labels.slots.shape[1]].astype(np.float64)
    mean, deviation = rows.mean(axis=0), rows.std(axis=0)
    deviation[deviation == 0] = 1.0
    distances, ours, theirs = [], [], []
    for i, (k, pool) in enumerate(zip(probed, pools, strict=True)):
        scores = (rows[pool.negatives] - np.asarray(before.shift)) @ np.asarray(before.w[i], np.float64)
        hardest = pool.negatives[np.argsort(-scores, kind="stable")[: 2 * len(pool.positives)]]
        z = (rows[np.concatenate([pool.positives, hardest])] - mean) / deviation
        y = np.arange(len(z)) < len(pool.positives)
        rival = LogisticRegression(C=1 / (PENALTY * len(z)), tol=1e-7, solver="newton-cholesky", max_iter=200).fit(z, y)
        u, w = z @ rival.coef_[0] + rival.intercept_[0], rival.coef_[0]
        least = np.mean(np.logaddexp(0, u) - y * u) + PENALTY / 2 * (w**2).sum()
        w = np.asarray(fitted.w[i], np.float64)
        distances.append((float(fitted.loss[i]) + PENALTY / 2 * ((w * deviation) ** 2).sum()) / least - 1)
        positive = labels.carries(int(k)).reshape(-1)
        negative = labels.in_category(int(design.labels.concept_category[k])).reshape(-1) & ~positive
        own = held_out @ w >= fitted.threshold()[i]
        other = (held_out - mean) / deviation @ rival.coef_[0] + rival.intercept_[0] >= 0
        for side, found in ((ours, own), (theirs, other)):
            side.append((found[positive].mean() + 1 - found[negative].mean()) / 2)
    return np.array(distances), np.mean(ours), np.mean(theirs)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["dino_shapes_tiny", "mae_shapes_tiny", "random dino", "random mae"])
@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_the_last_round_is_that_of_scikit_learn(tmp_path, shared_data, backbone, task):
    name = backbone
    if backbone.startswith("random "):
        name = save_random(tmp_path, backbone.removeprefix("random "), **FULL_SIZE)
    # Scikit-learn takes minutes for the patches of more.
    max_images = 30 if backbone.startswith("random ") and task == "segmentation" else 100
    data = {
        "segmentation": f"broden:{shared_data / 'camvid_broden'}",
        "classification": f"imagefolder:{shared_data / 'imagenet_superclasses'}",
    }[task]
    arguments = (f"--task={task}", f"--dataset={data}", f"--backbones={name}", f"--max_images={max_images}")
    for token, *table in tables(tmp_path, *arguments):
        distances, ours, theirs = compare(*table)
        assert distances.max() <= 1e-3, token
        assert abs(ours - theirs) <= 0.002, token
