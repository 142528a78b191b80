"""From a JPEG to the network's input, by every family's record and by its authors' arithmetic, written with Pillow alone."""

import dataclasses
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments.backbones import family_transform
from vitprobe_jax.backbones.capture import normalize
from vitprobe_jax.backbones.config import BackboneSpec, Preprocess
from vitprobe_jax.backbones.families import FAMILIES
from vitprobe_jax.data.imagefolder import open_imagefolder
from vitprobe_jax.data.transforms import Transform

BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
SATELLITE = (0.430, 0.411, 0.296), (0.213, 0.156, 0.143)
# Odd sizes, upright and lying; what is cut off is an odd number of pixels at some of them.
PHOTOGRAPHS = [(333, 501), (525, 397), (449, 601), (257, 771)]


@dataclasses.dataclass(frozen=True)
class Authors:
    """What the authors' script does at a size.

    Attributes:
        resized: from the crop's side to the pixels of the short side after the resize; None for a resize to a square of
            the crop itself.
        filter: of the resize.
        normalisation: mean and deviation.
        sizes: crops that the script is run at.
    """

    resized: Callable[[int], int] | None = lambda side: 256
    filter: Image.Resampling = BICUBIC
    normalisation: tuple = IMAGENET
    sizes: tuple[int, ...] = (224,)


def mae_finetuned(side):
    """facebookresearch/mae, util/datasets.py, build_transform."""
    crop_pct = 224 / 256 if side <= 224 else 1.0
    return int(side / crop_pct)


def beit(side):
    """microsoft/unilm, beit/datasets.py and beit2/datasets.py, build_transform."""
    crop_pct = 224 / 256 if side < 384 else 1.0
    return int(side / crop_pct)


def slowfast(side):
    """facebookresearch/SlowFast, slowfast/datasets/imagenet.py; microsoft/SimMIM, data/data_finetune.py."""
    return int((256 / 224) * side)


# The default is Resize(256, interpolation=3), CenterCrop(224). DINOv3 scales with the crop.
AUTHORS = {
    "dino": Authors(),  # facebookresearch/dino, eval_knn.py and eval_linear.py
    "ibot": Authors(),  # bytedance/ibot, evaluation/eval_knn.py
    "dinov2": Authors(),  # facebookresearch/dinov2, dinov2/data/transforms.py
    "dinov3": Authors(lambda side: int(256 * side / 224), sizes=(224, 384, 512)),  # dinov3/data/transforms.py
    "mocov3": Authors(filter=BILINEAR),  # facebookresearch/moco-v3, main_lincls.py
    "msn": Authors(filter=BILINEAR),  # facebookresearch/msn, logistic_eval.py
    "mae": Authors(),  # facebookresearch/mae, main_linprobe.py
    "simmim": Authors(slowfast, sizes=(192, 224, 384)),
    # Mean and deviation are 0.5 unless --imagenet_default_mean_and_std is given.
    "beit": Authors(beit, normalisation=HALF, sizes=(224, 384)),
    "beit_finetuned": Authors(beit, normalisation=HALF, sizes=(224, 384, 512)),
    "beitv2": Authors(beit, sizes=(224, 256, 384)),
    "maskfeat": Authors(slowfast, sizes=(224, 384)),
    # No evaluation is published, and the usual one is taken.
    "ijepa": Authors(),
    "capi": Authors(),  # facebookresearch/capi, eval_classification.py
    # bair-climate-initiative/scale-mae, scalemae/main_linprobe.py: Resize((eval_scale, eval_scale)), no filter named.
    "scalemae": Authors(None, BILINEAR, sizes=(224, 256)),
    "mae_finetuned": Authors(mae_finetuned, sizes=(192, 224, 256, 384)),
    "simmim_finetuned": Authors(slowfast, sizes=(224, 384)),
    "beitv2_finetuned": Authors(beit, sizes=(224, 256, 384, 512)),
    "torchvision": Authors(filter=BILINEAR),  # torchvision/models/vision_transformer.py
    "torchvision vitl16": Authors(lambda side: 242, BILINEAR),
    # facebookresearch/deit, datasets.py: input_size / eval_crop_ratio, 0.875.
    "deit": Authors(lambda side: int(side / 0.875), sizes=(224, 384)),
    "deit_distilled": Authors(lambda side: int(side / 0.875), sizes=(224, 384)),
    # timm/data/transforms_factory.py, transforms_imagenet_eval, with the crop_pct of vision_transformer.py.
    "augreg": Authors(lambda side: math.floor(side / 0.9), normalisation=HALF, sizes=(224, 384)),
    "dinov3 vitl16_sat": Authors(normalisation=SATELLITE),
}


def theirs(image: Image.Image, authors: Authors, side: int) -> np.ndarray:
    """Resize, CenterCrop, ToTensor and Normalize of torchvision, on a PIL image."""
    width, height = image.size
    if authors.resized is None:
        image = image.resize((side, side), authors.filter)
    else:
        short = authors.resized(side)
        if width <= height:
            image = image.resize((short, int(short * height / width)), authors.filter)
        else:
            image = image.resize((int(short * width / height), short), authors.filter)
        width, height = image.size
        left, top = round((width - side) / 2.0), round((height - side) / 2.0)
        image = image.crop((left, top, left + side, top + side))
    mean, std = authors.normalisation
    return (np.asarray(image, np.float64) / 255 - mean) / std


