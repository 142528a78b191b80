"""Images and what is annotated on them: one file a data set, transforms, labels, the grain pipeline."""

import os
from collections.abc import Callable

from vitprobe_jax.data.ade20k import open_ade20k
from vitprobe_jax.data.bdd100k import open_bdd100k
from vitprobe_jax.data.broden import open_broden
from vitprobe_jax.data.cars import open_cars
from vitprobe_jax.data.cityscapes import open_cityscapes
from vitprobe_jax.data.coco import open_coco
from vitprobe_jax.data.cub200 import open_cub200
from vitprobe_jax.data.dataset import Dataset
from vitprobe_jax.data.fair1m import open_fair1m
from vitprobe_jax.data.food101 import open_food101
from vitprobe_jax.data.imagefolder import open_imagefolder
from vitprobe_jax.data.imagenet200 import open_imagenet200
from vitprobe_jax.data.motchallenge import open_motchallenge
from vitprobe_jax.data.nuswide import open_nuswide
from vitprobe_jax.data.pets import open_pets
from vitprobe_jax.data.scenes import open_resisc45, open_ucmerced
from vitprobe_jax.errors import InputError


def open_dataset(spec: str, *, seed: int) -> Dataset:
    """Opens what `--dataset` names: `KIND:ARGUMENT`.

    `ade20k:DIR`, `bdd100k:DIR`, `broden:DIR`, `cars:DIR`, `cityscapes:DIR`, `coco:DIR`, `cub200:DIR`, `fair1m:DIR`,
    `food101:DIR`, `imagefolder:DIR`, `imagenet200:DIR`, `mot16:DIR`, `mot17:DIR`, `mot20:DIR`, `nuswide:DIR`, `pets:DIR`,
    `resisc45:DIR`, `shapes:N`, `tfds:NAME[@DATA_DIR]` and `ucmerced:DIR`. Results call a folder by its last name alone, and
    a data set of tfds by its name and version, so that moving the data changes no table. Data sets of tracks (bdd100k,
    mot16, mot17, mot20) have no split `train`; those of many labels an image (coco, nuswide) are `Dataset.multilabel`.

    Args:
        spec: as given to `--dataset`.
        seed: of procedural data sets, of the images that imagenet200 draws, and of the split of resisc45 and ucmerced. One
            that tfds has prepared was drawn then.

    Raises:
        InputError: the kind is unknown, its argument is missing or unfit, or a split has no images.
    """
    kind, _, argument = spec.partition(":")
    if kind not in _KINDS:
        raise InputError(f"--dataset: {spec!r} is of no known kind; give one of {', '.join(_USAGE.values())}")
    if not argument:
        raise InputError(f"--dataset: {spec!r} lacks what to open; give {_USAGE[kind]}")
    dataset = _KINDS[kind](argument, seed)
    for split, images in dataset.splits.items():
        if not len(images):
            raise InputError(f"--dataset: {spec} has no {split} images; templates need both train and val")
    return dataset


def _folder_name(folder: str) -> str:
    return os.path.basename(os.path.abspath(os.path.expanduser(folder)))


def _open_mot(benchmark: str) -> Callable[[str, int], Dataset]:
    kind = benchmark.lower()
    return lambda folder, seed: open_motchallenge(folder, f"{kind}:{_folder_name(folder)}", benchmark=benchmark)


def _open_tfds(argument: str, seed: int) -> Dataset:
    # Here, so that only those who ask for tfds wait for its import.
    from vitprobe_jax.data.tfds_dataset import open_tfds

    return open_tfds(argument)


def _open_shapes(argument: str, seed: int) -> Dataset:
    if not argument.isdecimal() or int(argument) == 0:
        raise InputError(f"--dataset: shapes:{argument} asks for no number of images; give a whole number, shapes:64")
    # Here, so that only those who ask for drawings load what draws them.
    from vitprobe_jax.data.shapes import open_shapes

    return open_shapes(int(argument), seed=seed, name=f"shapes:{int(argument)}")


_KINDS: dict[str, Callable[[str, int], Dataset]] = {
    "ade20k": lambda folder, seed: open_ade20k(folder, f"ade20k:{_folder_name(folder)}"),
    "bdd100k": lambda folder, seed: open_bdd100k(folder, f"bdd100k:{_folder_name(folder)}"),
    "broden": lambda folder, seed: open_broden(folder, f"broden:{_folder_name(folder)}"),
    "cars": lambda folder, seed: open_cars(folder, f"cars:{_folder_name(folder)}"),
    "cityscapes": lambda folder, seed: open_cityscapes(folder, f"cityscapes:{_folder_name(folder)}"),
    "coco": lambda folder, seed: open_coco(folder, f"coco:{_folder_name(folder)}"),
    "cub200": lambda folder, seed: open_cub200(folder, f"cub200:{_folder_name(folder)}"),
    "fair1m": lambda folder, seed: open_fair1m(folder, f"fair1m:{_folder_name(folder)}"),
    "food101": lambda folder, seed: open_food101(folder, f"food101:{_folder_name(folder)}"),
    "imagefolder": lambda folder, seed: open_imagefolder(folder, f"imagefolder:{_folder_name(folder)}"),
    "imagenet200": lambda folder, seed: open_imagenet200(folder, f"imagenet200:{_folder_name(folder)}", seed=seed),
    "mot16": _open_mot("MOT16"),
    "mot17": _open_mot("MOT17"),
    "mot20": _open_mot("MOT20"),
    "nuswide": lambda folder, seed: open_nuswide(folder, f"nuswide:{_folder_name(folder)}"),
    "pets": lambda folder, seed: open_pets(folder, f"pets:{_folder_name(folder)}"),
    "resisc45": lambda folder, seed: open_resisc45(folder, f"resisc45:{_folder_name(folder)}", seed=seed),
    "shapes": _open_shapes,
    "tfds": _open_tfds,
    "ucmerced": lambda folder, seed: open_ucmerced(folder, f"ucmerced:{_folder_name(folder)}", seed=seed),
}
_USAGE = {
    "ade20k": "ade20k:DIR",
    "bdd100k": "bdd100k:DIR",
    "broden": "broden:DIR",
    "cars": "cars:DIR",
    "cityscapes": "cityscapes:DIR",
    "coco": "coco:DIR",
    "cub200": "cub200:DIR",
    "fair1m": "fair1m:DIR",
    "food101": "food101:DIR",
    "imagefolder": "imagefolder:DIR",
    "imagenet200": "imagenet200:DIR",
    "mot16": "mot16:DIR",
    "mot17": "mot17:DIR",
    "mot20": "mot20:DIR",
    "nuswide": "nuswide:DIR",
    "pets": "pets:DIR",
    "resisc45": "resisc45:DIR",
    "shapes": "shapes:N",
    "tfds": "tfds:NAME[@DATA_DIR]",
    "ucmerced": "ucmerced:DIR",
}
