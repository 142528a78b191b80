"""A tensor of a checkpoint file that is not read yet: what every reader gives."""

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """Shape and dtype now, values on demand, so that a file larger than memory can be looked through.

    Attributes:
        shape: as stored.
        dtype: NumPy's, with `ml_dtypes.bfloat16`.
        read: gives the values, read-only; raises InputError where the file is damaged.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]
