"""MAE's decoder against transformers' own, from the same official file."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

# Must come before transformers.
from experiments.benchmarks import torch_ops  # noqa: F401

# isort: split
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from tests.zoo import SPECIMENS
from tests.zoo.conversion import Converted, convert_into
from tests.zoo.parity import random_images, trace_ours
from tests.zoo.quick import quick_jit
from tests.zoo.tracing import to_torch
from tests.zoo.transformers_layers import renamed
from tests.zoo.vit_models import VIT_NAMES, transformers_sizes
from vitprobe_jax.backbones import mae_decoder
from vitprobe_jax.backbones.config import Preprocess
from vitprobe_jax.backbones.loading import load_decoder, make_decoder
from vitprobe_jax.pretraining.mae import normalized_patches

# Float32 on both sides, activations of order 1, four blocks.
TOLERANCE = 1e-5

SIDE = SPECIMENS["mae_decoder"].tiny.grid
PATCHES = SIDE * SIDE
WIDTH = SPECIMENS["mae_decoder"].tiny.width


@pytest.fixture(scope="module")
def mae(tmp_path_factory) -> Converted:
    return convert_into(tmp_path_factory.mktemp("mae"), SPECIMENS["mae_decoder"])


@pytest.fixture(scope="module")
def images(mae) -> np.ndarray:
    return random_images(mae.sizes, (SIDE, SIDE), batch=2)


def transformers_mae(mae: Converted, *, mask_ratio: float) -> ViTMAEForPreTraining:
    """transformers' MAE, encoder and decoder; `noise` given to it says which patches stay visible."""
    decoder = mae.backbone.spec.decoder
    model = ViTMAEForPreTraining(
        ViTMAEConfig(
            image_size=SIDE * mae.sizes.patch_size,
            patch_size=mae.sizes.patch_size,
            decoder_hidden_size=decoder.width,
            decoder_num_hidden_layers=decoder.depth,
            decoder_num_attention_heads=decoder.num_heads,
            decoder_intermediate_size=decoder.mlp_dim,
            mask_ratio=mask_ratio,
            **transformers_sizes(mae.sizes),
        )
    )
    of_decoder = {key for key in mae.state if key.startswith("decoder_") or key == "mask_token"}
    encoder = {key: value for key, value in mae.state.items() if key not in of_decoder}
    # transformers calls the decoder's blocks decoder_layers; otherwise the official names stay.
    blocks = {key for key in of_decoder if key.startswith("decoder_blocks.")}
    renamed_blocks = renamed({key.removeprefix("decoder_"): mae.state[key] for key in blocks}, VIT_NAMES)
    model.load_state_dict(
        {f"vit.{key}": value for key, value in renamed(encoder, VIT_NAMES).items()}
        | {f"decoder.decoder_{key}": value for key, value in renamed_blocks.items()}
        | {f"decoder.{key}": mae.state[key] for key in of_decoder - blocks}
    )
    return model.eval()


@pytest.fixture(scope="module")
def decode(mae):
    """From tokens of the encoder and the order of patches, the pixels of every patch."""
    config, params = load_decoder(mae.folder)
    module = make_decoder(mae.backbone.spec.config, config)
    apply = quick_jit(lambda encoded, restore: module.apply({"params": params}, encoded, restore))
    return lambda encoded, restore: np.asarray(apply(jnp.asarray(encoded), jnp.asarray(restore, jnp.int32)))


def run_oracle(mae: Converted, images, noise, mask_ratio):
    """Encoder output, restore order and pixels of transformers' MAE."""
    model = transformers_mae(mae, mask_ratio=mask_ratio)
    with torch.no_grad():
        encoded = model.vit(to_torch(images), noise=torch.from_numpy(noise))
        output = model(to_torch(images), noise=torch.from_numpy(noise))
    return encoded.last_hidden_state.numpy(), output.ids_restore.numpy(), output.logits.numpy()


@pytest.mark.parametrize("mask_ratio", [0.0, 0.75])
def test_decoder_is_that_of_transformers(mae, decode, images, mask_ratio):
    noise = np.random.default_rng(1).random((2, PATCHES)).astype(np.float32)
    encoded, restore, pixels = run_oracle(mae, images, noise, mask_ratio)
    assert encoded.shape[1] == 1 + int(PATCHES * (1 - mask_ratio))
    np.testing.assert_allclose(decode(encoded, restore), pixels, atol=TOLERANCE)


def test_encoder_and_decoder_with_nothing_masked(mae, decode, images):
    noise = np.tile(np.arange(PATCHES, dtype=np.float32), (2, 1))
    _, restore, pixels = run_oracle(mae, images, noise, 0.0)
    np.testing.assert_array_equal(restore, np.tile(np.arange(PATCHES), (2, 1)))
    encoded = trace_ours(mae, images, quick=True)[mae.sizes.depth - 1, "x2"]
    np.testing.assert_allclose(decode(encoded, restore), pixels, atol=TOLERANCE)


def test_order_of_visible_patches_does_not_matter(decode):
    rng = np.random.default_rng(2)
    encoded, order = rng.normal(size=(1, 1 + PATCHES, WIDTH)).astype(np.float32), rng.permutation(PATCHES)
    shuffled = np.concatenate([encoded[:, :1], encoded[:, 1:][:, order]], axis=1)
    sorted_pixels = decode(encoded, np.arange(PATCHES)[None])
    np.testing.assert_allclose(decode(shuffled, np.argsort(order)[None]), sorted_pixels, atol=TOLERANCE)


