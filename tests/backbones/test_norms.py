"""Norms where they are easily wrong: tokens of little variance, tokens with a large mean."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.zoo import SPECIMENS
from tests.zoo.conversion import Converted, convert_into
from tests.zoo.parity import differences, random_images, trace_ours
from tests.zoo.quick import quick_jit
from tests.zoo.specimen import Sizes, Specimen, StateDict
from vitprobe_jax.backbones.capture import capture

RESIDUAL = re.compile(r"cls_token|pos_embed|registers|storage_tokens|mask_token|patch_embed|[.]proj[.]|[.]fc2[.]")
"""Keys of all that adds to the residual stream."""


def changed(specimen: Specimen, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Specimen:
    """The same with other weights; its file must be flat."""

    def write(path: Path, sizes: Sizes, seed: int) -> StateDict:
        state = specimen.write(path, sizes, seed)
        torch.save({key: change(key, value) for key, value in torch.load(path).items()}, path)
        return {key: change(key, value) for key, value in state.items()}

    return dataclasses.replace(specimen, write=write)


def compare(converted: Converted) -> tuple[dict, np.ndarray]:
    images = random_images(converted.sizes, (2, 3), batch=2)
    theirs = converted.specimen.trace(converted.state, converted.sizes, images)
    return differences(dict(trace_ours(converted, images, quick=True)), theirs), images


@pytest.mark.parametrize(("name", "other"), [("dino", 1e-12), ("dinov3", 1e-6), ("capi", 1e-6)])
def test_epsilon_on_low_variance_tokens(tmp_path, name, other):
    """Tokens of variance 1e-6, where epsilon decides: the official one, not Hugging Face's 1e-12 nor the others' 1e-6."""
    quiet = changed(SPECIMENS[name], lambda key, value: value * 1e-3 if RESIDUAL.search(key) else value)
    converted = convert_into(tmp_path, quiet)
    found, images = compare(converted)
    # Norms multiply by up to a thousand here: the rounding of the residual stream, 1e-10, becomes 1e-7.
    assert max(found.values()) < 1e-5
    config, params = converted.backbone.spec.config, converted.backbone.params
    wrong = dataclasses.replace(config, layer_norm_eps=other)
    wanted = [(0, name) for name in ("q", "xn", "x2")]
    right, without = (
        quick_jit(lambda images, c=c: capture(c, params, images, wanted))(jnp.asarray(images)) for c in (config, wrong)
    )
    for key in wanted:
        assert np.abs(right[key] - without[key]).max() > 0.1


def test_variance_on_tokens_with_a_large_mean(tmp_path):
    """At a mean of 30 the one-pass variance, E[x^2] - E[x]^2, is 3e-4 off; float32 itself has steps of 2e-6 there."""
    lifted = changed(SPECIMENS["dino"], lambda key, value: value + 30 if key == "pos_embed" else value)
    found, _ = compare(convert_into(tmp_path, lifted))
    assert max(found.values()) < 5e-5
