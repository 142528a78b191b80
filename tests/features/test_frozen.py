import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import entropy as scipy_entropy

from tests.backbones.random_vit import tiny
from tests.features.test_attention_flow import GRID, ONE_DEVICE, pixels_of, random_backbone
from tests.zoo.quick import quick_jit
from vitprobe_jax.backbones.capture import capture_pixels
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.frozen import WEIGHTS, distributions, frozen_tokens, regrid
from vitprobe_jax.features.table import DATA_AXIS, make_mesh

CELL = (1, "x2_raw")


def captured(backbone, images, *wanted):
    spec = backbone.spec
    run = quick_jit(lambda params, images: capture_pixels(spec.config, spec.preprocess, params, images, wanted))
    found = run(backbone.params, images)
    return [np.asarray(found[cell]) for cell in wanted]


@pytest.fixture(scope="module")
def backbone():
    """[CLS], four registers."""
    return random_backbone(tiny("dinov2_1"))


@pytest.fixture(scope="module")
def other():
    """Patches of 3 pixels: a grid of 4 x 8 where the other has 3 x 6."""
    return random_backbone(tiny("dino", patch_size=3))


@pytest.fixture(scope="module")
def images(backbone):
    return pixels_of(backbone.spec.config, 16)


@pytest.fixture(scope="module")
def tokens(backbone, other, images):
    return frozen_tokens(backbone, CELL, images, ONE_DEVICE, weights=WEIGHTS, other=other)


def test_tokens_and_weights_are_those_of_the_captured_block(backbone, other, images, tokens):
    x2_raw, attn = captured(backbone, images, CELL, (1, "attn"))
    np.testing.assert_allclose(tokens.cls, x2_raw[:, 0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(tokens.patches, x2_raw[:, 5:], rtol=1e-4, atol=1e-4)

    assert set(tokens.weights) == set(WEIGHTS)
    for weights in tokens.weights.values():
        np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
        assert weights.shape == (16, 18)
    of_cls = attn[:, :, 0, 5:].mean(axis=1)
    # Of 3 x 6 patches that of row 1, column 2, the last before the middle: number 8.
    of_centre = attn[:, :, 5 + 8, 5:].mean(axis=1)
    for name, expected in (("cls_attention", of_cls), ("central_patch", of_centre)):
        expected = expected / expected.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(tokens.weights[name], expected, rtol=1e-4, atol=1e-6)
    chosen = set()
    for image, maps in enumerate(attn[:, :, 0, 5:]):
        head = min(range(3), key=lambda head: scipy_entropy(maps[head]))
        np.testing.assert_allclose(
            tokens.weights["lowest_entropy_cls"][image], maps[head] / maps[head].sum(), rtol=1e-4, atol=1e-6
        )
        chosen.add(head)
    assert len(chosen) > 1  # It is each image's own head.

    (attn,) = captured(other, images, (1, "attn"))
    of_cls = attn[:, :, 0, 1:].mean(axis=1).reshape(-1, 4, 8)
    rows, columns = (spread(n, m) for n, m in ((4, 3), (8, 6)))
    expected = np.einsum("oi,bij,pj->bop", rows, of_cls, columns).reshape(16, 18)
    expected = expected / expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(tokens.weights["other_cls_attention"], expected, rtol=1e-4, atol=1e-6)


def spread(source, target):
    """How much of each of `source` cells comes to each of `target` ones, by cutting the axis into crumbs."""
    matrix = np.zeros((target, source))
    for crumb in range(source * target):
        matrix[crumb // source, crumb // target] += 1 / target
    return matrix


def test_devices_leave_no_trace(backbone, other, images, tokens):
    mesh = make_mesh()
    many = frozen_tokens(backbone, CELL, images, mesh, weights=WEIGHTS, other=other)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), tokens, many))
    assert all(leaf.sharding.spec[0] == DATA_AXIS for leaf in jax.tree.leaves(many))
    with pytest.raises(ValueError, match="9 images"):
        frozen_tokens(backbone, CELL, images[:9], mesh)


def test_without_cls_the_mean_of_the_patches_stands_for_it():
    backbone = random_backbone(tiny("capi"))
    images = pixels_of(backbone.spec.config, 2)
    tokens = frozen_tokens(backbone, CELL, images, ONE_DEVICE, weights=["central_patch"])
    assert tokens.patches.shape == (2, 18, 36)
    np.testing.assert_allclose(tokens.cls, tokens.patches.mean(axis=1), rtol=1e-5, atol=1e-5)
    assert list(tokens.weights) == ["central_patch"]
    with pytest.raises(InputError, match=r"random has no \[CLS\] token, hence no cls_attention"):
        frozen_tokens(backbone, CELL, images, ONE_DEVICE, weights=["cls_attention"])
    with pytest.raises(InputError, match=r"random has no \[CLS\]"):
        frozen_tokens(backbone, CELL, images, ONE_DEVICE, weights=["other_cls_attention"], other=backbone)


def test_a_planted_head_and_a_planted_centre():
    """On the paper's 14 x 14 grid the central patch is that of row 6, column 6."""
    config = tiny("dino", grid=(14, 14))
    attn = np.full((2, 3, 197, 197), 1 / 197, np.float32)
    attn[0, 2, 0] = attn[1, 1, 0] = np.eye(197)[1 + 50]
    attn[:, :, 1 + 6 * 14 + 6] = np.eye(197)[1 + 90]
    found = distributions(jnp.asarray(attn), config, (14, 14))
    np.testing.assert_array_equal(found["lowest_entropy_cls"].argmax(axis=1), [50, 50])
    np.testing.assert_array_equal(found["lowest_entropy_cls"].max(axis=1), [1, 1])
    np.testing.assert_array_equal(found["central_patch"][:, 90], [1, 1])
    assert float(found["cls_attention"][0, 50]) == pytest.approx((1 + 2 / 197) / (1 + 2 * 196 / 197), rel=1e-6)


def test_another_grid_takes_what_falls_on_its_patches():
    fine = jnp.arange(16.0)[None] / 120
    coarse = regrid(fine, (4, 4), (2, 2))
    np.testing.assert_allclose(coarse[0], fine.reshape(2, 2, 2, 2).sum(axis=(1, 3)).ravel(), rtol=1e-6)
    np.testing.assert_allclose(regrid(coarse, (2, 2), (4, 4)).sum(), 1, rtol=1e-6)
    assert regrid(fine, GRID, GRID) is fine


def test_bad_weights_are_told(backbone, other, images):
    cases = {
        "no weights cls; there are cls_attention": {"weights": ["cls"]},
        "another backbone is needed": {"weights": ["other_cls_attention"]},
        "patches of 5 pixels of odd do not divide images of 12 x 24": {
            "weights": ["other_cls_attention"],
            "other": dataclasses.replace(
                other,
                spec=dataclasses.replace(
                    other.spec, name="odd", config=dataclasses.replace(other.spec.config, patch_size=5)
                ),
            ),
        },
    }
    for message, options in cases.items():
        with pytest.raises(InputError, match=message):
            frozen_tokens(backbone, CELL, images, ONE_DEVICE, **options)
