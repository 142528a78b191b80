"""MAE's decoder without some features, against the whole model run image by image and scikit-image's scores."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import path_aware_map
from skimage import metrics

from experiments.local.parts.reconstruction import PART, mask_orders, measure
from tests.backbones.random_vit import random_params, tiny
from tests.experiments.local.make_bench import Painted, make_bench, painted
from tests.zoo.quick import quick_jit
from vitprobe_jax.backbones.capture import normalize
from vitprobe_jax.backbones.config import BackboneSpec, DecoderConfig
from vitprobe_jax.backbones.loading import load_backbone, load_decoder, make_decoder
from vitprobe_jax.backbones.mae_decoder import reconstruct, to_images
from vitprobe_jax.backbones.saving import save_backbone, streamed
from vitprobe_jax.errors import InputError
from vitprobe_jax.metrics.measurements import make_measurements

CONFIG = tiny("mae", patch_size=8, width=24, depth=1, num_heads=2, mlp_dim=24, grid=(3, 4))
DECODER = DecoderConfig(width=16, depth=1, num_heads=2, mlp_dim=16)
SIZE, PATCHES, DROPPED = (24, 32), 12, 5
CELL = (0, "x2")
LEFT_OUT = 1
"""The held-out image that cannot be decoded."""


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """An encoder and a decoder with random weights; the decoder's own biases and embeddings matter less than its input."""
    rng, module = np.random.default_rng(2), make_decoder(CONFIG, DECODER)
    inputs = jnp.zeros((1, 1 + PATCHES, CONFIG.width)), jnp.zeros((1, PATCHES), jnp.int32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    decoder = path_aware_map(
        lambda path, leaf: (
            rng.normal(scale=leaf.shape[0] ** -0.5 if path[-1] == "kernel" else 0.1, size=leaf.shape)
            + (path[-1] == "scale")
        ),
        shapes,
    )
    folder = tmp_path_factory.mktemp("zoo") / "mae_tiny"
    spec = BackboneSpec(name="mae_tiny", family="mae", objective="MAE", config=CONFIG, decoder=DECODER)
    save_backbone(folder, spec, streamed(random_params(CONFIG)), streamed(decoder))
    return load_backbone(str(folder))


def pictures(count, seed):
    """Smooth images of their own colours with a little noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1]][..., None] / 32
    made = [rng.random(3) * (1 - y) + rng.random(3) * x + rng.normal(scale=0.05, size=(*SIZE, 3)) for _ in range(count)]
    return tuple(np.clip(255 * image, 0, 255).astype(np.uint8) for image in made)


def bench_of(out, backbone, *arguments, **fields):
    val = list(pictures(5, 1))
    val[LEFT_OUT] = None
    data = painted(Painted(pictures(3, 0)), Painted(tuple(val)), (), **{"tile": 0} | fields)
    return make_bench(out, data, backbone, "--examples=2", *arguments)


@pytest.fixture(scope="module")
def measured(backbone, tmp_path_factory):
    """In batches of 4 on one device: the undecodable image is in the first, the second is mostly padding."""
    arguments = ("--batch_size=4", "--mesh=1", f"--drop_features=0,2,{DROPPED}")
    bench = bench_of(tmp_path_factory.mktemp("run"), backbone, *arguments)
    return bench, measure(bench, CELL, [CELL])


@pytest.fixture(scope="module")
def oracle(backbone, measured):
    """What `reconstruct` makes of each image alone; features are taken from the decoder by what it first does with them."""
    bench, _ = measured
    decoder, weights = load_decoder(backbone.folder)
    (note,) = (note for note in bench.rows.folder.notes if "decoder was trained" in note)
    target = "normalised patches" if "normalised patches" in note else "pixels"
    train = np.stack(bench.dataset.splits["train"].images)
    tokens = np.asarray(backbone.tokens(train, [CELL])[CELL])[:, 1:].reshape(-1, CONFIG.width)
    ranked = np.argsort(-tokens.var(axis=0))
    zeroed = {
        ("all", 0): ranked[:0],
        ("without top", DROPPED): ranked[:DROPPED],
        ("without bottom", DROPPED): ranked[-DROPPED:],
    }

    def run(pixels, order, weights, num_visible):
        normalised = normalize(pixels, backbone.spec.preprocess)
        made = reconstruct(CONFIG, decoder, backbone.params, weights, normalised, order, num_visible=num_visible)
        return to_images(made, pixels, target, backbone.spec.preprocess, CONFIG.patch_size)

    run = quick_jit(run, static_argnums=3)
    images = bench.dataset.splits["val"].images
    kept = [index for index in range(len(images)) if index != LEFT_OUT]
    made = {}
    for variant, features in zeroed.items():
        kernel = weights["embed"]["kernel"].at[features].set(0)
        changed = {**weights, "embed": {**weights["embed"], "kernel": kernel}}
        for level, num_visible in ((0.0, PATCHES), (0.75, PATCHES // 4)):
            orders = [mask_orders(bench.config.seed, np.array([index]), CONFIG.grid) for index in kept]
            made[variant, level] = [
                np.asarray(run(images[index][None], order, changed, num_visible))[0]
                for index, order in zip(kept, orders, strict=True)
            ]
    return [images[index] for index in kept], made


SCORES = {
    "mse": metrics.mean_squared_error,
    "psnr": lambda true, made: metrics.peak_signal_noise_ratio(true, made, data_range=1.0),
    "ssim": lambda true, made: metrics.structural_similarity(
        true, made, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=-1
    ),
}


def test_every_variant_and_level_scores_as_the_whole_model_does(measured, oracle):
    images, made = oracle
    table = make_measurements(measured[1].rows).to_pylist()
    assert len(table) == len(made) * len(SCORES)
    for row in table:
        score, reconstructions = SCORES[row["measure"]], made[(row["features"], row["dropped"]), row["level"]]
        expected = [
            score(true.astype(np.float32) / 255, image) for true, image in zip(images, reconstructions, strict=True)
        ]
        assert row["count"] == len(images)
        assert row["setting"] == "masked"
        # Float32 through a few layers.
        assert row["value"] == pytest.approx(np.mean(expected), rel=1e-4), row


def test_what_is_left_out_and_what_is_masked_makes_a_difference(oracle):
    _, made = oracle
    differing = list(made.values())
    for i, first in enumerate(differing):
        for second in differing[:i]:
            assert np.abs(np.array(first) - np.array(second)).max() > 0.02


def test_pictures_are_the_first_images_and_what_is_made_of_them(measured, oracle):
    images, made = oracle
    shown = measured[1].pictures
    np.testing.assert_array_equal(shown["image"], images[:2])
    assert shown.keys() == {"image"} | {f"{kind} {m} masked {level}" for (kind, m), level in made}
    for ((kind, m), level), reconstructions in made.items():
        assert shown[f"{kind} {m} masked {level}"].dtype == np.uint8
        # Rounding may fall to either side.
        np.testing.assert_allclose(
            shown[f"{kind} {m} masked {level}"], 255 * np.stack(reconstructions[:2]), atol=0.5 + 1e-2
        )


def test_devices_and_batches_change_nothing(backbone, measured, tmp_path):
    other = measure(bench_of(tmp_path, backbone, "--drop_features=0", "--batch_size=5", "--mesh=4"), CELL, [CELL])
    of_all = [row for row in measured[1].rows if row["features"] == "all"]
    for row, same in zip(other.rows, of_all, strict=True):
        assert row | {"value": 0} == same | {"value": 0}
        assert row["value"] == pytest.approx(same["value"], rel=1e-5)


def test_masks_belong_to_an_image_and_a_seed():
    orders = mask_orders(3, np.arange(4), (3, 4))
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(PATCHES), (4, 1)))
    np.testing.assert_array_equal(mask_orders(3, np.array([2]), (3, 4))[0], orders[2])
    assert len({tuple(order) for order in (*orders, *mask_orders(4, np.arange(4), (3, 4)))}) == 8


@pytest.mark.parametrize(
    ("changes", "arguments", "reason"),
    [
        ({"decoder": None}, (), "has no decoder; convert MAE's full checkpoint"),
        ({}, ("--image_size=32",), "no images of 32x32; give --image_size=24x32"),
    ],
)
def test_a_backbone_that_cannot_reconstruct_has_one_skipped_row(backbone, tmp_path, changes, arguments, reason):
    other = dataclasses.replace(backbone, spec=dataclasses.replace(backbone.spec, **changes))
    found = measure(bench_of(tmp_path, other, *arguments), CELL, [CELL])
    (row,) = make_measurements(found.rows).to_pylist()
    assert (row["part"], row["measure"], row["count"]) == (PART.name, "mse", 0)
    assert reason in row["skipped"]
    assert not found.pictures


def test_an_image_that_must_be_there_ends_in_one_line(backbone, tmp_path):
    with pytest.raises(InputError, match=r"^painted/1: cannot be decoded"):
        measure(bench_of(tmp_path, backbone, skip_corrupt=False), CELL, [CELL])
