"""The oracles by themselves: complete, of order 1, moved by every weight; two of them agree where two can be had."""

import dataclasses

import numpy as np
import pytest
import torch

# Must come before transformers.
from experiments.benchmarks import torch_ops  # noqa: F401

# isort: split
from transformers import BeitConfig, BeitModel

from tests.zoo import SPECIMENS, beit, weights
from tests.zoo.specimen import Sizes, Specimen, StateDict, Traced
from tests.zoo.tracing import Trace, class_token
from tests.zoo.transformers_layers import filled, keep_layers, renamed
from tests.zoo.vit_models import VIT_NAMES, at_grid, trace_timm, trace_vit_model, transformers_sizes

SIZES = Sizes(width=40, depth=3, num_heads=5, patch_size=4, grid=5, mlp_dim=72)

IDLE = {
    "mae_decoder": ("decoder_", "mask_token"),
    "capi": ("decoder.blocks.1.",),
    "dinov2": ("mask_token",),
    "dinov2_reg4": ("mask_token",),
    "dinov2_reg4_g": ("mask_token",),
    "dinov3": ("mask_token",),
    "dinov3_satellite": ("mask_token", "local_cls_norm."),
}
"""Beginnings of keys that training alone uses. CAPI's global representation asks one block of its predictor."""

FIRSTS = {specimen.oracle: name for name, specimen in reversed(SPECIMENS.items())}.values()
"""The first specimen of every oracle: one of each is enough for the fast tests."""


def normalised_images(sizes: Sizes, grid: tuple[int, int], *, batch: int) -> np.ndarray:
    shape = (batch, *(side * sizes.patch_size for side in grid), 3)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def small(specimen: Specimen) -> Sizes:
    """One block: what each of its tensors does needs no second."""
    return dataclasses.replace(specimen.tiny, depth=1)


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


@pytest.mark.parametrize("name", SPECIMENS)
def test_every_intermediate_is_there_and_of_order_1(tmp_path, name):
    specimen = SPECIMENS[name]
    sizes = specimen.tiny
    state = specimen.write(tmp_path / specimen.file, sizes, 0)
    assert (tmp_path / specimen.file).is_file()
    prefixes = set()
    for grid in [(sizes.grid, sizes.grid), (sizes.grid - 2, sizes.grid + 1)]:
        traced = specimen.trace(state, sizes, normalised_images(sizes, grid, batch=2))
        tokens = traced[0, "x1"].shape[1]
        prefixes.add(tokens - grid[0] * grid[1])
        of_blocks = {intermediate for _, intermediate in traced} - {"global"}
        assert of_blocks - {"q_rotated", "k_rotated"} == {"q", "k", "v", "x1", "xn", "x2_raw", "x2", "attn"}
        expected = {(i, intermediate) for i in range(sizes.depth) for intermediate in of_blocks}
        assert traced.keys() == expected | {(sizes.depth - 1, "global")}
        shapes = {"attn": (2, sizes.num_heads, tokens, tokens), "global": (2, sizes.width)}
        for (layer, intermediate), values in traced.items():
            assert values.shape == shapes.get(intermediate, (2, tokens, sizes.width)), (layer, intermediate)
            assert values.dtype == np.float32
            assert np.isfinite(values).all()
        for layer in range(sizes.depth):
            assert 0.3 < rms(traced[layer, "x2"]) < 3
            assert rms(traced[layer, "x2_raw"]) < 10
            np.testing.assert_allclose(traced[layer, "attn"].sum(axis=-1), 1, atol=1e-5)
    assert len(prefixes) == 1
    assert min(prefixes) >= 0


@pytest.mark.parametrize("name", SPECIMENS)
def test_another_seed_is_another_model(tmp_path, name):
    specimen, sizes = SPECIMENS[name], small(SPECIMENS[name])
    images = normalised_images(sizes, (sizes.grid, sizes.grid), batch=1)
    first, again, other = (
        specimen.trace(specimen.write(tmp_path / specimen.file, sizes, seed), sizes, images) for seed in (0, 0, 1)
    )
    for key, values in first.items():
        np.testing.assert_array_equal(values, again[key])
        assert np.abs(values - other[key]).max() > 0.01, key


@pytest.mark.parametrize("name", [n if n in FIRSTS else pytest.param(n, marks=pytest.mark.slow) for n in SPECIMENS])
def test_every_weight_matters(tmp_path, name):
    specimen, sizes = SPECIMENS[name], small(SPECIMENS[name])
    state = specimen.write(tmp_path / specimen.file, sizes, 0)
    images = normalised_images(sizes, (sizes.grid, sizes.grid), batch=1)
    traced = specimen.trace(state, sizes, images)
    generator = weights.seeded(1)
    for key, tensor in state.items():
        # Noise: one number added to a whole relative table would leave the softmax as it is.
        noise = torch.randn(tensor.shape, generator=generator)
        changed = specimen.trace(state | {key: tensor + noise}, sizes, images)
        change = max(np.abs(values - changed[which]).max() for which, values in traced.items())
        assert (change > 0.01) == (not key.startswith(IDLE.get(name, ()))), key


@pytest.mark.parametrize("grid", [(5, 5), (3, 8)])
def test_timm_and_transformers_agree_on_plain_keys(grid):
    images = normalised_images(SIZES, grid, batch=2)
    state = at_grid(weights.plain(SIZES, 0), SIZES, images, "bicubic")
    assert_agree(trace_timm(state, SIZES, images), trace_vit_model(state, SIZES, images))


@pytest.mark.parametrize("shared", [True, False])
def test_timm_and_transformers_agree_on_relative_tables(tmp_path, shared):
    state = (beit.write_simmim if shared else beit.write_finetuned)(tmp_path / "checkpoint.pth", SIZES, 0)
    images = normalised_images(SIZES, (SIZES.grid, SIZES.grid), batch=2)
    assert_agree(beit.trace(state, SIZES, images), trace_beit_model(state, SIZES, images, shared=shared))


def trace_beit_model(state: StateDict, sizes: Sizes, images: np.ndarray, *, shared: bool) -> Traced:
    """Everything of transformers' BeitModel, whose tables are right at square grids alone."""
    names = VIT_NAMES | {
        r"^rel_pos_bias\.": "shared_position_bias.",
        r"^fc_norm\.": "pooler.layernorm.",
        r"\.attn\.relative": ".relative_position_bias.relative",
        r"\.attn\.([qv])_bias$": r".attention.\1_proj.bias",
        r"\.gamma_([12])$": r".lambda_\1",
    }
    config = BeitConfig(
        image_size=images.shape[1:3],
        patch_size=sizes.patch_size,
        use_mask_token=False,
        use_absolute_position_embeddings=False,
        use_shared_relative_position_bias=shared,
        use_relative_position_bias=not shared,
        use_mean_pooling=not shared,
        layer_scale_init_value=0.1,
        **transformers_sizes(sizes),
    )
    model = filled(lambda: BeitModel(config, add_pooling_layer=not shared), renamed(state, names))
    traced = Trace()
    keep_layers(traced, model.layers, second_norm="layernorm_after")
    if shared:
        return class_token(traced.run(model, images, model.layernorm), sizes.depth)
    traced.keep((sizes.depth - 1, "global"), model.pooler, lambda _, output: output)
    return traced.run(model, images, model.pooler.layernorm)


def assert_agree(ours: Traced, theirs: Traced):
    """Within the rounding of float32: two implementations of three blocks, activations of order 1."""
    assert ours.keys() == theirs.keys()
    for key, values in ours.items():
        np.testing.assert_allclose(values, theirs[key], rtol=0, atol=1e-5, err_msg=str(key))
