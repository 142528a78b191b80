import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from tests.backbones.random_vit import random_params
from tests.zoo.quick import quick_jit
from vitprobe_jax.backbones.capture import capture, capture_pixels, normalize
from vitprobe_jax.backbones.config import Preprocess, ViTConfig
from vitprobe_jax.backbones.vit import ViT
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import INTERMEDIATES, TOKENS

CONFIG = ViTConfig(patch_size=4, width=24, depth=3, num_heads=3, mlp_dim=96, grid=(4, 4))
EVERYTHING = [(layer, name) for layer in range(CONFIG.depth) for name in INTERMEDIATES]
LAST = CONFIG.depth - 1

# Two compilations of one function sum in other orders: float32 rounding on activations of order 1 to 10.
REORDERED = 1e-5


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 3)), jnp.float32)


@pytest.fixture(scope="module")
def params():
    return random_params(CONFIG)


@pytest.fixture(scope="module")
def everything(params, images):
    """Not jitted."""
    return capture(CONFIG, params, images, EVERYTHING)


def jitted(wanted, config=CONFIG, **options):
    return quick_jit(lambda params, images: capture(config, params, images, wanted, **options))


def test_jit_is_no_jit(params, images, everything):
    compiled = jitted(EVERYTHING)(params, images)
    assert compiled.keys() == everything.keys() == set(EVERYTHING)
    for key, value in compiled.items():
        np.testing.assert_allclose(value, everything[key], rtol=REORDERED, atol=REORDERED, err_msg=str(key))


@pytest.mark.parametrize("name", INTERMEDIATES)
def test_asking_for_fewer_changes_nothing(params, images, everything, name):
    (alone,) = jitted([(1, name)])(params, images).values()
    np.testing.assert_allclose(alone, everything[1, name], rtol=REORDERED, atol=REORDERED)


@pytest.mark.parametrize(
    ("wanted", "matmuls"),
    [
        # Six a block: qkv, q with k, maps with v, proj, fc1, fc2.
        ((0, "q"), 1),
        ((0, "v"), 1),
        ((0, "attn"), 2),
        ((0, "x1"), 4),
        ((0, "xn"), 4),
        ((0, "x2"), 6),
        ((1, "x2_raw"), 2 * 6),
        ((LAST, "k"), LAST * 6 + 1),
        ((LAST, "x2"), LAST * 6 + 6),
    ],
)
def test_what_is_not_asked_for_is_not_computed(params, images, wanted, matmuls):
    compiled = jitted([wanted]).lower(params, images).compile()
    assert compiled.as_text().count(" dot(") == matmuls


def test_first_block_of_a_deep_model_costs_one_block(params, images):
    def flops(layer):
        return jitted([(layer, "x2")]).lower(params, images).compile().cost_analysis()["flops"]

    one_block = (flops(LAST) - flops(0)) / LAST
    # Besides the block: the patch embedding and the final norm, at this size a ninth of a block.
    assert flops(0) < 1.3 * one_block


def test_six_tokens_of_the_last_block_cost_what_the_plain_forward_does(params, images):
    plain = quick_jit(lambda params, images: ViT(CONFIG).apply({"params": params}, images))
    tokens = jitted([(LAST, token) for token in TOKENS])
    costs = [function.lower(params, images).compile().cost_analysis()["flops"] for function in (plain, tokens)]
    assert costs[1] <= 1.01 * costs[0]


def test_last_x2_is_the_output_of_the_plain_model(params, images, everything):
    np.testing.assert_array_equal(everything[LAST, "x2"], ViT(CONFIG).apply({"params": params}, images))


def test_patches_are_equivariant_to_permutation_without_positions(params, images):
    params = {**params, "pos_embed": jnp.zeros_like(params["pos_embed"])}
    side, patch = CONFIG.grid[0], CONFIG.patch_size
    order = np.random.default_rng(2).permutation(side * side)
    patches = images.reshape(2, side, patch, side, patch, 3).swapaxes(2, 3).reshape(2, side * side, patch, patch, 3)
    shuffled = patches[:, order].reshape(2, side, side, patch, patch, 3).swapaxes(2, 3).reshape(images.shape)
    tokens = jitted([(LAST, "x2")])
    before, after = (tokens(params, x)[LAST, "x2"] for x in (images, shuffled))
    np.testing.assert_allclose(after[:, 0], before[:, 0], atol=REORDERED)
    np.testing.assert_allclose(after[:, 1:], before[:, 1:][:, order], atol=REORDERED)
    assert np.abs(before[:, 1:] - before[:, 1:][:, order]).max() > 0.1


def test_without_class_token_every_token_is_a_patch(params, images):
    config = dataclasses.replace(CONFIG, class_token=False, pool="patches")
    params = {key: value for key, value in params.items() if key != "cls_token"}
    params["pos_embed"] = params["pos_embed"][:, 1:]
    taken = jitted([(0, "x2"), (0, "attn")], config)(params, images)
    assert taken[0, "x2"].shape == (2, 16, CONFIG.width)
    assert taken[0, "attn"].shape == (2, CONFIG.num_heads, 16, 16)


@pytest.mark.parametrize("layer", [-1, CONFIG.depth])
def test_unknown_block_is_refused(params, images, layer):
    with pytest.raises(InputError, match=f"no block {layer} in a model with blocks 0..2"):
        capture(CONFIG, params, images, [(layer, "q")])


def test_unknown_intermediate_is_refused(params, images):
    with pytest.raises(InputError, match="no intermediate x3"):
        capture(CONFIG, params, images, [(0, "x3")])


def test_normalize_is_the_families_formula():
    pixels = np.random.default_rng(3).integers(0, 256, size=(2, 4, 5, 3), dtype=np.uint8)
    preprocess = Preprocess(mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3))
    expected = (pixels.astype(np.float64) / 255 - preprocess.mean) / preprocess.std
    # Values up to 6, rounded to float32 three times.
    np.testing.assert_allclose(normalize(jnp.asarray(pixels), preprocess), expected, atol=2e-6)


@pytest.mark.parametrize("count", [3, 8, 11])
def test_images_in_turns_give_the_same_tokens(params, count):
    """Fewer than two turns, whole turns, and turns with a rest."""
    config = dataclasses.replace(CONFIG, depth=1)
    params = {
        name: value for name, value in params.items() if name not in {f"blocks_{i}" for i in range(1, CONFIG.depth)}
    }
    side = config.grid[0] * config.patch_size
    pixels = jnp.asarray(np.random.default_rng(4).integers(0, 256, (count, side, side, 3), np.uint8))
    wanted = [(0, "x2"), (0, "attn")]
    together = quick_jit(lambda: capture(config, params, normalize(pixels, Preprocess()), wanted))()
    for key, value in quick_jit(lambda: capture_pixels(config, Preprocess(), params, pixels, wanted))().items():
        np.testing.assert_allclose(value, together[key], atol=REORDERED)
