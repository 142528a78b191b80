"""Label tables of a Broden folder: building them, reading them back from the cache, and opening an index at full size.

The folder is drawn: photographs of 224 x 224 pixels, masks of half their size, with what Broden's index has: several part
masks of an image, two textures, a scene of 0.
"""

import csv
import dataclasses
import io
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from etils import epath
from jaxtyping import Int
from PIL import Image

from experiments.benchmarks.comparison import Comparison
from experiments.benchmarks.config import BenchConfig
from experiments.benchmarks.timing import Work, measure, memory_mb
from vitprobe_jax.data.broden import CATEGORIES, file_sizes, open_broden, read_tables
from vitprobe_jax.data.dataset import Dataset
from vitprobe_jax.data.files import read_image
from vitprobe_jax.data.label_cache import cached_labels
from vitprobe_jax.data.labels import LabelTable, build_labels
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.types import SPLITS

NEEDS = ()
DEFAULTS = {"rows": 2000, "concepts": 400}
"""Images of the folder that is built from, and labels that its masks hold."""
BRODEN_ROWS = 63_305
"""Rows of the index of Broden 1.0 at 224 pixels."""
SIDE, MASK_SIDE, PATCH_SIZE = 224, 112, 16
DISTINCT = 64
"""Masks of a category that differ; the images take turns among them, in files of their own."""
REGIONS = 12
"""In a mask."""
SOURCES = {
    "ade20k": ("object", "part"),
    "opensurfaces": ("material",),
    "pascal": ("object", "part"),
    "dtd": (),
    "ade20k_val": ("object", "part"),
}
"""Folders of images/, in turn, and the categories whose masks they hold beside color."""
TABLE = {"transform": Transform((SIDE, SIDE), "none"), "patch_size": PATCH_SIZE, "task": "segmentation"}


def compare(config: BenchConfig) -> list[Comparison]:
    """Measures building beside decoding alone, reading back beside reading bytes, opening an index beside its parts."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, full = Path(scratch, "broden"), Path(scratch, "full")
        draw_broden(folder, config.rows, config.concepts, seed=config.seed)
        draw_broden(full, BRODEN_ROWS, config.concepts, seed=config.seed, empty=True)
        return [_building(config, folder), _loading(config, folder), _opening(config, full)]


def headline(comparisons: list[Comparison]) -> tuple[str, float]:
    """The last line's words and number."""
    return "images/s of building a label table", float(comparisons[0].quality["images/s"][0])


def _building(config: BenchConfig, folder: Path) -> Comparison:
    contenders = {"vitprobe_jax": (prepare_build, folder), "decoding the masks alone": (prepare_decode, folder)}
    measured = measure(contenders, config)
    title = f"label table of {config.rows} images, {SIDE} px, {PATCH_SIZE} px patches, all categories but color"
    size_mb = [measured[0].evidence, None]
    rate = [config.rows / measurement.seconds for measurement in measured]
    return Comparison(title, measured, {"images/s": rate, "table MB": size_mb})


def _loading(config: BenchConfig, folder: Path) -> Comparison:
    contenders = {"vitprobe_jax": (prepare_load, folder), "reading the bytes alone": (prepare_read, folder)}
    measured = measure(contenders, config)
    title = f"the table of its training images, repeated to {BRODEN_ROWS} images, from the cache"
    return Comparison(title, measured, {"MB": [measurement.evidence for measurement in measured]})


def _opening(config: BenchConfig, folder: Path) -> Comparison:
    contenders = {"vitprobe_jax": (prepare_open, folder), "csv and a stat a file": (prepare_parts, folder)}
    measured = measure(contenders, config)
    title = f"opening an index of {BRODEN_ROWS} rows and {len(file_sizes(read_tables(folder)))} files"
    return Comparison(title, measured, {"added peak MB": [measurement.evidence for measurement in measured]})


def prepare_build(config: BenchConfig, folder: Path) -> Work:
    """The label table of both splits."""
    dataset = _probed(folder)
    return Work(lambda: _build(dataset), lambda tables: sum(table.slots.nbytes for table in tables) / 1e6)


def prepare_decode(config: BenchConfig, folder: Path) -> Work:
    """Every probed mask decoded, by as many threads, and dropped."""
    tables = read_tables(folder)
    rows = [row for split in SPLITS for row in tables.rows[split]]
    names = [name for row in rows for category, name in row.masks if category != "color"]

    def decode(name):
        read_image(tables.images / name)

    def run():
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(decode, names):
                pass

    return Work(run, lambda _: None)


def _cached(folder: Path, root: Path) -> LabelTable:
    """The table of the training images, repeated to Broden's size, from the cache if it is there."""

    def build():
        table = _build(_probed(folder))[0]
        return dataclasses.replace(table, slots=np.resize(table.slots, (BRODEN_ROWS, *table.slots.shape[1:])))

    return cached_labels(epath.Path(root), {"folder": str(folder)}, build)


def prepare_load(config: BenchConfig, folder: Path) -> Work:
    """A table that stands in the cache."""
    root = folder.parent / "cache"
    _cached(folder, root)
    return Work(lambda: _cached(folder, root), lambda table: table.slots.nbytes / 1e6)


