"""What the tests of conversions share: sizes, an independent Flax tree, failures."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import pytest
import torch

from checkpoints_convert import convert
from vitprobe_jax.errors import InputError

# Heads of 12 values, an MLP that is no multiple of the width: neither can be guessed from the other.
TINY = {"width": 36, "depth": 2, "num_heads": 3, "patch_size": 4, "grid": 3, "mlp_dim": 100}
DECODER = {"width": 24, "depth": 1, "num_heads": 2, "mlp_dim": 56}


def leaves(tree: Mapping, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The leaves of a nested dict, with their paths."""
    for name, value in tree.items():
        yield from leaves(value, *path, name) if isinstance(value, Mapping) else [((*path, name), value)]


def restored(folder):
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(folder.resolve())


def expected_tree(weights: dict[str, torch.Tensor], *, decoder: bool = False) -> dict:
    """The Flax tree of plain keys, spelled out independently of the converter's tables."""
    rules = [
        (r"patch_embed\.proj\.weight", "patch_embed/kernel"),
        (r"patch_embed\.proj\.bias", "patch_embed/bias"),
        (r"blocks\.(\d+)\.(norm\d)\.weight", r"blocks_\1/\2/scale"),
        (r"blocks\.(\d+)\.(norm\d)\.bias", r"blocks_\1/\2/bias"),
        (r"blocks\.(\d+)\.(attn|mlp)\.(\w+)\.weight", r"blocks_\1/\2/\3/kernel"),
        (r"blocks\.(\d+)\.(attn|mlp)\.(\w+)\.bias", r"blocks_\1/\2/\3/bias"),
        (r"norm\.weight", "norm/scale"),
        (r"norm\.bias", "norm/bias"),
        (r"(embed|pred)\.(weight|bias)", lambda m: f"{m[1]}/{'kernel' if m[2] == 'weight' else 'bias'}"),
        (r"(cls_token|pos_embed|mask_token)", r"\1"),
    ]
    tree: dict = {}
    for key, tensor in weights.items():
        if (key.startswith("decoder") or key == "mask_token") != decoder:
            continue
        key = key.removeprefix("decoder_")
        (path,) = [re.sub(rule, to, key) for rule, to in rules if re.fullmatch(rule, key)]
        value = tensor.float().numpy()
        value = {2: lambda v: v.T, 4: lambda v: np.einsum("oihw->hwio", v)}.get(value.ndim, lambda v: v)(value)
        *parents, leaf = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


def assert_trees_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        if isinstance(value, dict):
            assert_trees_equal(ours[key], value)
        else:
            assert ours[key].dtype == np.float32
            np.testing.assert_array_equal(ours[key], value)


def failure(source: Path, output: Path, **options) -> str:
    """The one line in which a conversion ends that leaves nothing behind."""
    with pytest.raises(InputError) as caught:
        convert(source, output, **{"family": "dino", "num_heads": 3, **options})
    message = str(caught.value)
    assert "\n" not in message
    assert not output.exists()
    assert not [path for path in output.parent.iterdir() if path.name.startswith(".")]
    return message
