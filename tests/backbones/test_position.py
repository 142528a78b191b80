"""Position grids: resampling against torch's own, fixed sine-cosine ones against their formula and transformers'."""

import math
from typing import get_args

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

# Must come before transformers.
from experiments.benchmarks import torch_ops  # noqa: F401

# isort: split
from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

from tests.backbones.random_vit import random_images, random_params, tiny
from tests.zoo.quick import quick_jit
from tests.zoo.tracing import resample_positions
from vitprobe_jax.backbones.config import Resample
from vitprobe_jax.backbones.position import cubic_matrix, grid_matrices, gsd_positions
from vitprobe_jax.backbones.untrained import sincos_positions
from vitprobe_jax.backbones.vit import ViT

RULES = get_args(Resample)

# Float64 on both sides, places up to 40 and weights of order 1.
TOLERANCE = 1e-11

sides = st.integers(1, 40)


def torch_resized(values: np.ndarray, **target) -> np.ndarray:
    """[rows, columns] through torch's plain bicubic."""
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None, None], mode="bicubic", align_corners=False, **target
    )
    return resized[0, 0].numpy()


@settings(max_examples=100, deadline=None)
@given(native=st.tuples(sides, sides), grid=st.tuples(sides, sides), seed=st.integers(0, 1000))
def test_plain_rule_is_torch_interpolate_by_size(native, grid, seed):
    values = np.random.default_rng(seed).normal(size=native)
    rows, columns = (cubic_matrix(n_in, n_out) for n_in, n_out in zip(native, grid, strict=True))
    np.testing.assert_allclose(rows @ values @ columns.T, torch_resized(values, size=grid), atol=TOLERANCE)


@settings(max_examples=150, deadline=None)
@given(side=sides, grid=st.tuples(sides, sides), rule=st.sampled_from(RULES), seed=st.integers(0, 1000))
def test_official_rules_on_any_grid(side, grid, rule, seed):
    native = (side, side)
    pos_embed = np.random.default_rng(seed).normal(size=(1, 1 + side * side, 2))
    rows, columns = grid_matrices(native, grid, rule)
    ours = np.einsum("oi,pj,ijd->opd", rows, columns, pos_embed[0, 1:].reshape(*native, 2)).reshape(-1, 2)
    official = resample_positions(torch.from_numpy(pos_embed), grid, rule)[0, 1:]
    np.testing.assert_allclose(ours, official.numpy(), atol=TOLERANCE)


@pytest.mark.parametrize("rule", RULES)
def test_native_grid_is_untouched(rule):
    for matrix in grid_matrices((14, 14), (14, 14), rule):
        np.testing.assert_array_equal(matrix, np.eye(14))


@pytest.mark.parametrize("grid", [(28, 28), (7, 7)])
def test_rules_differ_where_the_official_codes_do(grid):
    # The + 0.1 moves the sample places: forgetting it would be a difference of 1e-2, not of rounding.
    found = {rule: grid_matrices((14, 14), grid, rule)[0] for rule in RULES}
    for rule in RULES:
        for other in set(RULES) - {rule}:
            assert np.abs(found[rule] - found[other]).max() > 1e-2, (rule, other)


@given(n_in=sides, n_out=sides, rule=st.sampled_from(RULES))
def test_constant_stays_constant(n_in, n_out, rule):
    # Float64 sums of weights below 1.2.
    matrix, _ = grid_matrices((n_in, n_in), (n_out, n_out), rule)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-12)


def test_sincos_positions_follow_the_formula_term_by_term():
    width, grid = 16, (3, 5)
    ours = sincos_positions(width, grid)
    assert ours.shape == (1, 1 + 15, width)
    assert not ours[0, 0].any()
    quarter = width // 4
    for row in range(grid[0]):
        for column in range(grid[1]):
            # MAE numbers columns first: sin, cos of the column, then sin, cos of the row.
            expected = [
                function(place / 10000 ** (i / quarter))
                for place in (column, row)
                for function in (math.sin, math.cos)
                for i in range(quarter)
            ]
            # Ours is rounded to float32 once.
            np.testing.assert_allclose(ours[0, 1 + row * grid[1] + column], expected, atol=1e-7)


def test_sincos_positions_are_those_of_transformers():
    theirs = build_2d_sinusoidal_position_embedding(14, 14, 768, cls_token=True).numpy()
    # It builds the row's half first; the official checkpoints, and its own model, have the column's first.
    theirs = np.concatenate([theirs[:, 384:], theirs[:, :384]], axis=1)
    np.testing.assert_allclose(sincos_positions(768, (14, 14))[0], theirs, atol=1e-7)


def test_at_a_metre_a_pixel_positions_are_those_of_mae():
    # Angles up to 15, which float32 knows to 1e-6; MAE's come from float64.
    ours = gsd_positions(64, (14, 16), jnp.ones(1))[0]
    np.testing.assert_allclose(ours, sincos_positions(64, (14, 16))[0, 1:], atol=2e-6)


def test_twice_the_distance_is_twice_the_place():
    near = gsd_positions(32, (9, 13), jnp.asarray([0.7]))[0].reshape(9, 13, 32)
    far = gsd_positions(32, (5, 7), jnp.asarray([1.4]))[0].reshape(5, 7, 32)
    # To the last bit: factors of two change no mantissa.
    np.testing.assert_array_equal(far, near[::2, ::2])


def test_every_image_has_its_own_distance():
    gsd = jnp.asarray([0.3, 1.0, 10.0])
    together = gsd_positions(32, (3, 4), gsd)
    for i in range(3):
        np.testing.assert_array_equal(together[i], gsd_positions(32, (3, 4), gsd[i : i + 1])[0])
        assert np.abs(together[i] - together[i - 1]).max() > 0.1


def test_images_without_a_distance_have_that_of_the_config():
    config = tiny("scalemae", gsd=2.5)
    params, images = random_params(config), random_images(config, (2, 3))
    embed = quick_jit(lambda gsd: ViT(config).apply({"params": params}, images, gsd, method=ViT.embed))
    alone, told, other = (embed(gsd) for gsd in (None, jnp.full(2, 2.5), jnp.full(2, 1.0)))
    np.testing.assert_array_equal(alone, told)
    assert np.abs(alone - other).max() > 0.1
