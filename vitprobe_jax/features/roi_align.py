"""One feature vector for each box of an image: ROIAlign over the grid of its patches (Mask R-CNN, section 3)."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_BOXES_AT_ONCE = 256  # 2 x 2 samples of four patches each, D 768: 12 MiB


@functools.partial(jax.jit, static_argnames="sampling_ratio")
def roi_align(
    grid: Float[Array, "B h w D"], boxes: Float[Array, "R 4"], image: Int[Array, " R"], *, sampling_ratio: int = 2
) -> Float[Array, "R D"]:
    """The mean feature of each box, from evenly spread samples that are interpolated between patch centres.

    Equal to `torchvision.ops.roi_align` with `output_size=1`, `spatial_scale=1` and `aligned=True`. Its mean over n x n
    bins is the same as `sampling_ratio` times n here, so bins are not offered. As there, samples within one patch of the
    grid's outermost centres take the outermost features, those farther out count as 0: clip boxes to the image for a
    mean of what is in it.

    Every number of boxes is compiled anew; pad where it varies.

    Args:
        grid: patch features of some images, row-major; summed in float32.
        boxes: left, top, right, bottom in patches, pixels divided by the patch size: patch i covers i to i + 1.
        image: index of the image of each box, 0 to B - 1.
        sampling_ratio: samples along each side of a box.

    References:
        He et al., Mask R-CNN, ICCV 2017.
    """
    batch, height, width, features = grid.shape
    patches = jnp.arange(height * width, dtype=jnp.int32).reshape(height, width)
    tokens = grid.reshape(batch, height * width, features)
    return roi_align_patches(tokens, patches, boxes, image, sampling_ratio=sampling_ratio)


@functools.partial(jax.jit, static_argnames="sampling_ratio")
def roi_align_patches(
    tokens: Float[Array, "B P D"],
    patches: Int[Array, "h w"],
    boxes: Float[Array, "R 4"],
    image: Int[Array, " R"],
    *,
    sampling_ratio: int = 2,
) -> Float[Array, "R D"]:
    """`roi_align` over the grid `tokens[:, patches]`, which is not made: only what the boxes need of it is read.

    Args:
        tokens: patch features of some images, those of several tiles one after the other.
        patches: the token in each place of the grid, the same in all images.
        boxes: as there.
        image: as there.
        sampling_ratio: as there.
    """
    height, width = patches.shape
    steps = (jnp.arange(sampling_ratio) + 0.5) / sampling_ratio

    def mean_of_box(item):
        box, index = item
        left, top, right, bottom = box
        rows, row_weights = _taps(top + steps * (bottom - top), height)
        columns, column_weights = _taps(left + steps * (right - left), width)
        corners_YxXxD = tokens[index, patches[rows[:, None], columns[None, :]]].astype(jnp.float32)
        # Interpolation is separable, and so is what counts as 0: a weight for each axis, and no list of samples.
        return jnp.einsum("y,x,yxd->d", row_weights, column_weights, corners_YxXxD, precision=jax.lax.Precision.HIGHEST)

    return jax.lax.map(mean_of_box, (boxes.astype(jnp.float32), image), batch_size=_BOXES_AT_ONCE)


def _taps(
    place: Float[Array, " samples"], size: int
) -> tuple[Int[Array, " two_samples"], Float[Array, " two_samples"]]:
    """The patches on either side of each sample along an axis of `size` patches, and their shares in the mean."""
    place = place - 0.5  # From the first patch's centre on, which is where its feature stands.
    counts = (place >= -1) & (place <= size)
    place = jnp.clip(place, 0, size - 1)
    low = jnp.floor(place).astype(jnp.int32)
    share = place - low
    patches = jnp.concatenate([low, jnp.minimum(low + 1, size - 1)])
    weights = jnp.concatenate([1 - share, share]) * jnp.tile(counts, 2) / len(counts)
    return patches, weights
