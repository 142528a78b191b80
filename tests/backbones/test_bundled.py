"""The bundled trained backbones: whole, small, with the recipe that made them, and better than no training."""

import csv
import json
from importlib import resources

import numpy as np
import pytest

from vitprobe_jax.backbones.loading import TRAINED, load_backbone
from vitprobe_jax.backbones.untrained import OBJECTIVE as UNTRAINED
from vitprobe_jax.data import open_dataset
from vitprobe_jax.data.labels import build_labels
from vitprobe_jax.data.transforms import Transform

BUNDLED = resources.files("vitprobe_jax.backbones") / "bundled"


def test_every_bundled_folder_has_a_name_and_the_other_way_round():
    assert sorted(folder.name for folder in BUNDLED.iterdir() if folder.is_dir()) == sorted(TRAINED)


@pytest.mark.parametrize("name", TRAINED)
def test_a_bundled_backbone_is_small_and_says_how_it_was_made(name):
    files = [path for path in (BUNDLED / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 2e6
    recipe = json.loads((BUNDLED / name / "recipe.json").read_text())
    assert recipe["command"].startswith("python -m experiments.pretrain ")
    assert f"--seed={recipe['seed']}" in recipe["command"]
    spec = load_backbone(name).spec
    assert (spec.name, spec.family) == (name, recipe["objective"]["name"])
    assert spec.objective != UNTRAINED
    with (BUNDLED / name / "curve.csv").open() as file:
        curve = list(csv.DictReader(file))
    assert int(curve[-1]["step"]) == recipe["schedule"]["steps"]
    losses = [float(row["loss"]) for row in curve]
    assert np.mean(losses[-10:]) < 0.75 * losses[0]


@pytest.fixture(scope="module")
def drawings() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """By split, of another seed than the training's: images, which patches take part, and the objects they carry."""
    dataset = open_dataset("shapes:64", seed=11).select(("object",))
    drawn = {}
    for name, split in dataset.splits.items():
        images = np.stack([np.asarray(split.image(i)) for i in range(len(split))])
        labels = build_labels(
            split, dataset.concepts, transform=Transform((128, 128), "none", 1.0), patch_size=8, task="segmentation"
        )
        carried = np.stack([labels.carries(k).ravel() for k in range(len(dataset.concepts))], axis=1)
        drawn[name] = images, labels.in_category(0).ravel(), carried
    return drawn


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "control"), list(zip(TRAINED, ("untrained_dino_tiny", "untrained_mae_tiny"), strict=True))
)
def test_training_beats_no_training_on_images_it_has_not_seen(drawings, name, control):
    """A ridge regression from patches to object labels."""
    scores = [_balanced_accuracy(load_backbone(backbone), drawings) for backbone in (name, control)]
    assert scores[0] > scores[1] + 0.01


def _balanced_accuracy(backbone, drawings) -> float:
    # One call for both splits: one compilation.
    together = np.concatenate([images for images, _, _ in drawings.values()])
    patches = np.asarray(backbone.tokens(together, [(3, "x2")])[3, "x2"])[:, 1:]
    of_splits = np.split(patches, np.cumsum([len(images) for images, _, _ in drawings.values()])[:-1])
    sides = {
        name: (rows.reshape(-1, 96)[taking_part].astype(np.float64), carried[taking_part])
        for rows, (name, (_, taking_part, carried)) in zip(of_splits, drawings.items(), strict=True)
    }
    (x, y), (x_val, y_val) = sides["train"], sides["val"]
    mean, deviation = x.mean(0), x.std(0)
    x, x_val = ((z - mean) / deviation for z in (x, x_val))
    w = np.linalg.solve(x.T @ x + 10 * np.eye(96), x.T @ (y - y.mean(0)))
    enough = (y.sum(0) > 50) & (y_val.sum(0) > 20)
    found = x_val @ w > 0
    tpr = [found[y_val[:, k], k].mean() for k in np.flatnonzero(enough)]
    tnr = [1 - found[~y_val[:, k], k].mean() for k in np.flatnonzero(enough)]
    return float(np.mean(tpr) + np.mean(tnr)) / 2
