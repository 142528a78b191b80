"""Rotary positions: where tokens stand, and what a rotation keeps."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.backbones.random_vit import random_images, random_params, tiny
from tests.zoo.quick import quick_jit
from vitprobe_jax.backbones.capture import capture
from vitprobe_jax.backbones.position import axial_periods, rope_coordinates

GRID = (4, 3)
sides = st.integers(1, 12)


def heads(tokens, config) -> np.ndarray:
    """[T, H, C] of the first image."""
    return np.asarray(tokens[0], np.float64).reshape(tokens.shape[1], config.num_heads, -1)


def turned(name: str, *, same_everywhere: bool):
    """Config and q, k, before and after rotation, of the second block; with the same q and k at all tokens if asked."""
    config = tiny(name)
    params = random_params(config)
    if same_everywhere:
        qkv = params["blocks_1"]["attn"]["qkv"]
        qkv["kernel"] = jnp.zeros_like(qkv["kernel"])
        if "bias" in qkv:
            qkv["bias"] = jnp.asarray(np.random.default_rng(7).normal(size=qkv["bias"].shape), jnp.float32)
    wanted = [(1, part) for part in ("q", "k", "q_rotated", "k_rotated")]
    images = random_images(config, GRID, batch=1)
    found = quick_jit(lambda params: capture(config, params, images, wanted))(params)
    return config, {part: heads(tokens, config) for (_, part), tokens in found.items()}


def test_axial_logits_depend_on_the_offset_between_patches():
    config, found = turned("dinov3", same_everywhere=True)
    assert np.ptp(found["q"], axis=0).max() == 0
    logits = np.einsum("qhc,khc->hqk", found["q_rotated"], found["k_rotated"])[:, config.num_prefix_tokens :]
    logits = logits[:, :, config.num_prefix_tokens :]
    by_offset = {}
    for i, query in enumerate(np.ndindex(GRID)):
        for j, key in enumerate(np.ndindex(GRID)):
            by_offset.setdefault((query[0] - key[0], query[1] - key[1]), []).append(logits[:, i, j])
    # Sums of 12 float32 products of order 1.
    assert max(np.ptp(np.stack(found), axis=0).max() for found in by_offset.values()) < 1e-5
    assert np.ptp([found[0][0] for found in by_offset.values()]) > 0.1


def test_axial_rotation_keeps_norms_and_leaves_prefix_tokens():
    config, found = turned("dinov3", same_everywhere=False)
    prefix = config.num_prefix_tokens
    for part in "qk":
        before, after = found[part], found[f"{part}_rotated"]
        np.testing.assert_array_equal(after[:prefix], before[:prefix])
        assert np.abs(after[prefix:] - before[prefix:]).max() > 0.1
        np.testing.assert_allclose(np.linalg.norm(after, axis=-1), np.linalg.norm(before, axis=-1), rtol=1e-6)


def test_stored_rotation_turns_registers_with_the_patch_they_stand_on():
    """CAPI's first register shares its corner with the first patch: the same vector is turned alike."""
    config, found = turned("capi", same_everywhere=False)
    params = random_params(config)
    frequencies = np.asarray(params["blocks_1"]["attn"]["rope_frequencies"], np.float64)
    coordinates = rope_coordinates("stored", GRID, 16).astype(np.float64)
    angle = (coordinates @ frequencies)[:, None]
    for part in "qk":
        before = found[part]
        first, second = np.split(before, 2, axis=-1)
        expected = before * np.cos(angle) + np.concatenate([-second, first], axis=-1) * np.sin(angle)
        # Angles of some radians in float32.
        np.testing.assert_allclose(found[f"{part}_rotated"], expected, atol=1e-5)
        assert np.abs(found[f"{part}_rotated"][1:16] - before[1:16]).max() > 0.1


@given(grid=st.tuples(sides, sides), prefix=st.integers(0, 6))
def test_axial_places_are_centres_of_equal_cells(grid, prefix):
    coordinates = rope_coordinates("axial", grid, prefix)
    np.testing.assert_array_equal(coordinates[:prefix], 0)
    patches = coordinates[prefix:].reshape(*grid, 2)
    assert np.abs(patches).max() < 1
    np.testing.assert_allclose(patches, -patches[::-1, ::-1], atol=1e-6)
    for axis, side in enumerate(grid):
        np.testing.assert_allclose(np.diff(patches[..., axis], axis=axis), 2 / side, atol=1e-6)
        assert np.ptp(patches[..., axis], axis=1 - axis).max() == 0


@given(grid=st.tuples(st.integers(2, 12), st.integers(2, 12)), quarter=st.integers(1, 6))
def test_stored_places_reach_from_corner_to_corner(grid, quarter):
    coordinates = rope_coordinates("stored", grid, 4 * quarter)
    registers, patches = coordinates[: 4 * quarter], coordinates[4 * quarter :].reshape(*grid, 2)
    corners = [patches[0, 0], patches[-1, 0], patches[-1, -1], patches[0, -1]]
    np.testing.assert_array_equal(corners, [(0, 0), (1, 0), (1, 1), (0, 1)])
    # Each side begins at a corner, and its registers stand a quarter of the border's registers apart.
    np.testing.assert_array_equal(registers[::quarter], corners)
    steps = np.diff(np.concatenate([registers, registers[:1]]), axis=0)
    np.testing.assert_allclose(np.abs(steps).sum(axis=1), 1 / quarter, atol=1e-6)
    assert all(0 in place or 1 in place for place in registers.tolist())


@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (4, 1)])
def test_an_axis_with_one_patch_has_no_extent(grid):
    coordinates = rope_coordinates("stored", grid, 16)
    for axis, side in enumerate(grid):
        assert coordinates[:, axis].max() == (side > 1)


def test_axial_periods_are_the_papers():
    periods = axial_periods(64, 100.0)
    assert periods.shape == (16,)
    np.testing.assert_allclose(periods, [100 ** (i / 16) for i in range(16)], rtol=1e-6)
