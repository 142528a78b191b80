"""Made-up measurements of study 2: every part, with numbers that behave as the paper's do, and the pictures beside them."""

import json
import random
from pathlib import Path

import numpy as np

from vitprobe_jax.backbones.untrained import OBJECTIVE as UNTRAINED
from vitprobe_jax.metrics.measurements import make_measurements
from vitprobe_jax.metrics.results import write_table
from vitprobe_jax.metrics.retrieval import OUTCOMES
from vitprobe_jax.report.measured.pictures import picture_stem

BACKBONES = (
    ("dino_vits16", "dino", "DINO (self-distillation)"),
    ("mae_vitb16", "mae", "MAE (masked pixel reconstruction)"),
    ("untrained_tiny", "dino", UNTRAINED),
)
DATASETS = ("cityscapes:streets", "ade20k:rooms")
CONCEPTS = tuple(
    (i, name, "class") for i, name in enumerate(("road", "building", "vegetation", "sky", "car", "person", "rider"), 1)
)
WIDTH = 240
STEPS = (0, 1, 2, 5, 10, 20, 50, 100, 200, WIDTH)
ALL_PARTS = (
    "patches",
    "variance",
    "corruptions",
    "retrieval",
    "tracking",
    "reconstruction",
    "context",
    "layers",
    "scale",
)
_LEVELS = {"blur": (10, 20, 30, 40), "noise": (10, 20, 30, 40), "frequency": (0, 1, 2, 3)}
_MOVES = {
    "shift": (1, 2, 3, 4),
    "rotation": (5, 10, 15, 20),
    "scale": (0.8, 0.9, 1.1, 1.2),
    "blur": (10, 20, 30, 40),
    "noise": (10, 20, 30, 40),
}


