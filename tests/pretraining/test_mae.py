"""MAE's loss by its definition: which patches are seen, which count, how their pixels are normalised."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.pretraining.tiny import CONFIG, make_mae, pictures
from vitprobe_jax.backbones.untrained import sincos_positions
from vitprobe_jax.pretraining.mae import normalized_patches

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mae():
    objective = make_mae()
    return (
        objective,
        objective.init(jax.random.key(0)),
        jnp.asarray(pictures(4)),
        jax.random.split(jax.random.key(1), 4),
    )


@functools.partial(jax.jit, static_argnums=0)
def loss_of(objective, params, images, keys):
    return objective.loss(params, {}, keys, images, jnp.int32(0), steps=10)[0]


def test_patches_are_normalised_as_torch_would():
    images = pictures(2, 16).astype(np.float32) / 255
    patches = torch.nn.functional.unfold(torch.tensor(images).permute(0, 3, 1, 2), 8, stride=8)  # [B, C p p, P]
    patches = patches.reshape(2, 3, 8, 8, 4).permute(0, 4, 2, 3, 1).reshape(2, 4, -1)
    expected = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    np.testing.assert_allclose(normalized_patches(jnp.asarray(images), 8), expected.numpy(), atol=1e-5)


def test_a_decoder_that_says_nothing_has_the_loss_of_its_targets(mae):
    """Predictions of zero leave the mean square of the masked targets: 1 - 1/192 each, the unbiased deviation's."""
    objective, params, images, keys = mae
    decoder = {**params["decoder"], "pred": jax.tree.map(jnp.zeros_like, params["decoder"]["pred"])}
    loss = loss_of(objective, {**params, "decoder": decoder}, images, keys)
    np.testing.assert_allclose(loss, 1 - 1 / 192, atol=1e-4)


def test_only_masked_patches_count(mae):
    """The loss equals the mean over the masked patches alone, recomputed from what the model predicts for all."""
    objective, params, images, keys = mae
    crops, noise = jax.vmap(objective._view)(keys, images)
    assert objective._num_visible == 4  # a quarter of 16
    seen = np.argsort(np.asarray(noise), axis=1)[:, :4]
    targets = np.asarray(normalized_patches(crops, CONFIG.patch_size))
    zero_pred = jax.tree.map(jnp.zeros_like, params["decoder"]["pred"])
    bias = np.linspace(-1, 1, 192).astype(np.float32)
    constant = {**params["decoder"], "pred": {**zero_pred, "bias": jnp.asarray(bias)}}
    loss = loss_of(objective, {**params, "decoder": constant}, images, keys)
    masked = [
        ((bias - targets[i, p]) ** 2).mean() for i in range(4) for p in range(16) if p not in set(seen[i].tolist())
    ]
    assert len(masked) == 48
    np.testing.assert_allclose(loss, np.mean(masked), rtol=1e-5)


def test_what_is_masked_is_not_seen(mae):
    """With the same noise, pixels of a masked patch change the targets and nothing that is predicted."""
    objective, params, images, keys = mae
    gradient = jax.jit(jax.grad(lambda p: loss_of(objective, p, images, keys)))(params)
    assert float(jnp.abs(gradient["decoder"]["mask_token"]).sum()) > 0
    assert float(jnp.abs(gradient["encoder"]["patch_embed"]["kernel"]).sum()) > 0
    # Were all patches encoded, the mask token would stand nowhere and the gradient of it be zero; were none, the patch
    # embedding would have none.


def test_positions_are_the_fixed_ones(mae):
    _, params, _, _ = mae
    for part in ("encoder", "decoder"):
        np.testing.assert_array_equal(params[part]["pos_embed"], sincos_positions(16, (4, 4)))
