import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.backbones import oracles
from tests.backbones.converted import Converted, convert_random
from vitprobe_jax.backbones.capture import capture
from vitprobe_jax.backbones.loading import load_decoder, make_decoder

SIZES = {"width": 40, "depth": 3, "num_heads": 5, "patch_size": 4, "grid": 4, "mlp_dim": 80}
DECODER = {"width": 36, "depth": 2, "num_heads": 3}

# Float32 on both sides, activations of order 1, five blocks.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def mae(tmp_path_factory) -> Converted:
    return convert_random(tmp_path_factory.mktemp("mae"), "mae", decoder=DECODER, **SIZES)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)


def decode(mae: Converted, encoded, restore) -> np.ndarray:
    config, params = load_decoder(mae.folder)
    module = make_decoder(mae.backbone.spec.config, config)
    return np.asarray(module.apply({"params": params}, jnp.asarray(encoded), jnp.asarray(restore, jnp.int32)))


def run_oracle(mae: Converted, images, noise, mask_ratio):
    """Encoder output, restore order and pixels of transformers' MAE."""
    spec = mae.backbone.spec
    model = oracles.transformers_mae(mae.state, spec.config, spec.decoder, mask_ratio=mask_ratio)
    with torch.no_grad():
        encoded = model.vit(oracles.to_torch(images), noise=torch.from_numpy(noise))
        output = model(oracles.to_torch(images), noise=torch.from_numpy(noise))
    return encoded.last_hidden_state.numpy(), output.ids_restore.numpy(), output.logits.numpy()


@pytest.mark.parametrize("mask_ratio", [0.0, 0.75])
def test_decoder_is_that_of_transformers(mae, images, mask_ratio):
    noise = np.random.default_rng(1).random((2, 16)).astype(np.float32)
    encoded, restore, pixels = run_oracle(mae, images, noise, mask_ratio)
    assert encoded.shape[1] == 1 + round(16 * (1 - mask_ratio))
    np.testing.assert_allclose(decode(mae, encoded, restore), pixels, atol=TOLERANCE)


def test_encoder_and_decoder_with_nothing_masked(mae, images):
    noise = np.tile(np.arange(16, dtype=np.float32), (2, 1))
    _, restore, pixels = run_oracle(mae, images, noise, 0.0)
    np.testing.assert_array_equal(restore, np.tile(np.arange(16), (2, 1)))
    config = mae.backbone.spec.config
    last = config.depth - 1
    encoded = capture(config, mae.backbone.params, jnp.asarray(images), [(last, "x2")])[last, "x2"]
    np.testing.assert_allclose(decode(mae, encoded, restore), pixels, atol=TOLERANCE)


def test_order_of_visible_patches_does_not_matter(mae):
    rng = np.random.default_rng(2)
    encoded, order = rng.normal(size=(1, 17, 40)).astype(np.float32), rng.permutation(16)
    shuffled = np.concatenate([encoded[:, :1], encoded[:, 1:][:, order]], axis=1)
    sorted_pixels = decode(mae, encoded, np.arange(16)[None])
    np.testing.assert_allclose(decode(mae, shuffled, np.argsort(order)[None]), sorted_pixels, atol=TOLERANCE)


def test_a_masked_patch_tells_nothing_of_itself(mae):
    # Only [CLS] visible: patches differ by their positions alone, and not at all between images with one [CLS].
    encoded = np.repeat(np.random.default_rng(3).normal(size=(1, 1, 40)).astype(np.float32), 2, axis=0)
    restore = np.stack([np.arange(16), np.arange(16)[::-1]])
    pixels = decode(mae, encoded, restore)
    np.testing.assert_allclose(pixels[0], pixels[1], atol=TOLERANCE)
    assert np.abs(pixels[0, 0] - pixels[0, 1]).max() > 0.1
