"""The whole road, official file to tokens, against timm and transformers with the same weights."""

import dataclasses
from collections.abc import Iterable

import numpy as np
import pytest

from tests.backbones.converted import Converted, convert_random, convert_state
from tests.backbones.oracles import ORACLES, Traced
from tests.checkpoints_convert import official_files
from vitprobe_jax.types import INTERMEDIATES

TINY = {
    "dino": {"width": 30, "depth": 3, "num_heads": 3, "patch_size": 4, "grid": 5, "mlp_dim": 120},
    "dino_one_head": {
        "width": 16,
        "depth": 4,
        "num_heads": 1,
        "patch_size": 8,
        "grid": 3,
        "mlp_dim": 48,
        "layout": "teacher",
    },
    "mae": {"width": 40, "depth": 5, "num_heads": 5, "patch_size": 4, "grid": 4, "mlp_dim": 80},
    "mae_seven_heads": {"width": 28, "depth": 3, "num_heads": 7, "patch_size": 2, "grid": 6, "mlp_dim": 112},
}
FULL = {
    "dino_vits16": {"width": 384, "depth": 12, "num_heads": 6, "patch_size": 16, "grid": 14, "mlp_dim": 1536},
    "dino_vits8": {"width": 384, "depth": 12, "num_heads": 6, "patch_size": 8, "grid": 28, "mlp_dim": 1536},
    "dino_vitb16": {"width": 768, "depth": 12, "num_heads": 12, "patch_size": 16, "grid": 14, "mlp_dim": 3072},
    "mae_vitb16": {"width": 768, "depth": 12, "num_heads": 12, "patch_size": 16, "grid": 14, "mlp_dim": 3072},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> dict[str, Converted]:
    return {
        name: convert_random(tmp_path_factory.mktemp(name), name.split("_")[0], **sizes) for name, sizes in TINY.items()
    }


@pytest.mark.parametrize("name", TINY)
def test_every_intermediate_of_every_block(tiny, name):
    assert_parity(tiny[name], tiny[name].backbone.spec.config.grid, ORACLES)


@pytest.mark.parametrize("name", ["dino", "mae"])
@pytest.mark.parametrize("grid", [(7, 7), (3, 3), (2, 9), (6, 4), (5, 6)])
def test_other_sizes(tiny, name, grid):
    # The oracles agree at every native size; here it is the positions that are tested, and one is enough.
    assert_parity(tiny[name], grid, ["timm"])


def test_as_many_patches_in_another_shape_are_resampled(tiny):
    # 36 patches as 4 x 9: the stored 6 x 6 positions fit in number, and are wrong.
    assert_parity(tiny["mae_seven_heads"], (4, 9), ["timm"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "grid"),
    [
        ("dino_vits16", (14, 14)),
        ("dino_vits16", (20, 12)),
        ("dino_vits8", (28, 28)),
        ("dino_vitb16", (14, 14)),
        ("mae_vitb16", (14, 14)),
        ("mae_vitb16", (9, 24)),
    ],
)
def test_full_size(tmp_path, name, grid):
    family, arch = name.split("_")
    assert_parity(convert_random(tmp_path, family, arch=arch, **FULL[name]), grid, ORACLES, batch=1)


def test_epsilon_on_low_variance_tokens(tmp_path):
    """Tokens of variance 1e-6, where LayerNorm's epsilon decides: the official one, not the 1e-12 of Hugging Face."""
    sizes = TINY["dino"]
    state = official_files.plain_state_dict(**sizes)
    for key in state:
        if key.startswith(("cls_token", "pos_embed", "patch_embed")) or "proj." in key or "fc2." in key:
            state[key] *= 1e-3
    converted = convert_state(tmp_path, state, "dino", num_heads=sizes["num_heads"])
    config = converted.backbone.spec.config
    assert_parity(converted, config.grid, ORACLES)
    ours, images = run(converted, config.grid)
    theirs = ORACLES["transformers"](state, dataclasses.replace(config, layer_norm_eps=1e-12), images)
    for name in ("q", "xn", "x2"):
        assert np.abs(ours[0, name] - theirs[0, name]).max() > 0.1


def test_variance_on_tokens_with_a_large_mean(tmp_path):
    """At a mean of 30 the one-pass variance, E[x^2] - E[x]^2, is 3e-4 off; float32 itself has steps of 2e-6 there."""
    sizes = TINY["dino"]
    state = official_files.plain_state_dict(**sizes)
    state["pos_embed"] += 30
    converted = convert_state(tmp_path, state, "dino", num_heads=sizes["num_heads"])
    assert_parity(converted, converted.backbone.spec.config.grid, ORACLES, tolerance=5e-5)


def run(converted: Converted, grid: tuple[int, int], batch: int = 2) -> tuple[Traced, np.ndarray]:
    """Everything the library takes from random images of a patch grid, and the images as the oracles want them."""
    spec = converted.backbone.spec
    shape = (batch, *(side * spec.config.patch_size for side in grid), 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    everything = [(layer, name) for layer in range(spec.config.depth) for name in INTERMEDIATES]
    ours = converted.backbone.tokens(pixels, everything)
    return ours, ((pixels / 255 - spec.preprocess.mean) / spec.preprocess.std).astype(np.float32)


def assert_parity(
    converted: Converted, grid: tuple[int, int], oracles: Iterable[str], *, batch: int = 2, tolerance=1e-5
):
    """Within the tolerance for values of order 1, and of their root mean square where that is larger.

    Both sides are float32 and sum in different orders; at full size each is up to 7e-6 from the same in float64.
    """
    ours, images = run(converted, grid, batch)
    for oracle in oracles:
        theirs = ORACLES[oracle](converted.state, converted.backbone.spec.config, images)
        assert theirs.keys() == ours.keys()
        for key, expected in theirs.items():
            order = max(1.0, float(np.sqrt(np.mean(expected**2))))
            np.testing.assert_allclose(
                ours[key], expected, rtol=0, atol=tolerance * order, err_msg=f"{oracle}: {key[1]} of block {key[0]}"
            )
