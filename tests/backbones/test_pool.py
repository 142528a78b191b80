"""The global representation of every kind, by construction."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.backbones.random_vit import ARCHITECTURES, random_params, tiny
from tests.zoo.quick import quick_jit
from vitprobe_jax.backbones.vit import ViT

GRID = (2, 3)


def pooled(config, params, tokens) -> np.ndarray:
    pool = quick_jit(lambda params, tokens: ViT(config).apply({"params": params}, tokens, GRID, method=ViT.pool))
    return np.asarray(pool(params, jnp.asarray(tokens, jnp.float32)))


def random_tokens(config, seed: int = 0) -> np.ndarray:
    tokens = config.num_prefix_tokens + GRID[0] * GRID[1]
    # Far from mean 0 and variance 1: the norm of a mean is not the mean of norms.
    rng = np.random.default_rng(seed)
    return rng.normal(loc=0.5, size=(2, tokens, config.width)) * rng.uniform(0.5, 4, (2, tokens, 1))


def layer_norm(tokens: np.ndarray, params) -> np.ndarray:
    centred = tokens - tokens.mean(axis=-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6)
    return normed * np.asarray(params["norm"]["scale"]) + np.asarray(params["norm"]["bias"])


@pytest.mark.parametrize("name", ["dino", "dinov2_1", "ijepa", "mae_finetuned"])
def test_a_token_or_a_mean(name):
    config = tiny(name)
    params, tokens = random_params(config), random_tokens(config)
    patches = tokens[:, config.num_prefix_tokens :]
    expected = {
        "class": lambda: layer_norm(tokens, params)[:, 0],
        "patches": lambda: layer_norm(patches, params).mean(axis=1),
        "patches_then_norm": lambda: layer_norm(patches.mean(axis=1), params),
    }
    found = pooled(config, params, tokens)
    np.testing.assert_allclose(found, expected[config.pool](), atol=1e-5)
    for other in expected.keys() - {config.pool}:
        assert np.abs(found - expected[other]()).max() > 0.1


def test_a_predictor_that_adds_nothing_gives_its_own_token():
    """CAPI's predictor with zero output maps: a mask token at every patch, normed, whatever the image."""
    config = tiny("capi")
    params = random_params(config)
    for part, name in (("attn", "proj"), ("mlp", "fc2")):
        params["predictor"][part][name]["kernel"] = jnp.zeros_like(params["predictor"][part][name]["kernel"])
    token = np.asarray(params["predictor_token"], np.float64)
    expected = token / np.sqrt((token**2).mean() + 1e-5)
    found = pooled(config, params, random_tokens(config))
    np.testing.assert_allclose(found, np.repeat(expected, 2, axis=0), atol=1e-5)


def test_a_predictor_looks_at_every_token_of_the_image():
    config = tiny("capi")
    # One image as it is, then one with another token for each.
    tokens = random_tokens(config)[:1]
    count = tokens.shape[1]
    tokens = np.repeat(tokens, 1 + count, axis=0)
    tokens[np.arange(1, 1 + count), np.arange(count)] *= -1
    found = pooled(config, random_params(config), tokens)
    assert np.abs(found[1:] - found[:1]).max(axis=1).min() > 1e-4


def test_every_kind_is_some_familys():
    kinds = {architecture.pool: name for name, architecture in ARCHITECTURES.items()}
    assert set(kinds) == {"class", "patches", "patches_then_norm", "predictor"}
    assert ARCHITECTURES["ijepa"].pool == "patches"
    assert ARCHITECTURES["capi"].pool == "predictor"
    assert all(
        architecture.pool == "patches_then_norm" for name, architecture in ARCHITECTURES.items() if "finetuned" in name
    )
