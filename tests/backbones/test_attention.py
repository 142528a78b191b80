"""What attention makes of queries and keys: maps by their formula, with every kind of place they may know."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.backbones.random_vit import random_images, random_params, tiny
from tests.zoo import beit
from tests.zoo.quick import quick_jit
from tests.zoo.specimen import Sizes
from vitprobe_jax.backbones.capture import capture
from vitprobe_jax.types import INTERMEDIATES

# Float32 sums in two orders, on values of order 1.
REORDERED = 1e-5

PLACED = ("simmim", "simmim_finetuned", "dinov3", "capi")
"""Architectures with a shared relative bias, one a block, axial RoPE, stored RoPE."""


def taken(config, params, images, wanted, *, dtype=jnp.float32):
    return _taken(config, tuple(wanted), dtype, params, images)


@functools.partial(quick_jit, static_argnums=(0, 1, 2))
def _taken(config, wanted, dtype, params, images):
    return capture(config, params, images, wanted, dtype=dtype)


@pytest.fixture(scope="module")
def everything():
    """By name: config, parameters, images, and all intermediates of both blocks at the native grid."""
    models = {}
    for name in ("dino", *PLACED):
        config = tiny(name)
        params, images = random_params(config), random_images(config, config.grid)
        wanted = sorted((layer, part) for layer in range(config.depth) for part in INTERMEDIATES)
        models[name] = config, params, images, taken(config, params, images, wanted)
    return models


def bias_of(config, params, layer: int) -> np.ndarray:
    """[H, T, T] by timm's index."""
    if config.relative_bias == "none":
        return np.zeros(())
    owner = params if config.relative_bias == "shared" else params[f"blocks_{layer}"]["attn"]
    sizes = Sizes(config.width, config.depth, config.num_heads, config.patch_size, config.grid[0], config.mlp_dim)
    return np.moveaxis(np.asarray(owner["rel_pos_bias"], np.float64)[beit.index(sizes).numpy()], -1, 0)


@pytest.mark.parametrize("name", ["dino", *PLACED])
def test_maps_are_the_softmax_of_scaled_rotated_queries_and_keys_plus_bias(everything, name):
    config, params, _, found = everything[name]

    def heads(tokens):
        return np.asarray(tokens, np.float64).reshape(*tokens.shape[:2], config.num_heads, -1)

    for layer in range(config.depth):
        q, k = heads(found[layer, "q_rotated"]), heads(found[layer, "k_rotated"])
        logits = np.einsum("bqhc,bkhc->bhqk", q, k) / np.sqrt(config.width / config.num_heads)
        weights = np.exp(logits + bias_of(config, params, layer))
        expected = weights / weights.sum(axis=-1, keepdims=True)
        np.testing.assert_allclose(found[layer, "attn"], expected, atol=REORDERED)
        if config.relative_bias != "none":
            without = np.exp(logits)
            without /= without.sum(axis=-1, keepdims=True)
            assert np.abs(without - expected).max() > 0.1


@pytest.mark.parametrize("name", ["dino", *PLACED])
def test_rotated_is_plain_where_there_is_no_rotation(everything, name):
    config, _, _, found = everything[name]
    for layer in range(config.depth):
        for part in "qk":
            same = np.array_equal(found[layer, f"{part}_rotated"], found[layer, part])
            assert same == (config.rope == "none")


@pytest.mark.parametrize(
    ("name", "maps"), [("dino", False), ("dino", True), ("simmim", False), ("dinov3", False), ("capi", True)]
)
def test_bfloat16_follows_float32(everything, name, maps):
    """Without maps, attention is the fused operator."""
    config, params, images, exact = everything[name]
    wanted = [key for key in exact if maps or key[1] != "attn"]
    for (layer, part), value in taken(config, params, images, wanted, dtype=jnp.bfloat16).items():
        assert value.dtype == (jnp.float32 if part == "attn" else jnp.bfloat16)
        expected = np.asarray(exact[layer, part])
        error = np.linalg.norm(value.astype(np.float32) - expected) / np.linalg.norm(expected)
        # bfloat16 keeps 8 bits: 2e-3 a rounding; a block makes some twenty one after another, adding up at random.
        assert error < 2e-3 * np.sqrt(20 * (layer + 1)), (layer, part)
        assert error > 1e-4, f"{part} of block {layer} was not computed in bfloat16"


@pytest.mark.parametrize("name", PLACED)
def test_what_attention_knows_of_places_is_used(everything, name):
    """Other frequencies or tables, other maps: in every block, though nothing else has changed."""
    config, params, images, before = everything[name]
    places = ("rel_pos_bias", "rope_periods", "rope_frequencies")
    key = jax.random.key(0)
    moved = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * (1 + jax.random.uniform(key, leaf.shape)) if path[-1].key in places else leaf, params
    )
    # All that was taken before: it is compiled.
    after = taken(config, moved, images, before)
    for layer in range(config.depth):
        assert np.abs(after[layer, "attn"] - before[layer, "attn"]).max() > 0.01


def test_layer_scale_multiplies_what_is_added(everything):
    """With scales of one, the same as without scales; with zeros, the residual stream stays as it was."""
    config, params, images, _ = everything["simmim"]
    scaled = {
        value: {
            name: {**block, "ls1": jnp.full(config.width, value), "ls2": jnp.full(config.width, value)}
            if name.startswith("blocks_")
            else block
            for name, block in params.items()
        }
        for value in (0.0, 1.0)
    }
    plain = dataclasses.replace(config, layer_scale=False)
    unscaled = {
        name: {part: value for part, value in block.items() if part not in ("ls1", "ls2")}
        if name.startswith("blocks_")
        else block
        for name, block in params.items()
    }
    wanted = [(0, "x1"), (1, "x2_raw")]
    ones, none = taken(config, scaled[1.0], images, wanted), taken(plain, unscaled, images, wanted)
    zeros = taken(config, scaled[0.0], images, wanted)
    np.testing.assert_array_equal(zeros[0, "x1"], zeros[1, "x2_raw"])
    for key in wanted:
        np.testing.assert_allclose(ones[key], none[key], atol=REORDERED)
