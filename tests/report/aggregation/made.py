"""Made-up measurements of study 3: every part, with numbers that behave as the paper's do, and the pictures beside them."""

import json
import math
import random
from pathlib import Path

import numpy as np

from vitprobe_jax.backbones.untrained import OBJECTIVE as UNTRAINED
from vitprobe_jax.metrics.measurements import make_measurements
from vitprobe_jax.metrics.results import write_table
from vitprobe_jax.report.measured.pictures import picture_stem

BACKBONES = (
    ("dino_vits16", "dino", "DINO (self-distillation)"),
    ("mae_vitb16", "mae", "MAE (masked pixel reconstruction)"),
    ("ijepa_vith14", "ijepa", "I-JEPA"),
    ("untrained_tiny", "dino", UNTRAINED),
)
WITHOUT_CLS = ("ijepa",)
ALL_PARTS = ("attention", "probing", "untrained", "localisation")
REPRESENTATIONS = ("mean", "cls", "abmilp_1", "sa_abmilp", "attentive_1", "attentive_12")
UNTRAINED_ONES = ("mean", "cls_attention", "lowest_entropy_cls", "central_patch", "other_cls_attention", "abmilp_1")
MAPS = ("cls_attention", "abmilp_1")
NO_CLS = "it has no [CLS]"
SKILL = {
    "mean": 0.6,
    "cls": 0.63,
    "abmilp": 0.66,
    "sa": 0.68,
    "attentive": 0.7,
    "central": 0.55,
    "lowest": 0.58,
    "other": 0.65,
}


class Made:
    """Rows of the parts: `Made(...).rows()` has all of them."""

    def __init__(
        self,
        *,
        parts=ALL_PARTS,
        backbones=BACKBONES,
        datasets=("imagefolder:birds",),
        representations=REPRESENTATIONS,
        rates=(0.01, 0.1, 1.0),
        epochs=5,
        seeds=3,
        depth=6,
        heads=4,
        grid=(6, 6),
        cells=((5, "x2_raw"),),
        measure="top1",
        images=400,
        classes=10,
        train_images=1000,
        seed=0,
    ):
        self.parts, self.backbones, self.datasets, self.representations = parts, backbones, datasets, representations
        self.rates, self.epochs, self.seeds, self.depth, self.heads = rates, epochs, seeds, depth, heads
        self.grid, self.cells, self.measure, self.images, self.seed = grid, cells, measure, images, seed
        self.classes, self.train_images = classes, train_images

    def rows(self) -> list[dict]:
        self.random, found = random.Random(self.seed), []
        for part in self.parts:
            for dataset in self.datasets:
                for name, family, objective in self.backbones:
                    of = {"study": "aggregation", "dataset": dataset, "backbone": name, "family": family}
                    of |= {"objective": objective, "part": part}
                    cells = [(None, None)] if part == "attention" else self.cells
                    for layer, token in cells:
                        of_cell = of | {"layer": layer, "token": token}
                        found += [of_cell | row for row in getattr(self, part)(of)]
                        if part != "attention":
                            what = {"measure": "classes", "value": float(self.classes), "count": self.train_images}
                            found.append(of_cell | what)
        return found

    def near(self, value, spread=0.01):
        return min(max(value + self.random.uniform(-spread, spread), 0.0), 1.0)

    def skill(self, of, name):
        """MAE gains most by selection; a control knows little."""
        base = SKILL.get(name.split("_")[0], 0.6) - 0.3 * (of["objective"] == UNTRAINED)
        return base + 0.1 * (of["family"] == "dino" and name == "cls")

    def seen(self, value):
        return {"value": value, "count": self.images} | ({"deviation": 0.004} if self.seeds > 1 else {})

    def attention(self, of):
        bound = math.log(self.grid[0] * self.grid[1])
        without = of["family"] in WITHOUT_CLS
        yield {"measure": "entropy_bound", "value": bound, "count": self.grid[0] * self.grid[1]}
        for measure in ("cls_to_cls", "cls_entropy", "patch_to_itself", "patch_entropy"):
            if without and measure.startswith("cls"):
                yield {"measure": measure, "count": 0, "skipped": NO_CLS}
                continue
            of_blocks = []
            for layer in range(self.depth):
                deep = layer / max(self.depth - 1, 1)
                base = {"cls_to_cls": 0.1 + 0.5 * deep, "patch_to_itself": 0.2 - 0.1 * deep}.get(
                    measure, bound * (0.98 - 0.25 * deep * (2 if of["family"] == "dino" else 1))
                )
                of_heads = [base * self.random.uniform(0.8, 1.0) for _ in range(self.heads)]
                what = {"measure": measure, "layer": layer, "count": self.images, "deviation": 0.2 * base}
                of_blocks.append(sum(of_heads) / self.heads)
                yield what | {"setting": "all heads", "value": of_blocks[-1]}
                for head, value in enumerate(of_heads):
                    yield what | {"setting": "head", "level": float(head), "value": value}
            if measure == "cls_entropy":
                aggregated = sum(of_blocks) / self.depth
        what = {"measure": "aggregation_entropy", "count": self.images}
        if without:
            yield what | {"setting": "no [CLS]", "value": bound}
        else:
            yield what | {"setting": "all blocks", "value": aggregated, "deviation": 0.1}

    def scores(self, of, names):
        for name in names:
            if of["family"] in WITHOUT_CLS and name in ("cls", "cls_attention", "lowest_entropy_cls"):
                yield {"method": name, "measure": self.measure, "count": 0, "skipped": NO_CLS}
                continue
            values = {rate: self.near(self.skill(of, name) - 0.1 * abs(math.log10(rate) + 1)) for rate in self.rates}
            for rate, value in values.items():
                yield {"method": name, "measure": self.measure, "setting": "rate", "level": rate} | self.seen(value)
            best = max(values, key=values.get)
            what = {"method": name, "measure": f"{self.measure}_best", "setting": "best rate", "level": best}
            yield what | self.seen(values[best])

    def probing(self, of):
        yield from self.scores(of, self.representations)
        for name in self.representations:
            if of["family"] in WITHOUT_CLS and name == "cls":
                continue
            for rate in self.rates:
                for epoch in range(1, self.epochs + 1):
                    what = {"method": name, "measure": "loss", "setting": "epoch", "level": float(epoch)}
                    value = 6 / (epoch + 1) + self.random.uniform(0, 0.1) + abs(math.log10(rate) + 1)
                    yield what | {"name": f"{rate:g}", "value": value, "count": 1000}

    def aggregations(self, of):
        return [name for name in UNTRAINED_ONES if not (of["family"] in WITHOUT_CLS and "cls" in name)]

    def untrained(self, of):
        yield from self.scores(of, [*UNTRAINED_ONES])
        bound, fit = math.log(self.grid[0] * self.grid[1]), self.aggregations(of)
        for i, name in enumerate(fit):
            what = {"method": name, "measure": "weights_entropy", "count": self.images, "deviation": 0.3}
            yield what | {"value": bound * (1 - 0.06 * i)}
            for j, other in enumerate(fit):
                value = abs(i - j) * self.random.uniform(0.1, 0.2)
                yield {"method": name, "name": other, "measure": "kl", "value": value, "count": self.images}

    def localisation(self, of):
        for name in MAPS:
            if of["family"] in WITHOUT_CLS and name == "cls_attention":
                yield {"method": name, "measure": "maxboxaccv2", "count": 0, "skipped": NO_CLS}
                continue
            for mean, by_iou, more in (("maxboxaccv2", "maxboxacc", 0.1), ("largest_box", "largest_box_iou", 0.0)):
                shares = [self.near(self.skill(of, name) + more - 0.4 * (iou - 0.5)) for iou in (0.3, 0.5, 0.7)]
                yield {"method": name, "measure": mean, "value": sum(shares) / 3, "count": 90}
                for iou, value in zip((0.3, 0.5, 0.7), shares, strict=True):
                    what = {"method": name, "measure": by_iou, "setting": "iou", "level": iou}
                    yield what | {"value": value, "count": 90}