def ours(image: Image.Image, preprocess: Preprocess, side: int) -> np.ndarray:
    pixels = family_transform(preprocess, (side, side), "family").image(image)
    return np.asarray(normalize(jnp.asarray(pixels[None]), preprocess))[0]


def assert_within_a_grey_level(image: Image.Image, name: str, side: int) -> None:
    authors = AUTHORS[name]
    expected, actual = theirs(image, authors, side), ours(image, record(name), side)
    assert actual.shape == expected.shape == (side, side, 3)
    assert np.abs((actual - expected) * authors.normalisation[1] * 255).max() < 1


def record(name: str) -> Preprocess:
    family, *arch = name.split()
    return FAMILIES[family].archs[arch[0]].preprocess if arch else FAMILIES[family].preprocess


def photograph(height: int, width: int) -> Image.Image:
    """Smooth colours, edges and grain: a shift by a pixel, a size or a filter are all seen."""
    rng = np.random.default_rng([height, width])
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), np.uint8)).resize((width, height), BICUBIC)
    rows, columns = np.indices((height, width))
    edges = 60 * ((rows // 13 + columns // 17) % 2)[..., None]
    grain = rng.integers(-25, 25, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(coarse, int) + edges + grain, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Four JPEGs in a folder of classes, read back by the library."""
    folder = tmp_path_factory.mktemp("photographs")
    for split in ("train", "val"):
        for number, size in enumerate(PHOTOGRAPHS):
            path = folder / split / f"class_{number % 2}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            photograph(*size).save(path, quality=92)
    split = open_imagefolder(folder, "photographs").splits["val"]
    images = [split.image(number) for number in range(len(PHOTOGRAPHS))]
    assert sorted((image.height, image.width) for image in images) == sorted(PHOTOGRAPHS)
    return images


def test_every_family_is_here():
    archs = ((name, arch) for name, family in FAMILIES.items() for arch in family.archs.items())
    special = {f"{name} {arch}" for name, (arch, published) in archs if published.preprocess}
    assert AUTHORS.keys() == FAMILIES.keys() | special
    for name, family in FAMILIES.items():
        assert bool(family.preprocess_source) == (name != "ijepa")


@pytest.mark.parametrize("name", AUTHORS)
def test_a_jpeg_becomes_what_the_authors_make_of_it(name, photographs):
    for side in AUTHORS[name].sizes:
        for image in photographs:
            assert_within_a_grey_level(image, name, side)


@pytest.mark.parametrize("name", AUTHORS)
def test_real_photographs_become_what_the_authors_make_of_them(name, shared_data):
    paths = sorted((shared_data / "camvid_broden").rglob("*.jpg"))[:2]
    assert paths
    for path in paths:
        with Image.open(path) as file:
            image = file.convert("RGB")
        assert_within_a_grey_level(image, name, AUTHORS[name].sizes[-1])


@pytest.mark.parametrize(
    ("name", "side", "resized"),
    [
        ("augreg", 224, 248),
        ("augreg", 384, 426),
        ("deit", 384, 438),
        ("maskfeat", 384, 438),
        ("mae_finetuned", 224, 256),
        ("mae_finetuned", 384, 384),
        ("beitv2_finetuned", 256, 292),
        ("beitv2_finetuned", 384, 384),
        ("torchvision vitl16", 224, 242),
    ],
)
def test_sizes_after_the_resize(name, side, resized):
    transform = family_transform(record(name), (side, side), "family")
    assert transform._geometry((2000, 1000))[0] == (2 * resized, resized)


def test_records_that_do_not_say_round_as_they_did():
    """A folder that was converted before keeps its pixels: 249 px of augreg's 248.9."""
    spec = BackboneSpec.from_json(old_record(resize_ratio=1 / 0.9))
    assert family_transform(spec.preprocess, (224, 224), "family")._geometry((500, 500))[0] == (249, 249)
    assert BackboneSpec.from_json(spec.to_json()) == spec


def old_record(**preprocess) -> dict:
    config = {"patch_size": 16, "width": 12, "depth": 1, "num_heads": 1, "mlp_dim": 24, "grid": [14, 14]}
    half = [0.5, 0.5, 0.5]
    data = {"mean": half, "std": half, "interpolation": "bicubic", **preprocess}
    return {"name": "mine", "family": "augreg", "objective": "any", "config": config, "preprocess": data}


def test_bent_images_and_crops_rounded_down():
    image = photograph(101, 67)
    bent = Transform((32, 32), "family", 41 / 32, "bilinear", aspect="bent", crop_rounding="down").image(image)
    expected = image.resize((41, 41), BILINEAR).crop((4, 4, 36, 36))
    np.testing.assert_array_equal(bent, np.asarray(expected))
    kept = Transform((32, 32), "family", 41 / 32, "bilinear", crop_rounding="down").image(image)
    expected = image.resize((41, 61), BILINEAR).crop((4, 14, 36, 46))
    np.testing.assert_array_equal(kept, np.asarray(expected))
