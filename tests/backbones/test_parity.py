"""The whole road, official file to tokens, against an independent implementation of every family."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from tests.zoo import SPECIMENS, plain
from tests.zoo.conversion import Converted, convert_into
from tests.zoo.parity import differences, grids, random_images, trace_ours
from tests.zoo.quick import quick_jit
from tests.zoo.specimen import Traced
from vitprobe_jax.backbones.capture import capture, normalize
from vitprobe_jax.types import INTERMEDIATES

# For values of order 1. Both sides are float32 and sum in different orders; at full size each is up to 7e-6 from the same in
# float64.
TOLERANCE = 1e-5

FULL = [specimen.name for specimen in SPECIMENS.values() if specimen.full is not None]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A specimen by name, converted once."""
    return functools.cache(lambda name: convert_into(tmp_path_factory.mktemp(name), SPECIMENS[name]))


@pytest.mark.parametrize("name", SPECIMENS)
def test_every_intermediate_of_every_block(tiny, name):
    converted = tiny(name)
    assert converted.backbone.spec.config.layer_norm_eps == SPECIMENS[name].epsilon
    shapes = grids(converted.sizes)
    # The other square one is in the table: what it adds to these is the resampling, which has tests of its own.
    assert_parity(converted, shapes["native"], batch=2, quick=True)
    assert_parity(converted, shapes["not square"], batch=2, quick=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_full_size(tmp_path, name):
    converted = convert_into(tmp_path, SPECIMENS[name], full=True, keep_file=False)
    shapes = grids(converted.sizes)
    assert_parity(converted, shapes["native"], batch=1)
    assert_parity(converted, shapes["not square"], batch=1)


def assert_parity(converted: Converted, grid: tuple[int, int], *, batch: int, quick: bool = False) -> None:
    config, specimen = converted.backbone.spec.config, converted.specimen
    images = random_images(converted.sizes, grid, batch=batch)
    ours = trace_ours(converted, images, quick=quick)
    assert ours[0, "x2"].shape[1] == config.num_prefix_tokens + grid[0] * grid[1]
    theirs = specimen.trace(converted.state, converted.sizes, images)
    turned = set() if config.rope == "none" else {"q_rotated", "k_rotated"}
    expected = set(INTERMEDIATES) - {"q_rotated", "k_rotated"} | turned
    everything = {(layer, name) for layer in range(config.depth) for name in expected}
    assert theirs.keys() == everything | {(config.depth - 1, "global")}
    off = {key: value for key, value in differences(dict(ours), theirs).items() if not value < TOLERANCE}
    assert not off, f"{specimen.name} from {specimen.oracle} on {grid}: {off}"


def test_every_image_has_its_own_ground_sample_distance(tiny):
    converted, gsd = tiny("scalemae"), [0.3, 10.0]
    config, params = converted.backbone.spec.config, converted.backbone.params
    images = random_images(converted.sizes, (5, 5), batch=2)
    theirs = plain.trace_scalemae(converted.state, converted.sizes, images, gsd=gsd)
    run = quick_jit(lambda images, gsd: capture(config, params, images, [(1, "x2")], gsd=gsd))
    ours = run(jnp.asarray(images), jnp.asarray(gsd, jnp.float32))
    assert max(differences(ours, {(1, "x2"): theirs[1, "x2"]}).values()) < TOLERANCE


def test_a_backbone_gives_of_pixels_what_its_parts_do(tiny):
    """`tokens` and `global_representation`, from images in 0..255: the pixels normalised, distances passed on."""
    converted = tiny("scalemae")
    backbone, grid = converted.backbone, (2, 3)
    pixels = np.random.default_rng(1).integers(0, 256, (3, *(4 * side for side in grid), 3), np.uint8)
    gsd = np.full(3, converted.specimen.gsd, np.float32)
    last = backbone.spec.config.depth - 1
    normalised = np.asarray(normalize(jnp.asarray(pixels), backbone.spec.preprocess))
    expected = _of(trace_ours(converted, normalised, quick=True), (last, "x2"), (0, "k"), (last, "global"))
    found = backbone.tokens(pixels, [(last, "x2"), (0, "k")], gsd=gsd)
    found[last, "global"] = backbone.global_representation(pixels, gsd=gsd)
    assert max(differences(found, expected).values()) < TOLERANCE


def _of(traced: Traced, *keys: tuple[int, str]) -> Traced:
    return {key: np.asarray(traced[key]) for key in keys}
