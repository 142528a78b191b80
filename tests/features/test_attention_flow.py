"""The statistics against NumPy in float64, one map after the other, from captured maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import entropy as scipy_entropy

from tests.backbones.random_vit import random_params, tiny
from tests.zoo.quick import quick_jit
from vitprobe_jax.backbones.capture import capture_pixels
from vitprobe_jax.backbones.config import BackboneSpec, ViTConfig
from vitprobe_jax.backbones.loading import Backbone
from vitprobe_jax.features.attention_flow import AttentionFlow, attention_flow, entropy, flow_of_block, renormalized
from vitprobe_jax.features.table import make_mesh

GRID = (3, 6)
ONE_DEVICE = make_mesh(jax.devices()[:1])


def random_backbone(config: ViTConfig) -> Backbone:
    """Weights of order-1 activations: attention is far from even, and heads differ."""
    return Backbone(BackboneSpec(name="random", family="dino", objective="", config=config), random_params(config))


def pixels_of(config: ViTConfig, batch: int, grid=GRID) -> np.ndarray:
    shape = (batch, *(side * config.patch_size for side in grid), 3)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def by_hand(maps: np.ndarray, config: ViTConfig) -> dict[str, np.ndarray]:
    """[B, H] each, row by row."""
    prefix, maps = config.num_prefix_tokens, np.asarray(maps, np.float64)
    found = {name: np.zeros(maps.shape[:2]) for name in AttentionFlow._fields}
    for place in np.ndindex(maps.shape[:2]):
        attn = maps[place]
        rows = [row[prefix:] / row[prefix:].sum() for row in attn]
        found["cls_to_cls"][place] = attn[0, 0]
        found["cls_entropy"][place] = scipy_entropy(rows[0])
        found["patch_to_itself"][place] = np.mean([row[i] for i, row in enumerate(rows[prefix:])])
        found["patch_entropy"][place] = np.mean([scipy_entropy(row) for row in rows[prefix:]])
    if not config.class_token:
        found["cls_to_cls"] = found["cls_entropy"] = None
    return found


def test_even_weights_have_the_entropy_log_n_and_one_hot_ones_none():
    rows = jnp.concatenate([jnp.full((1, 196), 1 / 196), jnp.eye(196)[:2]])
    np.testing.assert_allclose(entropy(rows), [np.log(196), 0, 0], rtol=1e-6)
    assert float(entropy(rows)[1]) == 0


@pytest.mark.parametrize("name", ["dino", "dinov2_1"])
def test_even_and_one_hot_attention(name):
    """Without registers and with four."""
    config = tiny(name)
    prefix = config.num_prefix_tokens
    even = flow_of_block(jnp.full((1, 3, prefix + 16, prefix + 16), 1 / (prefix + 16)), config)
    np.testing.assert_allclose(even.cls_to_cls, 1 / (prefix + 16), rtol=1e-6)
    np.testing.assert_allclose(even.patch_to_itself, 1 / 16, rtol=1e-6)
    np.testing.assert_allclose(jnp.stack([even.cls_entropy, even.patch_entropy]), np.log(16), rtol=1e-6)

    # Every patch sees itself alone, [CLS] the last patch and itself.
    own = jnp.eye(prefix + 16).at[0, -1].set(1) / (1 + jnp.eye(prefix + 16, 1))
    alone = flow_of_block(jnp.tile(own[None, None], (1, 3, 1, 1)), config)
    assert (alone.cls_to_cls == 0.5).all()
    assert (alone.patch_to_itself == 1).all()
    assert not jnp.stack([alone.cls_entropy, alone.patch_entropy]).any()


def test_attention_that_goes_to_no_patch_is_even():
    """Float32 has nothing left for the patches where registers take all; what is reported must stay a number."""
    config = tiny("dinov2_1")
    attn = jnp.zeros((1, 1, 9, 9)).at[..., 1].set(1)
    flow = flow_of_block(attn, config)
    np.testing.assert_allclose(jnp.stack([flow.cls_entropy, flow.patch_entropy]), np.log(4), rtol=1e-6)
    np.testing.assert_allclose(flow.patch_to_itself, 0.25, rtol=1e-6)
    np.testing.assert_allclose(renormalized(jnp.zeros((1, 4))), 0.25)


@pytest.mark.parametrize(("name", "batch"), [("dinov2_1", 16), ("capi", 3)])
def test_the_flow_of_all_blocks_is_that_of_their_maps(name, batch):
    """One with [CLS] and registers, one without [CLS] and as many images as make no groups."""
    config = tiny(name)
    assert config.num_registers
    assert config.class_token == (name != "capi")
    backbone, images = random_backbone(config), pixels_of(config, batch)
    flow = attention_flow(backbone, images, ONE_DEVICE)
    wanted = [(layer, "attn") for layer in range(config.depth)]
    capture = quick_jit(lambda params, images: capture_pixels(config, backbone.spec.preprocess, params, images, wanted))
    maps = capture(backbone.params, images)
    for layer, cell in enumerate(wanted):
        for statistic, expected in by_hand(maps[cell], config).items():
            of_blocks = getattr(flow, statistic)
            if expected is None:
                assert of_blocks is None
                continue
            assert of_blocks.shape == (batch, config.depth, config.num_heads)
            # Two programs of float32: entropies of order 1, of maps that differ in the sixth digit.
            np.testing.assert_allclose(of_blocks[:, layer], expected, rtol=1e-4, atol=1e-5)
            assert np.ptp(expected) > 0.01


def test_devices_leave_no_trace():
    config = tiny("dinov2_1")
    backbone, images = random_backbone(config), pixels_of(config, 16)
    one, many = (attention_flow(backbone, images, mesh) for mesh in (ONE_DEVICE, make_mesh()))
    for name in AttentionFlow._fields:
        np.testing.assert_array_equal(getattr(one, name), getattr(many, name))
    with pytest.raises(ValueError, match="9 images"):
        attention_flow(backbone, images[:9], make_mesh())
