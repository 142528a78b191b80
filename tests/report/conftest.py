"""Made-up results: rows whose metrics come from random rates, some of them degenerate, some skipped."""

import json
import random
from pathlib import Path

import pytest

from vitprobe_jax.backbones.untrained import OBJECTIVE as UNTRAINED
from vitprobe_jax.metrics.results import METRICS, make_table, write_table
from vitprobe_jax.report import figures
from vitprobe_jax.types import HYPERPLANE_RULES

FIT = {"loss": 0.1, "gradient_norm": 1e-3, "converged": True, "scale_low": 0.5, "scale_high": 4.0}
CONCEPTS = ((1, "sky", "object"), (2, "tree", "object"), (3, "wheel", "part"), (1, "grass", "material"))
BACKBONES = (("dino_vits16", "self-distillation"), ("tiny_mae", UNTRAINED))


def make_rows(
    *,
    rules=("hyperplane", "cosine"),
    tokens=("x2", "q", "k"),
    layers=(11,),
    shots=(1, 5),
    trials=3,
    concepts=CONCEPTS,
    backbones=BACKBONES,
    task="segmentation",
    dataset="broden:streets",
    evaluation="patch",
    skip=lambda row: None,
    seed=0,
) -> list[dict]:
    """Rows of a sweep, tokens on purpose not in their usual order; `skip` gives the reason to skip a row, or None."""
    rng = random.Random(seed)
    rows = []
    cells = [(b, layer, token, rule) for b in backbones for layer in layers for token in tokens for rule in rules]
    for (backbone, objective), layer, token, rule in cells:
        for s in (None,) if rule in HYPERPLANE_RULES else shots:
            for number, name, category in concepts:
                row = {
                    "study": "directions",
                    "task": task,
                    "dataset": dataset,
                    "backbone": backbone,
                    "family": "mae" if "mae" in backbone else "dino",
                    "objective": objective,
                    "layer": layer,
                    "token": token,
                    "rule": rule,
                    "evaluation": evaluation,
                    "seed": 0,
                    "shots": s,
                    "concept": number,
                    "name": name,
                    "category": category,
                    "n_pos_train": 100,
                    "n_neg_train": 200,
                    "n_pos_test": 50,
                    "n_neg_test": 60,
                    "degenerate": False,
                    "skipped": skip({"backbone": backbone, "rule": rule, "shots": s, "name": name}),
                }
                if row["skipped"] is not None:
                    rows.append(row)
                    continue
                for trial in (None,) if rule in HYPERPLANE_RULES else range(trials):
                    used = None if rule in HYPERPLANE_RULES else s - (s > 1 and trial == 0)
                    numbers = {"trial": trial, "effective_shots": used, "threshold": 0.1}
                    rows.append(row | _measured(rng) | numbers | (FIT if rule in HYPERPLANE_RULES else {}))
    return rows


def _measured(rng: random.Random) -> dict:
    tpr, fpr = (0.0, 0.0) if rng.random() < 0.15 else (rng.uniform(0.3, 1), rng.uniform(0, 0.6))
    precision = tpr / (tpr + fpr) if tpr + fpr else 0.0
    f1 = 2 * precision * tpr / (precision + tpr) if tpr else 0.0
    scores = dict(zip(METRICS, ((1 + tpr - fpr) / 2, precision, tpr, f1), strict=True))
    return scores | {"degenerate": tpr == 0.0}


@pytest.fixture
def results_rows():
    return make_rows


@pytest.fixture
def results_folder(tmp_path):
    """Writes a results folder with these rows and returns it."""

    def write(rows: list[dict], *, notes: tuple[str, ...] = ()) -> Path:
        folder = tmp_path / "results"
        folder.mkdir()
        write_table(make_table(rows), folder / "results.parquet")
        config = {"task": "segmentation", "image_size": None, "shots": [1, 5], "hyperplane": {"rounds": 5}}
        run = {
            "versions": {"jax": "0.10.2"},
            "devices": {"count": 1, "platform": "cpu"},
            "seed": 17,
            "stages": [{"stage": "extract train", "seconds": 4.0, "count": 10, "unit": "images"}],
            "notes": list(notes),
        }
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "run.json").write_text(json.dumps(run))
        return folder

    return write


@pytest.fixture
def undrawn(monkeypatch):
    """Figures stay undrawn."""
    monkeypatch.setattr(figures, "svg", lambda figure, name: "<svg></svg>")
    monkeypatch.setattr(figures, "save", lambda figure, folder, name: None)