def prepare_read(config: BenchConfig, folder: Path) -> Work:
    """The file of the cache as bytes."""
    (path,) = (folder.parent / "cache" / "labels").iterdir()
    return Work(path.read_bytes, lambda content: len(content) / 1e6)


def prepare_open(config: BenchConfig, folder: Path) -> Work:
    """The whole of `open_broden`: both tables, every file looked for, the fingerprint."""
    before = memory_mb("VmHWM")
    return Work(lambda: open_broden(folder, "broden:full"), lambda _: _added_mb(before))


def prepare_parts(config: BenchConfig, folder: Path) -> Work:
    """What any reader does: the index's lines as lists, and the size of every file."""
    before = memory_mb("VmHWM")

    def run():
        with open(folder / "index.csv", newline="") as index:
            lines = list(csv.reader(index))
        names = {line[0] for line in lines[1:]} | {
            name for line in lines[1:] for cell in line[6:10] for name in cell.split(";")
        }
        return sum(os.stat(f"{folder}/images/{name}").st_size for name in names if name)

    return Work(run, lambda _: _added_mb(before))


def _probed(folder: Path) -> Dataset:
    return open_broden(folder, "broden:drawn").select(())


def _build(dataset: Dataset) -> list[LabelTable]:
    return [build_labels(dataset.splits[split], dataset.concepts, **TABLE) for split in SPLITS]


def _added_mb(before: float | None) -> float | None:
    return None if before is None else memory_mb("VmHWM") - before


def draw_broden(folder: Path, rows: int, num_labels: int, *, seed: int, empty: bool = False) -> None:
    """Writes a folder in Broden's layout, a tenth of the images held out.

    Args:
        folder: does not exist yet.
        rows: images.
        num_labels: labels of all categories together; two a category at least.
        seed: of the masks.
        empty: images and masks are files of no bytes, for what never looks into them.
    """
    rng = np.random.default_rng(seed)
    every = np.arange(1, max(num_labels, 2 * len(CATEGORIES)) + 1)
    numbers = dict(zip(CATEGORIES, np.array_split(every, len(CATEGORIES)), strict=True))
    contents = {category: [b""] if empty else _draw_masks(rng, numbers[category]) for category in CATEGORIES[:4]}
    photograph = b"" if empty else _encode(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8), "JPEG")
    for source in SOURCES:
        (folder / "images" / source).mkdir(parents=True)

    def write(name: str, content: bytes) -> None:
        with open(f"{folder}/images/{name}", "wb", buffering=0) as file:
            file.write(content)

    with open(folder / "index.csv", "w", newline="") as index:
        table = csv.writer(index)
        table.writerow(["image", "split", "ih", "iw", "sh", "sw", *CATEGORIES])
        for i in range(rows):
            source = list(SOURCES)[i % len(SOURCES)]
            stem = f"{source}/{i:08d}"
            cells = dict.fromkeys(CATEGORIES, "")
            for category in ("color", *SOURCES[source]):
                ends = [f"{category}_{n}" for n in range(1, 2 + i % 3)] if category == "part" else [category]
                names = [f"{stem}_{end}.png" for end in ends]
                cells[category] = ";".join(names)
                for n, name in enumerate(names):
                    write(name, contents[category][(i + n) % len(contents[category])])
            if source == "ade20k":
                cells["scene"] = str(numbers["scene"][i % len(numbers["scene"])] if i % 3 else 0)
            if source == "dtd":
                cells["texture"] = ";".join(map(str, rng.choice(numbers["texture"], 2, replace=False)))
            write(f"{stem}.jpg", photograph)
            split = "train" if i // len(SOURCES) % 10 else "val"
            table.writerow([f"{stem}.jpg", split, SIDE, SIDE, MASK_SIDE, MASK_SIDE, *cells.values()])
    with open(folder / "label.csv", "w", newline="") as labels:
        table = csv.writer(labels)
        table.writerow(["number", "name", "category", "frequency", "coverage", "syns"])
        table.writerows(
            [n, f"label {n}", f"{category}(1)", 1, 1, ""] for category in CATEGORIES for n in numbers[category]
        )


def _draw_masks(rng: np.random.Generator, labels: Int[np.ndarray, " n"]) -> list[bytes]:
    """PNG files of `DISTINCT` masks: each pixel has the label, or none, of the nearest of `REGIONS` points."""
    masks = []
    for _ in range(DISTINCT):
        points = rng.uniform(0, MASK_SIDE, (REGIONS, 2))
        grid = np.stack(np.mgrid[:MASK_SIDE, :MASK_SIDE], -1)
        nearest = ((grid[:, :, None] - points) ** 2).sum(-1).argmin(-1)
        mask = rng.choice([0, *labels], REGIONS)[nearest]
        masks.append(_encode(np.stack([mask % 256, mask // 256, np.zeros_like(mask)], -1).astype(np.uint8), "PNG"))
    return masks


def _encode(pixels: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()
