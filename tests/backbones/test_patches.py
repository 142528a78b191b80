"""Prefix tokens are placed and counted right: a patch's token is where its pixels are, in every architecture."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from tests.backbones.random_vit import ARCHITECTURES, DISTINCT, random_images, random_params, tiny
from tests.zoo.quick import quick_jit
from vitprobe_jax.backbones.vit import ViT
from vitprobe_jax.features.extract import select_rows

GRID = (2, 5)
PATCHES = GRID[0] * GRID[1]


@functools.partial(quick_jit, static_argnums=0)
def embedded(config, params, images):
    return ViT(config).apply({"params": params}, images, method=ViT.embed)


@pytest.mark.parametrize("name", DISTINCT)
def test_changed_pixels_change_their_own_patch_alone(name):
    config = tiny(name)
    size, prefix = config.patch_size, config.num_prefix_tokens
    # One image as it is, then one with other pixels for each patch.
    images = np.repeat(np.asarray(random_images(config, GRID, batch=1)), 1 + PATCHES, axis=0)
    for p, (row, column) in enumerate(np.ndindex(GRID), start=1):
        images[p, row * size : (row + 1) * size, column * size : (column + 1) * size] += 1
    tokens = np.asarray(embedded(config, random_params(config), images))
    assert tokens.shape == (1 + PATCHES, prefix + PATCHES, config.width)
    changed = np.abs(tokens[1:] - tokens[:1]).max(axis=-1)
    np.testing.assert_array_equal(changed[:, :prefix], 0)
    np.testing.assert_array_equal(changed[:, prefix:] > 0.01, np.eye(PATCHES, dtype=bool))
    np.testing.assert_array_equal(changed[:, prefix:][~np.eye(PATCHES, dtype=bool)], 0)
    # What is probed of an image are these tokens, in this order.
    np.testing.assert_array_equal(select_rows(jnp.asarray(tokens), config, "segmentation"), tokens[:, prefix:])


@pytest.mark.parametrize("name", DISTINCT)
def test_prefix_tokens_are_class_then_registers(name):
    """Each with its own position where it has one; and no patch moves when a register changes."""
    config = tiny(name)
    params, images = random_params(config), random_images(config, GRID, batch=1)
    before = embedded(config, params, images)[0]
    parts = {"cls_token": int(config.class_token), "registers": config.num_registers}
    start = 0
    for part, count in parts.items():
        for i in range(count):
            token = params[part].at[0, i].add(1.0)
            change = np.abs(embedded(config, {**params, part: token}, images)[0] - before).max(axis=-1)
            np.testing.assert_allclose(change, np.eye(len(before))[start + i], atol=1e-6)
        start += count
    assert start == config.num_prefix_tokens
    with_rows = config.num_prefix_positions if config.positions == "learned" else 0
    for i in range(with_rows):
        rows = params["pos_embed"].at[0, i].add(1.0)
        change = np.abs(embedded(config, {**params, "pos_embed": rows}, images)[0] - before).max(axis=-1)
        np.testing.assert_allclose(change, np.eye(len(before))[i], atol=1e-6)


def test_how_many_prefix_tokens_the_families_have():
    counted = {name: architecture.num_prefix_tokens for name, architecture in ARCHITECTURES.items()}
    others = {name: count for name, count in counted.items() if count != 1}
    assert others.pop("capi") == 16
    assert others.pop("ijepa") == 0
    assert others.pop("deit_distilled") == 2
    assert others.pop("dinov3") == 5
    assert set(others.values()) == {5}
    assert {name.split("_")[0] for name in others} == {"dinov2"}
