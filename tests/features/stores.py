"""A small store's contents, the same in every process."""

from pathlib import Path

import numpy as np

from vitprobe_jax.features.cache import FeatureCache
from vitprobe_jax.features.store import RowShape

SHAPE = RowShape(num_images=80, num_rows=3, width=5, dtype="float32")
CELLS = [(0, "q"), (3, "x2")]
FINGERPRINT = {"weights": "a", "config": {"width": 5}, "dtype": "float32"}
ERRORS = {33: "33.jpg: cannot be decoded", 34: "34.jpg: cannot be decoded"}


def rows_of(cell, shard, shape=SHAPE):
    """What is extracted for a shard of a cell."""
    images = shape.images_of(shard)
    rng = np.random.default_rng([cell[0], ord(cell[1][0]), shard])
    return rng.standard_normal((len(images), shape.num_rows, shape.width)).astype(np.float32)


def fill(root, cells=CELLS, shape=SHAPE, fingerprint=FINGERPRINT):
    """What a run does with a cache: all that is missing is extracted, and what it had to extract comes back."""
    cache = FeatureCache(root, fingerprint)
    cache.create()
    store = cache.store("train", shape)
    store.create(cells)
    missing = store.missing(cells, range(shape.num_shards))
    for shard in missing:
        errors = {image: message for image, message in ERRORS.items() if image in shape.images_of(shard)}
        store.write(shard, {cell: rows_of(cell, shard, shape) for cell in cells}, errors)
    store.finish(cells)
    return missing, store


def contents(root):
    """Every file below a folder, by name, without locks and leftovers of writes that never ended."""
    root = Path(root)
    files = (path for path in root.rglob("*") if path.is_file())
    kept = (path for path in files if not path.name.endswith((".partial", ".__lock", ".lock")))
    return {str(path.relative_to(root)): path.read_bytes() for path in kept}