def test_a_masked_patch_tells_nothing_of_itself(decode):
    # Only [CLS] visible: patches differ by their positions alone, and not at all between images with one [CLS].
    encoded = np.repeat(np.random.default_rng(3).normal(size=(1, 1, WIDTH)).astype(np.float32), 2, axis=0)
    restore = np.stack([np.arange(PATCHES), np.arange(PATCHES)[::-1]])
    pixels = decode(encoded, restore)
    np.testing.assert_allclose(pixels[0], pixels[1], atol=TOLERANCE)
    assert np.abs(pixels[0, 0] - pixels[0, 1]).max() > 0.1


def test_visible_patches_without_some_features(mae, images):
    """Encoder and decoder apart, and what is done between them, as transformers' modules do it."""
    noise = np.random.default_rng(4).random((2, PATCHES)).astype(np.float32)
    keep = np.random.default_rng(5).random(WIDTH) < 0.7
    encoded, restore, whole = run_oracle(mae, images, noise, 0.75)
    with torch.no_grad():
        model = transformers_mae(mae, mask_ratio=0.75)
        pixels = model.decoder(torch.from_numpy(encoded * keep), torch.from_numpy(restore)).logits.numpy()
    config, decoder, (_, params) = mae.backbone.spec.config, mae.backbone.spec.decoder, load_decoder(mae.folder)

    @quick_jit
    def ours(images, order, keep):
        seen = mae_decoder.encode_visible(config, mae.backbone.params, images, order, num_visible=encoded.shape[1] - 1)
        return seen, mae_decoder.decode(config, decoder, params, seen * keep[None, None], order)

    seen, predicted = ours(images, np.argsort(noise, axis=1), keep.astype(np.float32))
    np.testing.assert_allclose(seen, encoded, atol=TOLERANCE)
    np.testing.assert_allclose(predicted, pixels, atol=TOLERANCE)
    assert np.abs(pixels - whole).max() > 0.1


def test_a_backbone_knows_the_folder_of_its_decoder(mae):
    assert load_decoder(mae.backbone.folder)[0] == mae.backbone.spec.decoder


@pytest.fixture(scope="module")
def photographs():
    """Coloured gradients with a little noise, [3, 24, 32, 3] in 0..255: levels differ more between patches than within."""
    y, x = np.mgrid[0:24, 0:32] / 32
    noise = np.random.default_rng(6).normal(scale=0.05, size=(3, 24, 32, 3))
    smooth = np.stack([np.stack([y, x, (x + y) / 2], -1), np.stack([1 - y, y, x], -1), np.stack([x, x, 1 - x], -1)])
    return np.clip(255 * (smooth + noise), 0, 255).astype(np.uint8)


def test_patches_are_those_of_transformers_and_make_the_image_again(mae):
    side = SIDE * mae.sizes.patch_size
    images = np.random.default_rng(7).random((2, side, side, 3)).astype(np.float32)
    patches = mae_decoder.patchify(jnp.asarray(images), mae.sizes.patch_size)
    theirs = transformers_mae(mae, mask_ratio=0.0).patchify(torch.from_numpy(images).permute(0, 3, 1, 2))
    np.testing.assert_array_equal(patches, theirs.numpy())
    np.testing.assert_array_equal(mae_decoder.unpatchify(patches, mae.sizes.patch_size, (SIDE, SIDE)), images)


PREPROCESS = Preprocess(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


def of_pixels(photographs):
    """A perfect prediction by a decoder of pixels."""
    mean, std = (np.array(values, np.float32) for values in (PREPROCESS.mean, PREPROCESS.std))
    return np.asarray(mae_decoder.patchify(jnp.asarray((photographs / np.float32(255) - mean) / std), 8))


def of_normalised_patches(photographs):
    """A perfect prediction by one of normalised patches, as training makes its target."""
    return np.asarray(normalized_patches(jnp.asarray(photographs / np.float32(255)), 8))


PERFECT = {"pixels": of_pixels, "normalised patches": of_normalised_patches}


@pytest.mark.parametrize("target", PERFECT)
def test_a_perfect_prediction_is_the_image(photographs, target):
    predicted = jnp.asarray(PERFECT[target](photographs))
    images = mae_decoder.to_images(predicted, jnp.asarray(photographs), target, PREPROCESS, 8)
    np.testing.assert_allclose(images, photographs / 255, atol=1e-6)
    assert mae_decoder.to_images(predicted + 100, jnp.asarray(photographs), target, PREPROCESS, 8).max() == 1


@pytest.mark.parametrize("target", PERFECT)
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_the_target_is_known_by_poor_predictions_of_masked_patches(photographs, target, share):
    rng = np.random.default_rng(8)
    perfect = PERFECT[target](photographs)
    poor = share * perfect + rng.normal(scale=0.2, size=perfect.shape)
    masked = rng.random(perfect.shape[:2]) < 0.75
    # What is seen was never trained on: it may be anything.
    poor[~masked] = 1e3
    found = mae_decoder.find_target(*map(jnp.asarray, (poor.astype(np.float32), photographs, masked)), PREPROCESS, 8)
    assert found == target
