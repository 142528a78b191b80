import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.backbones import oracles
from vitprobe_jax.backbones.position import cubic_matrix, grid_matrices
from vitprobe_jax.backbones.untrained import sincos_positions

# torch weighs and sums in float32, ours is float64: four taps of order-1 numbers, and sample places up to 64 that float32
# knows to 4e-6 times the slope of the grid.
TORCH_TOLERANCE = 3e-5

sides = st.integers(1, 40)


def torch_resized(values: np.ndarray, **target) -> np.ndarray:
    """[rows, columns] through torch's plain bicubic."""
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(values.astype(np.float32))[None, None], mode="bicubic", align_corners=False, **target
    )
    return resized[0, 0].numpy()


@settings(max_examples=100, deadline=None)
@given(native=st.tuples(sides, sides), grid=st.tuples(sides, sides), seed=st.integers(0, 1000))
def test_plain_rule_is_torch_interpolate_by_size(native, grid, seed):
    values = np.random.default_rng(seed).normal(size=native)
    rows, columns = (cubic_matrix(n_in, n_out) for n_in, n_out in zip(native, grid, strict=True))
    np.testing.assert_allclose(rows @ values @ columns.T, torch_resized(values, size=grid), atol=TORCH_TOLERANCE)


@settings(max_examples=100, deadline=None)
@given(side=sides, grid=st.tuples(sides, sides), rule=st.sampled_from(["dino", "bicubic"]), seed=st.integers(0, 1000))
def test_official_rules_on_any_grid(side, grid, rule, seed):
    native = (side, side)
    pos_embed = np.random.default_rng(seed).normal(size=(1, 1 + side * side, 2)).astype(np.float32)
    rows, columns = grid_matrices(native, grid, rule)
    ours = np.einsum("oi,pj,ijd->opd", rows, columns, pos_embed[0, 1:].reshape(*native, 2)).reshape(-1, 2)
    official = oracles.official_positions(torch.from_numpy(pos_embed), native, grid, rule)[0, 1:]
    np.testing.assert_allclose(ours, official.numpy(), atol=TORCH_TOLERANCE)


@pytest.mark.parametrize("rule", ["dino", "bicubic"])
def test_native_grid_is_untouched(rule):
    for matrix in grid_matrices((14, 14), (14, 14), rule):
        np.testing.assert_array_equal(matrix, np.eye(14))


def test_rules_differ_where_the_official_codes_do():
    # The + 0.1 moves the sample places: forgetting it would be a difference of 1e-2, not of rounding.
    (dino, _), (plain, _) = (grid_matrices((14, 14), (28, 28), rule) for rule in ("dino", "bicubic"))
    assert np.abs(dino - plain).max() > 1e-2


@given(n_in=sides, n_out=sides)
def test_constant_stays_constant(n_in, n_out):
    # Float64 sums of four weights below 1.2.
    np.testing.assert_allclose(cubic_matrix(n_in, n_out).sum(axis=1), 1.0, atol=1e-12)


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
    theirs = oracles.transformers_sincos(768, (14, 14))
    np.testing.assert_allclose(sincos_positions(768, (14, 14))[0], theirs, atol=1e-7)
