"""Taking the intermediates of a torch model by forward hooks, and resampling positions the official ways."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from tests.zoo.specimen import Traced

PositionRule = Literal["dino", "bicubic", "bicubic_antialias", "bicubic_aligned", "bilinear"]


class Trace:
    """Collects intermediates while a model runs.

    `keep` hooks a module; `put` takes a tensor as it is, for what no module returns; `run` runs the model once and gives
    everything as arrays.
    """

    def __init__(self):
        self._kept: dict[tuple[int, str], torch.Tensor] = {}
        self._handles: list[Any] = []

    def keep(self, key: tuple[int, str], module: nn.Module, pick: Callable[[Any, Any], torch.Tensor]) -> None:
        """Keeps `pick(inputs, output)` of the module under the key; `inputs` are its positional arguments."""
        self._handles.append(
            module.register_forward_hook(lambda _, inputs, output: self.put(key, pick(inputs, output)))
        )

    def put(self, key: tuple[int, str], value: torch.Tensor) -> None:
        """Keeps the tensor under the key."""
        # A copy: a model that adds to its tokens in place would change what was kept before.
        self._kept[key] = value.detach().clone()

    def run(self, model: nn.Module, images: np.ndarray, final_norm: Callable[[torch.Tensor], torch.Tensor]) -> Traced:
        """Runs the model on normalised images [B, height, width, 3]; `x2` is `final_norm` of every `x2_raw`."""
        with torch.no_grad():
            model.eval()(to_torch(images))
            for layer, name in list(self._kept):
                if name == "x2_raw":
                    self._kept[layer, "x2"] = final_norm(self._kept[layer, name])
        for handle in self._handles:
            handle.remove()
        return {key: value.numpy() for key, value in self._kept.items()}


def class_token(traced: Traced, depth: int) -> Traced:
    """The same with the global representation of most families: the last `x2` at [CLS]."""
    return traced | {(depth - 1, "global"): traced[depth - 1, "x2"][:, 0]}


def to_torch(images: np.ndarray) -> torch.Tensor:
    """[B, height, width, 3] as torch's [B, 3, height, width]."""
    return torch.from_numpy(np.array(images, np.float32).transpose(0, 3, 1, 2))


def patch_grid(images: np.ndarray, patch_size: int) -> tuple[int, int]:
    """(rows, columns) of patches of images [B, height, width, 3]."""
    return images.shape[1] // patch_size, images.shape[2] // patch_size


def resample_positions(
    positions: torch.Tensor, grid: tuple[int, int], rule: PositionRule, *, num_prefix: int = 1
) -> torch.Tensor:
    """Positions [1, prefix + patches, D] at another grid, as the official code resamples them with torch's `interpolate`.

    Rules: `dino`, bicubic by scale factors (n + 0.1) / n_in, and nothing at the native grid; `bicubic`,
    `bicubic_antialias`, `bicubic_aligned` (align_corners) and `bilinear` by size. The stored grid is square; the first
    `num_prefix` rows stay.

    In float64, and rounded to the type of the positions at the end. In float32, as the official codes run it, `interpolate`
    is up to 1e-5 from that on random positions of DINOv2's 37 x 37: it knows sample places to 4e-6.
    """
    native = round((positions.shape[1] - num_prefix) ** 0.5)
    if rule == "dino" and grid == (native, native):
        return positions
    target = {"scale_factor": tuple((n + 0.1) / native for n in grid)} if rule == "dino" else {"size": grid}
    patches = nn.functional.interpolate(
        positions[:, num_prefix:].double().reshape(1, native, native, -1).permute(0, 3, 1, 2),
        mode=rule if rule == "bilinear" else "bicubic",
        align_corners=rule == "bicubic_aligned",
        antialias=rule == "bicubic_antialias",
        **target,
    )
    return torch.cat([positions[:, :num_prefix], patches.flatten(2).transpose(1, 2).to(positions.dtype)], dim=1)
