"""A made-up sweep of 1,200 concepts in 72 cells, and its table on the page as plain Python has it."""

import dataclasses
import io
import json
import statistics
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath
from PIL import Image

from vitprobe_jax.metrics.results import FIT, METRICS, SCHEMA, write_table
from vitprobe_jax.report.examples import LEFT_OUT, POSITIVE, Example, Examples, write_examples

NUM_CONCEPTS = 1200
TOKENS = ("q", "k", "v", "x1", "xn", "x2")
SHOTS = (5, 10, 50, 100, 500)
BACKBONES = {"dino_vits8": "self-distillation", "mae_vitb16": "masked image modelling"}
CATEGORIES = ("object", "part", "material", "texture")
TITLES = {"accuracy": "Accuracy", "precision": "Precision", "recall": "Recall", "f1": "F1"}
NOTHING = "\N{EN DASH}"
EXAMPLE = 1003
"""The concept with masks, by its place; its name is part of no other name."""


def name_of(place: int) -> str:
    return f"{('small', 'old', 'red')[place % 3]} {('tree', 'wheel', 'fur', 'street')[place % 4]} {place}"


def write_big_sweep(folder: Path) -> None:
    """86,400 rows, and the masks of two templates of one concept."""
    rng = np.random.default_rng(0)
    shared = {"study": "directions", "task": "segmentation", "dataset": "broden:made up", "family": "dino", "layer": 11}
    shared |= {"evaluation": "patch", "seed": 0, "n_pos_train": 10, "n_neg_train": 20, "n_pos_test": 5, "n_neg_test": 6}
    shared |= {"threshold": 0.1, "degenerate": False, "skipped": None, **dict.fromkeys(FIT)}
    concepts = {
        "concept": range(1, NUM_CONCEPTS + 1),
        "name": list(map(name_of, range(NUM_CONCEPTS))),
        "category": [CATEGORIES[i % 4] for i in range(NUM_CONCEPTS)],
    }
    parts = []
    for backbone, objective in BACKBONES.items():
        for token in TOKENS:
            for shots in (None, *SHOTS):
                tpr, fpr = rng.uniform(0.2, 1, NUM_CONCEPTS), rng.uniform(0.05, 0.6, NUM_CONCEPTS)
                precision = tpr / (tpr + fpr)
                scores = ((1 + tpr - fpr) / 2, precision, tpr, 2 * precision * tpr / (precision + tpr))
                cell = {"backbone": backbone, "objective": objective, "token": token}
                cell |= {"rule": "cosine" if shots else "hyperplane", "trial": 0 if shots else None}
                cell |= {"shots": shots, "effective_shots": shots}
                columns = {name: [value] * NUM_CONCEPTS for name, value in (shared | cell).items()}
                columns |= concepts | dict(zip(METRICS, scores, strict=True))
                parts.append(pa.table([pa.array(columns[f.name], f.type) for f in SCHEMA], schema=SCHEMA))
    write_table(pa.concat_tables(parts), folder / "results.parquet")
    run = {"versions": {"jax": "0.10"}, "devices": {"count": 1}, "seed": 0, "stages": [], "notes": ["a note"]}
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "config.json").write_text(json.dumps({"task": "segmentation"}))
    write_examples(epath.Path(folder), _examples())


def _examples() -> Examples:
    """4 x 4 patches, 4 of them positive, 4 left out; one template finds 2 and one more, the other one everything."""
    truth = np.zeros((4, 4), np.uint8)
    truth[:2, :2], truth[3] = POSITIVE, LEFT_OUT
    found = np.zeros((4, 4), np.uint8)
    found[0, :3] = 1
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 60, 40)).save(file, "JPEG")
    row = Example(
        kind="coverage",
        backbone="dino_vits8",
        layer=11,
        token="k",
        rule="hyperplane",
        shots=None,
        concept=EXAMPLE + 1,
        name=name_of(EXAMPLE),
        category=CATEGORIES[EXAMPLE % 4],
        image="a.jpg",
        iou=0.4,
        truth=truth,
        found=found,
    )
    everything = dataclasses.replace(row, rule="cosine", shots=500, found=np.ones((4, 4), np.uint8), iou=1 / 3)
    return Examples((row, everything), {"a.jpg": file.getvalue()})


def expected_rows(folder: Path) -> list[dict]:
    """Every row of the page's table, a text for each column, by loops over the results."""
    trials = defaultdict(list)
    for row in pq.read_table(folder / "results.parquet").to_pylist():
        key = tuple(row[name] for name in ("concept", "name", "category", "backbone", "token", "rule", "shots"))
        trials[key].append(row)
    rows = []
    for (concept, name, category, backbone, token, rule, shots), own in trials.items():
        row = {"concept": concept, "Concept": name, "Category": category, "Backbone": backbone, "Token": token}
        row |= {"Rule": rule, "Shots": NOTHING if shots is None else str(shots)}
        row |= {TITLES[m]: f"{round(statistics.fmean(one[m] for one in own), 3):.3f}" for m in METRICS}
        rows.append(row)
    return rows