def write_folder(folder: Path, made: Made, *, rows=None, notes=(), pictures=False) -> Path:
    """A results folder of study 3."""
    folder.mkdir(parents=True, exist_ok=True)
    write_table(make_measurements(made.rows() if rows is None else rows), folder / "results.parquet")
    config = {"dataset": ",".join(made.datasets), "parts": list(made.parts), "epochs": 0, "tokens": ["x2_raw"]}
    run = {
        "versions": {"jax": "0.10.2"},
        "devices": {"count": 1, "platform": "cpu"},
        "seed": 17,
        "stages": [{"stage": "probing, dino_vits16 on birds", "seconds": 4.0, "count": 10, "unit": "images"}],
        "notes": list(notes),
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "run.json").write_text(json.dumps(run))
    if pictures:
        write_pictures(folder, made)
    return folder


def write_pictures(folder: Path, made: Made, *, size=(96, 96), count=3) -> None:
    """Drawn photographs with maps and boxes, as parts untrained and localisation keep them."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    rows, columns = np.mgrid[: made.grid[0], : made.grid[1]]
    centres = [(0.3 + 0.2 * i, 0.6 - 0.15 * i) for i in range(count)]
    inside = [np.hypot(y / height - a, x / width - b) < 0.22 for a, b in centres]
    images = np.stack(
        [np.where(own[..., None], (230, 160, 60), np.stack([x + 40, 2 * y, 90 + 0 * x], -1)) for own in inside]
    ).astype(np.uint8)
    spots = [np.hypot(rows / made.grid[0] - a, columns / made.grid[1] - b) for a, b in centres]
    boxes = [(width * (b - 0.22), height * (a - 0.22), width * (b + 0.22), height * (a + 0.22)) for a, b in centres]
    truth = [(i, *box) for i, box in enumerate(boxes)] + [(0, 4, 60, 20, 90)]
    for name, family, _ in made.backbones:
        of = {"family": family}
        place = folder / "pictures" / name
        place.mkdir(parents=True, exist_ok=True)
        for part in {"untrained", "localisation"} & set(made.parts):
            for dataset in made.datasets:
                for layer, token in made.cells:
                    arrays = {"images": images, "names": np.array([f"val/bird_{i}.jpeg" for i in range(count)])}
                    shown = made.aggregations(of)
                    if part == "localisation":
                        shown = [own for own in MAPS if own in shown]
                        arrays["truth"] = np.array(truth, np.float32)
                    for turn, own in enumerate(shown, 1):
                        weights = np.exp(-turn * 4 * np.stack(spots)) if own != "mean" else np.ones((count, *made.grid))
                        weights /= weights.sum(axis=(1, 2), keepdims=True)
                        arrays[f"weights_{own}"] = weights.astype(np.float32)
                        if part == "localisation":
                            arrays[f"boxes_{own}"] = np.array(boxes, np.float32) + 8 * turn
                    np.savez_compressed(place / f"{picture_stem(dataset, part, layer, token)}.npz", **arrays)