class Made:
    """Rows of the parts, one method each: `Made(...).rows()` has all of them."""

    def __init__(
        self,
        *,
        parts=ALL_PARTS,
        backbones=BACKBONES,
        datasets=DATASETS,
        concepts=CONCEPTS,
        drops=(0, 200),
        shots=(2, 4, 8),
        tilings=("tiles", "whole"),
        methods=("1-nn", "linear", "linear_batchnorm"),
        cells=((11, "x2"),),
        depth=6,
        seed=0,
        tracks="mot17:walks",
    ):
        self.parts, self.backbones, self.datasets, self.concepts = parts, backbones, datasets, concepts
        self.drops, self.shots, self.tilings, self.methods = drops, shots, tilings, methods
        self.cells, self.depth, self.seed, self.tracks = cells, depth, seed, tracks

    def rows(self) -> list[dict]:
        self.random, found = random.Random(self.seed), []
        for part in self.parts:
            for dataset in self.datasets_of(part):
                for name, family, objective in self.backbones:
                    of = {"study": "local", "dataset": dataset, "backbone": name, "family": family}
                    for layer, token in self.cells_of(part):
                        of |= {"objective": objective, "part": part, "layer": layer, "token": token}
                        found += [of | row for row in getattr(self, part)(name, family, layer)]
        return found + (self.overlaps() if "variance" in self.parts else [])

    def datasets_of(self, part):
        return {"tracking": (self.tracks,), "scale": ("imagefolder:land",), "reconstruction": self.datasets[:1]}.get(
            part, self.datasets
        )

    def cells_of(self, part):
        if part in ("reconstruction", "scale"):
            return [(11, "x2")]
        if part == "layers":
            return [(layer, token) for layer in range(self.depth) for token in dict.fromkeys(t for _, t in self.cells)]
        return self.cells

    def near(self, value, spread=0.02):
        return min(max(value + self.random.uniform(-spread, spread), 0.0), 1.0)

    def skill(self, family, method, dropped):
        """MAE's neighbours are poor until features are left out; others do not care."""
        if method.endswith("nn") and family == "mae":
            return 0.06 if dropped < 5 else 0.3
        return (0.34 if family == "dino" else 0.36) + 0.03 * method.startswith("linear") - 0.0001 * dropped

    def variants(self):
        return [(m, {"features": "without top" if m else "all", "dropped": m}) for m in self.drops]

    def scores(self, base, **columns):
        """mIoU, pixel accuracy and the IoU of each concept; the last concept is nowhere."""
        yield columns | {"measure": "miou", "value": self.near(base), "count": 90000}
        yield columns | {"measure": "pixel_accuracy", "value": self.near(base + 0.3), "count": 90000}
        for i, (number, name, category) in enumerate(self.concepts):
            what = {"concept": number, "name": name, "category": category, "measure": "iou"}
            if i == len(self.concepts) - 1 and i:
                yield columns | what | {"count": 0, "skipped": "no held-out pixel carries it"}
            else:
                yield columns | what | {"value": self.near(base * 2 / (1 + i / 3)), "count": 40000 // (i + 1)}

    def patches(self, name, family, layer):
        for tiling in self.tilings:
            for s in self.shots:
                for method in self.methods:
                    for m, columns in self.variants():
                        base = self.skill(family, method, m) + 0.004 * (s or 16) - 0.05 * (tiling == "whole")
                        yield from self.scores(base, tiling=tiling, shots=s, method=method, **columns)

    def variance(self, name, family, layer):
        spread = {"tiling": "tiles", "shots": self.shots[-1]}
        top = 300.0 if family == "mae" else 6.0
        for rank in range(1, WIDTH + 1):
            what = {"setting": "rank", "level": float(rank), "concept": WIDTH - rank, "name": f"feature {WIDTH - rank}"}
            value = (top if rank <= 5 else 1.0) * 0.985**rank * self.random.uniform(0.99, 1.0)
            yield spread | what | {"measure": "variance", "value": value, "count": WIDTH}
        for method in ("1-nn", "linear"):
            for m in STEPS:
                base = 0.02 if m == WIDTH else self.skill(family, method, m)
                columns = {"method": method, "features": "without top" if m else "all", "dropped": m}
                for measure, more in (("miou", 0.0), ("pixel_accuracy", 0.3)):
                    value = self.near(base + more, 0.005)
                    yield spread | columns | {"setting": "removed", "measure": measure, "value": value, "count": 90000}
        for m in filter(None, self.drops):
            yield spread | {"setting": "batchnorm", "dropped": m, "measure": "overlap", "value": 0.9, "count": m}

    def overlaps(self):
        return [
            {"study": "local", "dataset": a, "backbone": name, "family": family, "objective": objective}
            | {"part": "variance", "layer": self.cells[-1][0], "token": self.cells[-1][1], "measure": "overlap"}
            | {"setting": "other data set", "name": b, "dropped": m, "count": m, "value": 0.975}
            for name, family, objective in self.backbones
            for a in self.datasets
            for b in self.datasets
            for m in filter(None, self.drops)
            if a != b
        ]

    def corruptions(self, name, family, layer):
        for method in self.methods[:2]:
            for m, columns in self.variants():
                columns = columns | {"method": method, "tiling": "tiles", "shots": self.shots[-1], "count": 90000}
                clean = self.skill(family, method, m)
                yield columns | {"setting": "clean", "level": 0.0, "measure": "miou", "value": clean}
                for kind, levels in _LEVELS.items():
                    for i, level in enumerate(levels, 1):
                        lost = self.near(0.15 * i * (1.3 if m else 1.0), 0.05)
                        what = {"setting": kind, "level": float(level)}
                        yield columns | what | {"measure": "miou", "value": clean * (1 - lost)}
                        yield columns | what | {"measure": "relative_drop", "value": lost}

    def retrieval(self, name, family, layer):
        for method in ("1-nn", "1-nn other images"):
            for _, columns in self.variants():
                for kind, levels in ({"identity": (0.0,)} | _MOVES).items():
                    for i, level in enumerate(levels, 1):
                        what = columns | {"method": method, "tiling": "tiles", "setting": kind, "level": float(level)}
                        left = 0.03 * i if kind in ("shift", "rotation") else 0.0
                        same = 0.0 if "other" in method else 1.0 if kind == "identity" else self.near(0.9 - 0.13 * i)
                        rest = 1.0 - left - same * (1 - left)
                        shares = [same * (1 - left), rest * 0.5, rest * 0.15, rest * 0.15, rest * 0.2, left]
                        for outcome, value in zip(OUTCOMES, shares, strict=True):
                            yield what | {"measure": outcome, "value": value, "count": 4000}
                        if "other" not in method:
                            yield what | {"measure": "upper_bound", "value": 1 - left, "count": 4000}

    def tracking(self, name, family, layer):
        for tiling in self.tilings:
            for m, columns in self.variants():
                for i, gap in enumerate((1, 2, 4, 8, 16)):
                    what = columns | {
                        "method": "1-nn",
                        "tiling": tiling,
                        "setting": "gap",
                        "level": float(gap),
                        "count": 800,
                    }
                    same = self.near(0.95 - 0.1 * i - 0.05 * (tiling == "whole") - 0.2 * (family == "mae" and not m))
                    yield what | {"measure": "same_instance", "value": same}
                    yield what | {"measure": "same_category", "value": self.near(0.97, 0.01)}
                    yield what | {"measure": "upper_bound", "value": 1 - 0.02 * i}
                    right = self.near(0.95 - 0.02 * i, 0.01)
                    yield what | {"measure": "failed_same_category", "value": right, "count": 80}
                what = columns | {"method": "1-nn", "tiling": tiling, "setting": "all gaps", "count": 400}
                yield what | {"measure": "failed_same_category", "value": self.near(0.9)}

    def reconstruction(self, name, family, layer):
        if family != "mae":
            yield {"measure": "mse", "count": 0, "skipped": "it has no decoder; convert MAE's full checkpoint"}
            return
        chosen = [("all", 0)]
        if max(self.drops):
            chosen += [("without top", max(self.drops)), ("without bottom", max(self.drops))]
        for masked in (0.0, 0.75):
            for features, m in chosen:
                error = (0.05 if features == "without top" else 0.01) * (1 + masked)
                what = {"tiling": "tiles", "features": features, "dropped": m, "setting": "masked", "level": masked}
                for measure, value in (("mse", error), ("psnr", -10 * np.log10(error)), ("ssim", 0.9 - 5 * error)):
                    yield what | {"measure": measure, "value": float(value), "count": 40}

    def context(self, name, family, layer):
        kinds = [("all", 0)]
        for m in filter(None, self.drops):
            kinds += [("without top", m), ("only random", m), ("only top", m)]
        for features, m in kinds:
            columns = {"method": "ridge", "tiling": "tiles", "features": features, "dropped": m}
            scores = [self.near(0.65 - 0.1 * (features == "only top")) for _ in self.concepts]
            for (number, concept, category), value in zip(self.concepts, scores, strict=True):
                what = {"concept": number, "name": concept, "category": category, "count": 60}
                yield columns | what | {"measure": "r2", "value": value}
            for measure, few in (("mean_r2", scores), ("mean_r2_commonest", scores[:3])):
                yield columns | {"measure": measure, "value": sum(few) / len(few), "count": len(few)}

    def layers(self, name, family, layer):
        for m, columns in self.variants():
            base = self.skill(family, "1-nn", m) * (0.4 + 0.6 * layer / (self.depth - 1))
            yield from self.scores(base, tiling="tiles", shots=self.shots[-1], method="1-nn", **columns)

    def scale(self, name, family, layer):
        for gsd in (0.3, 0.6, 1.2):
            for pool in ("class", "mean"):
                for m, columns in self.variants():
                    what = {"method": "1-nn", "setting": "gsd", "level": gsd, "name": pool, "measure": "accuracy"}
                    value = self.near(0.9 - 0.3 * gsd - 0.1 * (family == "mae" and not m))
                    yield columns | what | {"value": value, "count": 200}
        what = {"concept": 9, "name": "harbour", "category": "class", "measure": "accuracy"}
        yield what | {"count": 0, "skipped": "no training image shows it"}


def write_folder(folder: Path, made: Made, *, rows=None, notes=(), pictures=False) -> Path:
    """A results folder of study 2."""
    folder.mkdir(parents=True, exist_ok=True)
    write_table(make_measurements(made.rows() if rows is None else rows), folder / "results.parquet")
    config = {"dataset": ",".join(made.datasets), "parts": list(made.parts), "tiling": list(made.tilings)}
    config |= {"images_per_group": [2, 4, 8], "max_images": 0, "image_size": None}
    run = {
        "versions": {"jax": "0.10.2"},
        "devices": {"count": 1, "platform": "cpu"},
        "seed": 17,
        "stages": [{"stage": "patches, dino_vits16 on streets", "seconds": 4.0, "count": 10, "unit": "images"}],
        "notes": list(notes),
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "run.json").write_text(json.dumps(run))
    if pictures:
        write_pictures(folder, made)
    return folder


def write_pictures(folder: Path, made: Made, *, size=(48, 96), count=3) -> None:
    """Drawn photographs with maps, as parts patches and reconstruction keep them."""
    rng = np.random.default_rng(0)
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    truth = np.stack([1 + (rows // 16 + columns // (24 + 4 * i)) % (len(made.concepts) - 1) for i in range(count)])
    truth[:, :4] = 0
    image = np.stack([truth * 30 % 256, 255 - truth * 20, 40 + columns[None] % 200 + truth * 0], -1).astype(np.uint8)
    for name, family, _ in made.backbones:
        place = folder / "pictures" / name
        place.mkdir(parents=True, exist_ok=True)
        for part in {"patches", "reconstruction"} & set(made.parts):
            for dataset in made.datasets_of(part):
                for layer, token in made.cells_of(part):
                    arrays = {"image": image}
                    if part == "patches":
                        arrays["truth"] = truth.astype(np.uint16)
                        for method in made.methods:
                            for m in made.drops:
                                wrong = rng.random((count, height // 8, width // 8)) < 0.2
                                wrong = np.kron(wrong, np.ones((1, 8, 8), bool))
                                taken = np.where(
                                    wrong, 1 + (truth + 2) % (len(made.concepts) - 1), np.maximum(truth, 1)
                                )
                                arrays[f"{method} without {m}"] = taken.astype(np.uint16)
                    elif family == "mae":
                        for level in (0.0, 0.75):
                            for i, features in enumerate(("all 0", "without top 200", "without bottom 200")):
                                arrays[f"{features} masked {level}"] = (image // (1 + i)).astype(np.uint8)
                    else:
                        continue
                    np.savez_compressed(place / f"{picture_stem(dataset, part, layer, token)}.npz", **arrays)
