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
from vitprobe_jax.backbones.loading import load_decoder, make_decoder

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
