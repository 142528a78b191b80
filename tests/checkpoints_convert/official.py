"""Official files of every specimen, small, and the ways in which they come to harm."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from checkpoints_convert.lazy import LazyTensor
from tests.zoo import SPECIMENS
from tests.zoo.specimen import Sizes, Specimen, StateDict

_TUNED = ["simmim_finetuned", "beit_finetuned", "beitv2_finetuned"]
_WITH_HEAD = ["mae_finetuned", "deit", "augreg"]
ALIKE = {
    **dict.fromkeys(_TUNED, _TUNED),
    **dict.fromkeys(("deit", "augreg"), _WITH_HEAD),
    "dino": ["dino", "ibot", "msn", "deit", "augreg"],
    "beit": ["beit", "beitv2"],
}
"""By specimen, the families that call all its tensors alike, so that only a person can tell."""

FIRSTS = list({specimen.family: name for name, specimen in reversed(SPECIMENS.items())}.values())[::-1]
"""The first specimen of every family."""


@dataclasses.dataclass(frozen=True)
class Official:
    """A specimen's file.

    Attributes:
        specimen: which.
        sizes: its tiny ones, with two blocks.
        path: of the file.
        state: what the model uses, under the file's keys without prefix.
    """

    specimen: Specimen
    sizes: Sizes
    path: Path
    state: StateDict

    @property
    def options(self) -> dict[str, Any]:
        """What `convert` must be told."""
        return {"family": self.specimen.family, "num_heads": self.sizes.num_heads, **self.specimen.options}

    @property
    def key(self) -> str:
        """A matrix of the second block, as the file calls it."""
        second = (".1.", "layer_1.")
        return self.full(next(k for k, v in self.state.items() if v.ndim == 2 and any(part in k for part in second)))

    def full(self, key: str) -> str:
        """A key of `state` with the prefix that it has in the file."""
        return self.prefix + key

    @functools.cached_property
    def contents(self) -> dict:
        """All that is in the file."""
        if self.path.suffix == ".safetensors":
            return load_file(self.path)
        return torch.load(self.path, weights_only=False)

    @functools.cached_property
    def container(self) -> str | None:
        """Where the weights stand."""
        return self._place[0]

    @functools.cached_property
    def prefix(self) -> str:
        """What stands before their keys."""
        return self._place[1]

    @property
    def tensors(self) -> StateDict:
        """The weights with all that stands beside them, under the file's keys."""
        return self.contents if self.container is None else self.contents[self.container]

    @functools.cached_property
    def _place(self) -> tuple[str | None, str]:
        first = next(iter(self.state))
        for container, tensors in ((None, self.contents), *self.contents.items()):
            if isinstance(tensors, Mapping):
                for prefix in (key.removesuffix(first) for key in tensors if key.endswith(first)):
                    if all(same(tensors.get(prefix + key), value) for key, value in self.state.items()):
                        return container, prefix
        raise AssertionError(f"{self.path} does not hold the specimen's tensors")

    def damaged(self, changes: Mapping[str, torch.Tensor | None]) -> Path:
        """A copy with some tensors changed, by the file's keys; None leaves one out."""
        tensors = {key: value for key, value in (dict(self.tensors) | dict(changes)).items() if value is not None}
        path = self.path.with_name(f"damaged-{self.path.name}")
        if path.suffix == ".safetensors":
            save_file(tensors, path)
        else:
            torch.save(tensors if self.container is None else self.contents | {self.container: tensors}, path)
        return path

    def cut(self, length: int) -> Path:
        """A copy that ends early."""
        path = self.path.with_name(f"cut-{self.path.name}")
        path.write_bytes(self.path.read_bytes()[:length])
        return path

    def flipped(self) -> Path:
        """A copy with one bit of the tensor `key` flipped; safetensors have no checksum, so there it is one of its name."""
        content = self.path.read_bytes()
        name = self.key.encode()
        pattern = name if self.path.suffix == ".safetensors" else self.tensors[self.key].numpy().tobytes()
        assert content.count(pattern) == 1
        at = content.index(pattern) + len(pattern) // 2
        path = self.path.with_name(f"flipped-{self.path.name}")
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        return path


def same(ours: Any, theirs: torch.Tensor) -> bool:
    """Whether a value of a file is that tensor."""
    return isinstance(ours, torch.Tensor) and ours.shape == theirs.shape and torch.equal(ours, theirs)


def write(name: str, folder: Path) -> Official:
    """Writes the file of a specimen."""
    specimen = SPECIMENS[name]
    sizes = dataclasses.replace(specimen.tiny, depth=2)
    path = folder / specimen.file
    return Official(specimen, sizes, path, specimen.write(path, sizes, 0))


def lazy(tensors: Mapping[str, torch.Tensor]) -> dict[str, LazyTensor]:
    """Tensors as the readers of files give them."""
    return {key: LazyTensor(tuple(t.shape), _dtype(t), lambda t=t: t.numpy()) for key, t in tensors.items()}


def _dtype(tensor: torch.Tensor) -> np.dtype:
    return np.dtype(str(tensor.dtype).removeprefix("torch."))
