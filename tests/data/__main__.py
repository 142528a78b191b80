"""`python -m tests.data --output=DIR` writes a small tree of every official layout that is drawn by code."""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from tests.data.ade20k_tree import write_ade20k
from tests.data.bdd100k_tree import write_bdd100k
from tests.data.box_tree import write_objects
from tests.data.cityscapes_tree import write_cityscapes
from tests.data.class_tree import write_classes
from tests.data.coco_tree import write_coco
from tests.data.fair1m_tree import write_fair1m
from tests.data.fine_trees import write_cars, write_cub200, write_food101, write_pets
from tests.data.mot_tree import write_mot
from tests.data.nuswide_tree import write_nuswide
from tests.data.scenes_tree import write_resisc45, write_ucmerced
from vitprobe_jax import cli
from vitprobe_jax.errors import InputError

_OUTPUT = flags.DEFINE_string("output", None, "Folder to write.")
_SEED = flags.DEFINE_integer("seed", 0, "Of all that is drawn.")


def main(argv: Sequence[str]) -> None:
    """Writes the trees and prints what --dataset takes: a line for study 2, one for study 3 (--boxes: objects)."""
    if len(argv) > 1 or _OUTPUT.value is None:
        raise InputError("--output: name the folder to write; there are no arguments")
    root, seed = Path(_OUTPUT.value), _SEED.value
    local = {
        "cityscapes": write_cityscapes(root / "streets", size=(256, 512), seed=seed),
        "ade20k": write_ade20k(root / "rooms", seed=seed),
        "fair1m": write_fair1m(root / "aerial", seed=seed, num_images=4, size=(448, 448)),
        "mot17": write_mot(root / "people", seed=seed, num_frames=10, size=(240, 320)),
        "mot16": write_mot(root / "people16", seed=seed, sequences=("MOT16-02", "MOT16-04")),
        "mot20": write_mot(root / "people20", seed=seed, sequences=("MOT20-01", "MOT20-02")),
        "bdd100k": write_bdd100k(root / "traffic", seed=seed, num_frames=10, size=(240, 426)),
        "imagefolder": write_classes(root / "scenes", seed=seed),
        "ucmerced": write_ucmerced(root, seed=seed),
        "resisc45": write_resisc45(root, seed=seed),
    }
    aggregate = {
        "imagefolder": write_objects(root / "objects", seed=seed),
        "coco": write_coco(root / "things", seed=seed),
        "nuswide": write_nuswide(root / "words", seed=seed),
        "cub200": write_cub200(root, seed=seed),
        "cars": write_cars(root, seed=seed),
        "pets": write_pets(root, seed=seed),
        "food101": write_food101(root, seed=seed),
    }
    for written in (local, aggregate):
        print(",".join(f"{kind}:{folder}" for kind, folder in written.items()))


if __name__ == "__main__":
    cli.run(main)
