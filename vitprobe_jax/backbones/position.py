"""Where tokens stand: learned grids and relative tables at other sizes, coordinates and frequencies of RoPE.

Resampling is separable, so each axis is one small matrix, computed on the host in float64. torch's bicubic `interpolate`
has A = -0.75 and clamped edges, with `antialias=True` A = -0.5 and edges left out; `jax.image.resize` knows the latter only,
and differs from the former by 0.26 on order-1 input.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.interpolate import make_interp_spline

from vitprobe_jax.backbones.config import Resample, Rope


def cubic_matrix(
    n_in: int, n_out: int, *, scale: float | None = None, align_corners: bool = False
) -> Float[np.ndarray, "{n_out} {n_in}"]:
    """The matrix that resamples one axis as torch's `interpolate(mode="bicubic")` does.

    Args:
        n_in: samples of the input.
        n_out: samples of the output.
        scale: the scale factor that torch was told; `n_out / n_in` unless given.
        align_corners: whether first and last samples of both fall together (`scale` is not used then).

    Returns:
        float64 weights; every row sums to 1.
    """
    if align_corners:
        source = np.linspace(0, n_in - 1, n_out) if n_out > 1 else np.zeros(1)
    else:
        scale = n_out / n_in if scale is None else scale
        source = (np.arange(n_out) + 0.5) / scale - 0.5
    first = np.floor(source).astype(int) - 1
    matrix = np.zeros((n_out, n_in))
    for tap in range(4):
        weight = _cubic(np.abs(source - (first + tap)), -0.75)
        np.add.at(matrix, (np.arange(n_out), np.clip(first + tap, 0, n_in - 1)), weight)
    return matrix


def linear_matrix(n_in: int, n_out: int) -> Float[np.ndarray, "{n_out} {n_in}"]:
    """The same of `interpolate(mode="bilinear")` and, at one frame, of `mode="trilinear"`."""
    source = np.clip((np.arange(n_out) + 0.5) * n_in / n_out - 0.5, 0, n_in - 1)
    return np.maximum(0.0, 1 - np.abs(source[:, None] - np.arange(n_in)))


def antialiased_matrix(n_in: int, n_out: int) -> Float[np.ndarray, "{n_out} {n_in}"]:
    """The same of `interpolate(mode="bicubic", antialias=True)`: the kernel widens as the output shrinks."""
    scale = n_in / n_out
    width = max(scale, 1.0)
    centre = scale * (np.arange(n_out)[:, None] + 0.5)
    place = np.arange(n_in)[None]
    # torch takes the samples between these bounds, and lets their weights sum to 1.
    inside = (place >= np.floor(centre - 2 * width + 0.5)) & (place < np.floor(centre + 2 * width + 0.5))
    weights = np.where(inside, _cubic(np.abs(place + 0.5 - centre) / width, -0.5), 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def grid_matrices(
    native: tuple[int, int], grid: tuple[int, int], rule: Resample
) -> tuple[Float[np.ndarray, "h_out h_in"], Float[np.ndarray, "w_out w_in"]]:
    """One resampling matrix per axis, from the native patch grid to `grid` (both rows, columns).

    `dino`: the scale is (n + 0.1) / N, N the native side, as DINO's and DINOv2's code pass it to guard against rounding;
    `bicubic`: the plain scale, as MAE's and DeiT's fine-tuning code does; `bicubic_antialias`: with antialiasing, as DINOv2
    with registers and timm; `bicubic_aligned`: corners aligned, as torchvision; `bilinear`: MaskFeat's code. All leave
    a native grid as it is.
    """
    if grid == native:
        return np.eye(native[0]), np.eye(native[1])
    make = {
        "dino": lambda n, m: cubic_matrix(n, m, scale=(m + 0.1) / n),
        "bicubic": cubic_matrix,
        "bicubic_antialias": antialiased_matrix,
        "bilinear": linear_matrix,
        "bicubic_aligned": functools.partial(cubic_matrix, align_corners=True),
    }[rule]
    return make(native[0], grid[0]), make(native[1], grid[1])


def relative_matrix(native: int, side: int) -> Float[np.ndarray, "n_out n_in"]:
    """Brings one axis of a relative table from `native` patches to `side`, as BEiT's fine-tuning code does.

    The 2 native - 1 offsets of the table are taken for a geometric progression that reaches the ends of the new range, and
    a cubic spline through them is read at whole offsets. The official code knows square grids alone; here each axis goes by
    itself, which for square ones is the same.

    Returns:
        float64 [2 side - 1, 2 native - 1].
    """
    if side == native:
        return np.eye(2 * native - 1)
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        reached = (1 - ratio ** (native - 1)) / (1 - ratio)
        low, high = (low, ratio) if reached > side - 1 else (ratio, high)
    steps = np.cumsum(ratio ** np.arange(native - 1))
    source = np.concatenate([-steps[::-1], [0.0], steps])
    # Past the ends the spline is held, as scipy's does on a grid.
    target = np.clip(np.arange(1 - side, side), source[0], source[-1])
    if len(source) == 1:
        return np.ones((len(target), 1))
    return make_interp_spline(source, np.eye(len(source)), k=min(3, len(source) - 1))(target)


def relative_index(grid: tuple[int, int]) -> Int[np.ndarray, "T T"]:
    """Rows of a relative table for query and key, [CLS] first: patch offsets in row-major order, then three more rows for
    [CLS] to patches, patches to [CLS] and [CLS] to itself.
    """
    rows, columns = (axis.ravel() for axis in np.indices(grid))
    height, width = grid
    offset = (rows[:, None] - rows + height - 1) * (2 * width - 1) + columns[:, None] - columns + width - 1
    first = (2 * height - 1) * (2 * width - 1)
    index = np.pad(offset, ((1, 0), (1, 0)))
    index[0, :], index[:, 0], index[0, 0] = first, first + 1, first + 2
    return index


def rope_coordinates(rope: Rope, grid: tuple[int, int], num_prefix: int) -> Float[np.ndarray, "T 2"]:
    """(row, column) of every token, prefix tokens first, for the two kinds of RoPE (`BlockTraits.rope`); float32.

    For `axial` prefix tokens stand at (0, 0), where nothing is turned. For `stored` they go once around the border of the
    patches, a quarter of them along each side.
    """
    if rope == "axial":
        places = [(np.arange(side, dtype=np.float32) + np.float32(0.5)) / np.float32(side) * 2 - 1 for side in grid]
        prefix = np.zeros((num_prefix, 2), np.float32)
    else:
        places = [np.linspace(0, 1, side, dtype=np.float32) for side in grid]
        run = np.arange(num_prefix // 4, dtype=np.float32) / np.float32(max(num_prefix // 4, 1))
        one, zero = np.ones_like(run), np.zeros_like(run)
        rows = np.concatenate([run, one, 1 - run, zero])
        columns = np.concatenate([zero, run, one, 1 - run])
        # The border is that of the patches: an axis with one patch has no extent.
        prefix = np.stack([rows * places[0].max(), columns * places[1].max()], axis=1)
    patches = np.stack(np.meshgrid(*places, indexing="ij"), axis=-1).reshape(-1, 2)
    return np.concatenate([prefix, patches])


def axial_periods(head_dim: int, base: float) -> Float[np.ndarray, " quarter"]:
    """Units of place in which a value of a head turns once: base ** (2 i / (head_dim / 2)), i < head_dim / 4; float32."""
    return (base ** (2 * np.arange(head_dim // 4) / (head_dim // 2))).astype(np.float32)


def axial_frequencies(periods: Float[Array, " quarter"]) -> Float[Array, "2 C"]:
    """Angle a unit of row and of column for each of a head's C values, four times the periods: rows in its first and third
    quarter, columns in the others.
    """
    frequency, zeros = 2 * jnp.pi / periods, jnp.zeros_like(periods)
    return jnp.stack([jnp.concatenate([frequency, zeros] * 2), jnp.concatenate([zeros, frequency] * 2)])


def gsd_positions(width: int, grid: tuple[int, int], gsd: Float[Array, " B"]) -> Float[Array, "B P {width}"]:
    """Scale-MAE's position embedding of patches: sines and cosines of column, then of row, times metres a pixel.

    The reference distance is 1 m a pixel (Reed et al., 2023, section 3). In float32 throughout, as the official code: at
    large distances a wider type would give other numbers than those the network was trained on.
    """
    quarter = width // 4
    frequency = np.float32(1) / np.float32(10000) ** (np.arange(quarter, dtype=np.float32) / np.float32(quarter))
    rows, columns = (axis.ravel().astype(np.float32) for axis in np.indices(grid))
    angles = [(place[None] * gsd[:, None])[..., None] * frequency[None, None] for place in (columns, rows)]
    return jnp.concatenate([wave(angle) for angle in angles for wave in (jnp.sin, jnp.cos)], axis=-1)
