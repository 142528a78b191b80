"""Relative position tables against timm's index, scipy's splines, and the attention that reads them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

# Must come before timm.
from experiments.benchmarks import torch_ops  # noqa: F401

# isort: split
from timm.models.beit import gen_relative_position_index

from tests.zoo.beit import resample_table
from vitprobe_jax.backbones.attention import relative_bias
from vitprobe_jax.backbones.position import relative_index, relative_matrix


@given(rows=st.integers(1, 9), columns=st.integers(1, 9))
def test_index_is_timms(rows, columns):
    np.testing.assert_array_equal(relative_index((rows, columns)), gen_relative_position_index((rows, columns)))


# scipy's spline on a grid wants four places an axis: tables of three patches and more.
@settings(max_examples=60, deadline=None)
@given(native=st.integers(3, 16), grid=st.tuples(st.integers(1, 24), st.integers(1, 24)), seed=st.integers(0, 1000))
def test_tables_are_resampled_as_by_scipys_spline_on_a_grid(native, grid, seed):
    table = np.random.default_rng(seed).normal(size=((2 * native - 1) ** 2 + 3, 2)).astype(np.float32)
    rows, columns = (relative_matrix(native, side) for side in grid)
    offsets = table[:-3].reshape(2 * native - 1, 2 * native - 1, 2)
    ours = np.einsum("oi,pj,ijh->oph", rows, columns, offsets).reshape(-1, 2)
    theirs = resample_table(torch.from_numpy(table), native, grid).numpy()
    # Both solve the spline in float64; theirs is rounded to float32, and a spline overshoots to some ten times its values.
    np.testing.assert_allclose(ours, theirs[:-3], atol=2e-6 * max(1.0, np.abs(theirs).max()))


@given(native=st.integers(1, 20), side=st.integers(1, 20))
def test_resampling_keeps_constants_and_mirrors(native, side):
    matrix = relative_matrix(native, side)
    assert matrix.shape == (2 * side - 1, 2 * native - 1)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-9)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-9)
    if side == native:
        np.testing.assert_array_equal(matrix, np.eye(2 * native - 1))


@pytest.mark.parametrize("grid", [(4, 4), (2, 5)])
def test_bias_depends_on_the_offset_between_patches(grid):
    table = jnp.asarray(np.random.default_rng(0).normal(size=(7 * 7 + 3, 2)), jnp.float32)
    bias = np.asarray(jax.jit(lambda table: relative_bias(table, (4, 4), grid))(table))
    places = [None, *np.ndindex(grid)]
    assert bias.shape == (2, len(places), len(places))
    by_pair = {}
    for i, query in enumerate(places):
        for j, key in enumerate(places):
            if query is None or key is None:
                pair = f"{'class' if query is None else 'patch'} to {'class' if key is None else 'patch'}"
            else:
                pair = query[0] - key[0], query[1] - key[1]
            by_pair.setdefault(pair, []).append(bias[:, i, j])
    values = np.stack([np.stack(found).mean(axis=0) for found in by_pair.values()])
    for found in by_pair.values():
        np.testing.assert_array_equal(np.ptp(np.stack(found), axis=0), 0)
    # An offset and a kind of pair each: no two share a row of the table.
    assert len(np.unique(values[:, 0])) == (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3
    np.testing.assert_array_equal(by_pair["class to patch"][0], table[-3])
    np.testing.assert_array_equal(by_pair["patch to class"][0], table[-2])
    np.testing.assert_array_equal(by_pair["class to class"][0], table[-1])
