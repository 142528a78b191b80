import numpy as np
import pytest
from PIL import Image

from tests.data.test_corruptions import Photographs
from vitprobe_jax.data.corruptions import Corruption, corrupt
from vitprobe_jax.data.dataset import Annotation, Box
from vitprobe_jax.data.transformations import (
    RETRIEVALS,
    Transformation,
    TransformedSplit,
    patches_before,
    transform_image,
)
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.errors import InputError

SIZE, PATCH = (96, 128), 16
GRID = (SIZE[0] // PATCH, SIZE[1] // PATCH)
ALL = [Transformation(kind, level) for kind, levels in RETRIEVALS.items() for level in levels]
MOVES = [t for t in ALL if t.kind in ("shift", "rotation", "scale")]
# Stronger than the study's, and the other way round.
STRONG = [
    Transformation("shift", -20.0),
    Transformation("shift", 5.5),
    Transformation("rotation", -35.0),
    Transformation("rotation", 90.0),
    Transformation("scale", 0.4),
    Transformation("scale", 2.3),
]


def photograph():
    return Photographs(size=SIZE).image(0)


def palette():
    """One colour a patch, all of them bright in red, so that none is near black."""
    row, column = np.indices(GRID)
    return np.stack([np.full(GRID, 255), 36 * row + 30, 30 * column + 20], -1).reshape(-1, 3)


def name(transformation):
    return transformation.name


@pytest.mark.parametrize("transformation", [Transformation("identity"), *MOVES, *STRONG], ids=name)
def test_the_centre_of_a_patch_shows_the_colour_of_the_patch_it_comes_from(transformation):
    colours = palette()
    patches = np.repeat(np.repeat(colours.reshape(*GRID, 3), PATCH, 0), PATCH, 1).astype(np.uint8)
    shown = np.asarray(transform_image(Image.fromarray(patches), transformation, seed=(0,))).astype(int)
    sources = patches_before(transformation, SIZE, PATCH)
    # A centre is the corner of four pixels; where these differ it lies near a border, and tells nothing.
    offsets = PATCH // 2 - 1, PATCH // 2 + 1
    cells = shown.reshape(GRID[0], PATCH, GRID[1], PATCH, 3).swapaxes(1, 2).reshape(-1, PATCH, PATCH, 3)
    centres = cells[:, slice(*offsets), slice(*offsets)].reshape(-1, 4, 3)
    clear = np.ptp(centres, axis=1).max(-1) == 0
    assert clear.mean() > 0.3
    assert (clear & (sources >= 0)).sum() >= 4
    expected = np.where(sources[:, None] < 0, 0, colours[sources])
    np.testing.assert_array_equal(centres[clear, 0], expected[clear])


@pytest.mark.parametrize("kind", ["identity", "blur", "noise"])
def test_what_moves_nothing_leaves_every_patch_where_it_is(kind):
    np.testing.assert_array_equal(patches_before(Transformation(kind, 10.0), SIZE, PATCH), np.arange(48))


def test_a_shift_of_one_patch_shows_the_diagonal_neighbour():
    numbers = np.arange(48).reshape(GRID)
    before = patches_before(Transformation("shift", 16.0), SIZE, PATCH).reshape(GRID)
    np.testing.assert_array_equal(before[1:, 1:], numbers[:-1, :-1])
    assert (before[0] == -1).all()
    assert (before[:, 0] == -1).all()


def test_by_hand():
    """Rotated by half: the last patch comes first. By a quarter, anticlockwise: the right column becomes the top row."""
    np.testing.assert_array_equal(patches_before(Transformation("rotation", 180.0), SIZE, PATCH), np.arange(48)[::-1])
    square = patches_before(Transformation("rotation", 90.0), (48, 48), PATCH).reshape(3, 3)
    np.testing.assert_array_equal(square[0], [2, 5, 8])
    # A shift by half a patch takes centres onto borders: they count for the later patch, or for the outside.
    np.testing.assert_array_equal(patches_before(Transformation("shift", 8.0), (32, 32), PATCH), [0, 1, 2, 3])
    np.testing.assert_array_equal(patches_before(Transformation("shift", -8.0), (32, 32), PATCH), [3, -1, -1, -1])


@pytest.mark.parametrize(
    ("transformation", "inside", "of_seen"),
    [
        (Transformation("scale", 1.1), 196, 196),
        (Transformation("scale", 1.2), 196, 196),
        (Transformation("scale", 0.9), 12**2, 196),
        (Transformation("scale", 0.8), 12**2, 12**2),
        (Transformation("rotation", 5.0), 192, 196),
        (Transformation("rotation", 15.0), 180, 188),
        (Transformation("rotation", 20.0), 172, 184),
        (Transformation("shift", 4.0), 196, 196),
    ],
    ids=lambda value: value.name if isinstance(value, Transformation) else "",
)
def test_patches_of_a_tile_of_the_paper_with_a_counterpart(transformation, inside, of_seen):
    """On 14 x 14 patches of 224 pixels; `of_seen` of them show some of the tile."""
    before = patches_before(transformation, (224, 224), 16)
    assert np.sum(before >= 0) == inside
    split = TransformedSplit(Photographs(), transformation, (224, 224), 0)
    assert np.sum(~split.outside.reshape(14, 16, 14, 16).all((1, 3))) == of_seen
    # The same by the definition: the centre of each patch, taken back about the centre of the tile.
    count = 0
    for row, column in np.ndindex(14, 14):
        x, y = 16 * (column + 0.5) - 112, 16 * (row + 0.5) - 112
        if transformation.kind == "scale":
            x, y = x / transformation.level, y / transformation.level
        if transformation.kind == "rotation":
            turn = np.exp(1j * np.radians(transformation.level)) * complex(x, y)
            x, y = turn.real, turn.imag
        if transformation.kind == "shift":
            x, y = x - transformation.level, y - transformation.level
        count += -112 <= x < 112 and -112 <= y < 112
    assert count == inside


def test_rotation_is_pillows():
    image = photograph()
    for level in (5.0, -20.0):
        ours = np.asarray(transform_image(image, Transformation("rotation", level), seed=(0,))).astype(int)
        pillows = np.asarray(image.rotate(level, Image.Resampling.BICUBIC)).astype(int)
        # Pillow rounds its matrix to 15 digits.
        assert (np.abs(ours - pillows) > 1).mean() < 1e-4


def test_shift_by_whole_pixels_keeps_every_value():
    image = np.asarray(photograph())
    for level in RETRIEVALS["shift"]:
        shifted = np.asarray(transform_image(Image.fromarray(image), Transformation("shift", level), seed=(0,)))
        k = int(level)
        np.testing.assert_array_equal(shifted[k:, k:], image[:-k, :-k])
        assert not shifted[:k].any()
        assert not shifted[:, :k].any()


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("level", RETRIEVALS["scale"])
def test_scale_is_about_the_centre(level, interpolation):
    """A slope is interpolated without error: what a pixel shows tells which place it comes from."""
    ramp = np.broadcast_to(np.arange(128)[None, :, None] + 64, (96, 128, 3)).astype(np.uint8)
    scaled = transform_image(
        Image.fromarray(ramp), Transformation("scale", level), seed=(0,), interpolation=interpolation
    )
    place = 64 + (np.arange(128) + 0.5 - 64) / level  # in the original, where pixel i has its centre at i + 1/2
    inner = (place > 2) & (place < 126)
    shown = np.asarray(scaled)[48, :, 0].astype(float)
    assert np.abs(shown - (place - 0.5 + 64))[inner].max() <= 1


def test_identity_blur_and_noise():
    image = photograph()
    pixels = np.asarray(image)
    np.testing.assert_array_equal(transform_image(image, Transformation("identity"), seed=(0,)), pixels)
    for kind in ("blur", "noise"):
        transformed = transform_image(image, Transformation(kind, 10.0), seed=(1, 2))
        np.testing.assert_array_equal(transformed, corrupt(pixels, Corruption(kind, 10.0), seed=(1, 2)))


def test_a_split_is_resized_first_and_depends_on_seed_and_index_alone():
    parent = Photographs(size=(50, 90))
    plain = TransformedSplit(parent, Transformation("identity"), SIZE, 3, "bilinear")
    resized = Transform(SIZE, "none", interpolation="bilinear").image(parent.image(1))
    np.testing.assert_array_equal(plain.image(1), resized)
    shifted = TransformedSplit(parent, Transformation("shift", 2.0), SIZE, 3, "bilinear")
    np.testing.assert_array_equal(np.asarray(shifted.image(1))[2:, 2:], resized[:-2, :-2])
    noise = Transformation("noise", 20.0)
    first, again, reseeded = (np.asarray(TransformedSplit(parent, noise, SIZE, seed).image(1)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != reseeded).any()
    assert len(plain) == 3
    assert plain.name(1) == "photo1.png"
    assert plain.annotation(1) == parent.annotation(1)


class Annotated(Photographs):
    """Photographs with a mask of half their size, another label in each of its pixels, and a label of the whole image."""

    def annotation(self, index):
        labels = 1 + np.arange(24 * 32, dtype=np.int32).reshape(24, 32)
        return Annotation((("object", labels),), (("scene", 5),), (48, 64), (Box(1, 1, 0.0, 0.0, 9.0, 9.0),))


@pytest.mark.parametrize("transformation", [*MOVES, *STRONG], ids=name)
def test_masks_move_with_their_images(transformation):
    parent = Annotated(size=(48, 64))
    annotation = TransformedSplit(parent, transformation, SIZE, 3).annotation(0)
    ((category, mask),) = annotation.masks
    assert (category, mask.shape, mask.dtype) == ("object", SIZE, np.int32)
    assert (annotation.labels, annotation.image_size, annotation.boxes) == ((("scene", 5),), None, ())
    whole = np.kron(parent.annotation(0).masks[0][1], np.ones((4, 4), np.int32))  # at the size of the images
    # Pillow's nearest pixel; it computes in fixed point, so centres near a border may fall to the other side of it.
    backward = np.linalg.inv(np.vstack([transformation.affine(SIZE), [0, 0, 1]]))[:2]
    pillows = Image.fromarray(whole).transform(SIZE[::-1], Image.Transform.AFFINE, backward.ravel().tolist())
    assert np.mean(mask != np.asarray(pillows)) < 2e-3
    y, x = 40, 70
    column, row = np.floor(np.round(backward @ [x + 0.5, y + 0.5, 1], 9)).astype(int)
    inside = 0 <= row < SIZE[0] and 0 <= column < SIZE[1]
    assert mask[y, x] == (whole[row, column] if inside else 0)


@pytest.mark.parametrize("kind", ["identity", "blur", "noise"])
def test_blur_and_noise_leave_annotations_as_they_are(kind):
    parent = Annotated(size=(48, 64))
    annotation = TransformedSplit(parent, Transformation(kind, 10.0), SIZE, 3).annotation(0)
    np.testing.assert_array_equal(annotation.masks[0][1], parent.annotation(0).masks[0][1])
    assert annotation.boxes == parent.annotation(0).boxes


def test_pixels_shifted_off_the_image_carry_no_label():
    ((_, mask),) = TransformedSplit(Annotated(size=(48, 64)), Transformation("shift", 3.0), SIZE, 3).annotation(0).masks
    assert not mask[:3].any()
    assert not mask[:, :3].any()
    assert mask[3:, 3:].all()


@pytest.mark.parametrize(
    ("kind", "level"),
    [("scale", 0.0), ("blur", -1.0), ("blur", 2.5), ("noise", 0.0), ("rotation", np.nan)],
)
def test_levels_that_mean_nothing_are_refused(kind, level):
    with pytest.raises(InputError, match=kind):
        Transformation(kind, level)


def test_sizes_that_are_not_made_of_patches_are_refused():
    with pytest.raises(InputError, match="--image_size: 96 x 100"):
        patches_before(Transformation("identity"), (96, 100), 16)
