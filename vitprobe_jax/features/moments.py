"""Means and variances of features, and which features are left out for their variance.

Some objectives leave features whose large variance says nothing of the image; whatever compares tokens by distance drowns in
them. Which features have the highest variance decides what is measured of all others, so means and variances here do not
depend on how rows are dealt to devices or cut into blocks, nor does the choice.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vitprobe_jax.errors import InputError
from vitprobe_jax.features.streaming import finished
from vitprobe_jax.features.table import FeatureTable, fold_images, on_all_devices

BLOCK_BYTES = 1 << 23
"""Rows of a block in float32: few enough for exact sums, and for the cache of a CPU."""
LANES = 256
"""Exact sums that a device adds rows to, side by side."""
HOST_BLOCK_BYTES = 1 << 20
"""Rows of a block in float64, on the host."""


class Moments(NamedTuple):
    """Of some rows: their number, their mean, and the sum of the squares of their deviations from it."""

    count: Float[Array | np.ndarray, ""]
    mean: Float[Array | np.ndarray, " D"]
    squares: Float[Array | np.ndarray, " D"]

    @property
    def variance(self) -> Float[Array | np.ndarray, " D"]:
        """Of the rows themselves, not of what they were drawn from: squares over count; 0 of no rows."""
        return self.squares / (self.count + (self.count == 0))


def merge(a: Moments, b: Moments) -> Moments:
    """The moments of both together (Chan, Golub and LeVeque, 1979), in the precision of both, in a program or outside."""
    count = a.count + b.count
    share = b.count / (count + (count == 0))
    step = b.mean - a.mean
    return Moments(count, a.mean + step * share, a.squares + b.squares + step**2 * a.count * share)


def feature_moments(rows: Float[Array | np.ndarray, "N D"]) -> Moments:
    """The moments of all rows, in float64 on the host.

    Args:
        rows: float32 or bfloat16; those on devices are fetched. How they lie there is of no account.

    Returns:
        In float64: no order of summation changes which of two features has the higher variance.
    """
    rows = np.asarray(rows)
    width = rows.shape[1]
    size = max(1, HOST_BLOCK_BYTES // (8 * width))
    moments = Moments(np.zeros(()), np.zeros(width), np.zeros(width))
    for start in range(0, len(rows), size):
        z = rows[start : start + size].astype(np.float64)
        mean = z.mean(axis=0)
        z -= mean[None]
        moments = merge(moments, Moments(np.array(float(len(z))), mean, np.einsum("nd,nd->d", z, z)))
    return moments


class GroupedMoments:
    """The moments of images that come in blocks, the same to the last bit however blocks and processes divide them.

    Images are added one by one, in order, to the moments of their group of `GROUP` consecutive images, and the groups are
    merged in order at the end. So a group must not be divided between two of these; `groups` lists what each has.
    """

    GROUP = 64

    def __init__(self, width: int):
        self._empty = Moments(np.zeros(()), np.zeros(width), np.zeros(width))
        self._groups: dict[int, Moments] = {}

    def add(
        self, images: Int[np.ndarray, " n"], rows: Float[np.ndarray, "n R D"], left_out: Bool[np.ndarray, " n"]
    ) -> None:
        """Adds the rows of some images.

        Args:
            images: their numbers, ascending, above those that were added before.
            rows: their features.
            left_out: images that do not count.
        """
        for image, of_image, left in zip(images.tolist(), rows, left_out.tolist(), strict=True):
            group = image // self.GROUP
            moments = self._groups.setdefault(group, self._empty)
            if not left:
                self._groups[group] = merge(moments, feature_moments(of_image))

    @property
    def groups(self) -> Float[np.ndarray, "G n"]:
        """Count, mean and squares of every group, ascending, one row each: 1 + 2 D numbers in float64."""
        rows = [np.concatenate([np.atleast_1d(leaf) for leaf in self._groups[group]]) for group in sorted(self._groups)]
        return np.array(rows, np.float64).reshape(len(rows), 1 + 2 * len(self._empty.mean))

    @staticmethod
    def merged(groups: Float[np.ndarray, "G n"]) -> Moments:
        """The moments of all groups, given as `groups` lists them."""
        width = (groups.shape[1] - 1) // 2
        moments = (Moments(row[0], row[1 : 1 + width], row[1 + width :]) for row in groups)
        return functools.reduce(merge, moments, Moments(np.zeros(()), np.zeros(width), np.zeros(width)))


def highest_variance(variance: Float[Array | np.ndarray, " D"], m: int) -> Bool[np.ndarray, " D"]:
    """Which features are kept when the m of highest variance are left out; of equal ones the first is left out first.

    Raises:
        InputError: m is negative or there are fewer features; names the flag of the studies.
    """
    if not 0 <= m <= len(variance):
        raise InputError(
            f"--drop_features={m}: the model has {len(variance)} features; give at most as many, 0 for none"
        )
    keep = np.ones(len(variance), bool)
    keep[np.argsort(-np.asarray(variance), kind="stable")[:m]] = False
    return keep


def variant_name(backbone: str, dropped: int) -> str:
    """What results call a backbone of which so many features are left out: `mae_vitb16-200`; its own name for 0."""
    return f"{backbone}-{dropped}" if dropped else backbone


def table_mean(table: FeatureTable) -> Float[Array, " D"]:
    """The mean over all rows of a table's real images, the same to the last bit however the table is cut.

    Returns:
        In float32, on every device.

    Raises:
        InputError: streamed rows could not be read.
    """
    return finished(table.rows, _mean(table))


def table_variance(table: FeatureTable) -> Float[Array, " D"]:
    """The variance over all rows of a table's real images, as exact as `table_mean`: the rows are gone through twice.

    Returns:
        In float32, on every device.

    Raises:
        InputError: streamed rows could not be read.
    """
    return finished(table.rows, _variance(table, table_mean(table)))


def images_at_once(table: FeatureTable) -> int:
    """Images whose rows make a block of `BLOCK_BYTES`."""
    _, num_rows, width = table.rows.shape
    return max(1, BLOCK_BYTES // (4 * num_rows * width))


@jax.jit
def _mean(table: FeatureTable):
    return on_all_devices(_mean_of_rows(lambda z: (z, jnp.zeros_like(z)), table), table.mesh)


@jax.jit
def _variance(table: FeatureTable, mean):
    return on_all_devices(_mean_of_rows(lambda z, mean: _square(z - mean[None]), table, mean), table.mesh)


_Exact = tuple[Float[Array, "*shape"], Float[Array, "*shape"]]
"""A number of twice the digits of float32, as the sum of two: the second is what the first has been rounded by."""


def _mean_of_rows(make: Callable[..., _Exact], table: FeatureTable, *shared: Array) -> Float[Array, " D"]:
    """The mean of what `make(rows [n, D], *shared)` makes of each row of the real images.

    Every device adds its rows to `LANES` sums, which are put together at the end. All sums are so exact that neither their
    order nor a compiler that fuses products into them leaves a trace in the digits of float32.
    """
    _, num_rows, width = table.rows.shape

    def add_block(carry, rows, slots, real, *shared):
        sums, count = carry
        real_N = jnp.repeat(real, num_rows)
        missing = -len(real_N) % LANES
        z_NxD = jnp.pad(rows.reshape(-1, width), ((0, missing), (0, 0)))
        lanes = z_NxD.reshape(-1, LANES, width), jnp.pad(real_N, (0, missing)).reshape(-1, LANES, 1)

        def add(sums, lanes):
            z_LxD, real_Lx1 = lanes
            own = make(z_LxD.astype(jnp.float32), *shared)
            return _add(sums, tuple(jnp.where(real_Lx1, part, 0.0) for part in own)), None

        return jax.lax.scan(add, sums, lanes)[0], count + jnp.sum(real)

    zeros = jnp.zeros((LANES, width))
    empty = ((zeros, zeros), jnp.zeros((), jnp.int32))
    by_device, count = fold_images(add_block, empty, table, *shared, images_at_once=images_at_once(table))
    of_lanes = tuple(part.reshape(-1, width) for part in by_device)
    high, _ = jax.lax.scan(lambda sums, own: (_add(sums, own), None), (zeros[0], zeros[0]), of_lanes)[0]
    return high / jnp.maximum(jnp.sum(count).astype(jnp.float32) * num_rows, 1)


def _add(a: _Exact, b: _Exact) -> _Exact:
    """Their sum: what its rounding leaves (Knuth's two-sum) goes into the second part."""
    high = a[0] + b[0]
    of_b = high - a[0]
    low = (a[0] - (high - of_b)) + (b[0] - of_b) + (a[1] + b[1])
    total = high + low
    return total, low - (total - high)


def _square(x: Float[Array, "*shape"]) -> _Exact:
    """x^2 from two halves of x, of 12 digits each: their products fit float32."""
    high = jax.lax.bitcast_convert_type(
        jax.lax.bitcast_convert_type(x, jnp.uint32) & jnp.uint32(0xFFFFF000), jnp.float32
    )
    low = x - high
    return _add((high * high, low * low), (2 * high * low, jnp.zeros_like(x)))
