"""What a family brings to the parity tests."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

StateDict = dict[str, torch.Tensor]
Traced = dict[tuple[int, str], np.ndarray]
"""Intermediates, keyed by (block, name); names as in `vitprobe_jax.types`, and `global` at the last block."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of an encoder.

    Attributes:
        grid: side of the native grid, in patches.
        mlp_dim: hidden units of an MLP.
    """

    width: int
    depth: int
    num_heads: int
    patch_size: int
    grid: int
    mlp_dim: int


@dataclasses.dataclass(frozen=True)
class Specimen:
    """One official layout with its oracle.

    Attributes:
        name: unique, e.g. `dinov2_reg4_g`.
        family: key of the library's table of families.
        tiny: sizes for the fast tests; heads and MLP cannot be guessed from the width.
        arch: published size of the full-size test; None where another specimen stands for the family.
        full: sizes of `arch`; None where `arch` is.
        file: name of the file, with the suffix the official one has.
        write: writes the official layout (container, prefix, what a converter drops) at the path, with random weights of
            the seed. Returns the tensors under the file's own keys, without container and prefix: all that the model uses,
            heads, buffers and other encoders left out.
        trace: the oracle. From what `write` returned and normalised images [B, height, width, 3] of any size that the
            patch divides: every intermediate of every block [B, T, D], `attn` [B, H, T, T], with RoPE also `q_rotated` and
            `k_rotated`, and `(depth - 1, "global")` [B, D].
        oracle: what it is, for the table.
        epsilon: of every norm of the model.
        options: further arguments of `convert`.
        gsd: metres a pixel that `trace` takes the images to have; None where the model does not ask.
    """

    name: str
    family: str
    tiny: Sizes
    arch: str | None
    full: Sizes | None
    file: str
    write: Callable[[Path, Sizes, int], StateDict]
    trace: Callable[[StateDict, Sizes, np.ndarray], Traced]
    oracle: str
    epsilon: float = 1e-6
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    gsd: float | None = None
