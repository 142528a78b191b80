"""Boxes around the contours of a map at many thresholds at once, from the map's component tree.

Regions of pixels above a threshold only grow as it falls; where two of them meet, at a saddle, they are one from there on.
So the map is divided once into basins, one a peak, along the steepest way up from every pixel, and the regions of a
threshold are the basins that saddles above it join. The map upside down gives the gaps between regions in the same way;
those without a way out below the threshold are holes. What is asked of a region, its box and area, is gathered over its
basins, which are few: the time hardly depends on the number of thresholds.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

_FINE = 12
"""Bits of a height below its level: among finer heights the steepest way up meets few ties."""
_LEVEL = 8
_INDEX = 31
"""Bits of a pixel's index, which decides between equal heights."""
_NOWHERE = 1 << 40


@dataclasses.dataclass(frozen=True)
class Contours:
    """All contours of a map at T cuts; boxes are (left, top, right, bottom) in pixels, right and bottom exclusive.

    Attributes:
        boxes: around the pixels of each region, and around the pixels that surround each hole.
        cut: index of the cut that each box is of.
        largest: box of the region of the largest area at each cut; zeros without a region.
    """

    boxes: Int[np.ndarray, "n 4"]
    cut: Int[np.ndarray, " n"]
    largest: Int[np.ndarray, "T 4"]


@dataclasses.dataclass(frozen=True)
class _Basins:
    """Pixels in groups, from each of which a way that never falls leads to the group's peak.

    Attributes:
        of: each pixel's basin, 0 to B - 1.
        joined: at each cut the number of one basin of each component, for all of its basins.
    """

    of: Int[np.ndarray, "h w"]
    joined: Int[np.ndarray, "T B"]

    @classmethod
    def make(
        cls, of: Int[np.ndarray, "h w"], rank: Int[np.ndarray, "h w"], count: int, num_cuts: int, *, corners: bool
    ) -> "_Basins":
        """Joins the basins `of` where they touch, along sides and perhaps at corners, above a cut."""
        return cls(of, _cut_tree(*_saddles(of, rank, count, corners), count, num_cuts))

    @property
    def count(self) -> int:
        """B."""
        return self.joined.shape[1]


@dataclasses.dataclass(frozen=True)
class _Extents:
    """Where the pixels above each cut lie, of each basin or component; far outside the map where there are none.

    Attributes:
        left: lowest column.
        first: lowest index in the flat map.
        right: highest column.
        last: highest index in the flat map.
    """

    left: Int[np.ndarray, "T B"]
    first: Int[np.ndarray, "T B"]
    right: Int[np.ndarray, "T B"]
    last: Int[np.ndarray, "T B"]

    def together(self, key: Int[np.ndarray, "T B"], number: int) -> "_Extents":
        """Extents of components; `key` is the component of each basin, 0 to `number` - 1."""
        place = _places(key, number)
        tables = []
        for name, where, nothing in (
            ("left", np.minimum, _NOWHERE),
            ("first", np.minimum, _NOWHERE),
            ("right", np.maximum, -1),
            ("last", np.maximum, -1),
        ):
            table = np.full(len(key) * number, nothing)
            where.at(table, place, getattr(self, name).ravel())
            tables.append(table.reshape(-1, number))
        return _Extents(*tables)

    def boxes(self, width: int) -> tuple[Int[np.ndarray, "n 4"], Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """The box of each that is there, its cut and its number."""
        cut, number = np.nonzero(self.last >= 0)
        left, first, right, last = (table[cut, number] for table in (self.left, self.first, self.right, self.last))
        return np.stack([left, first // width, right + 1, last // width + 1], axis=1), cut, number


def find_contours(score: Float[np.ndarray, "h w"], cuts: Int[np.ndarray, " T"]) -> Contours:
    """The contours of the pixels whose level is above each cut.

    Pixels of a region touch along sides or at corners, those of a hole along sides. The area of a region is that of the
    polygon through the centres of its outermost pixels, what lies in its holes included; of equal ones the last in reading
    order of first pixels counts as the largest.

    Args:
        score: 0 to 1; levels are 255 times the score, rounded down.
        cuts: levels from 0 to 255, ascending, no two equal.
    """
    scaled, width = score * 255, score.shape[1]
    # So many cuts are below a pixel's level.
    rank = np.searchsorted(cuts, np.arange(256)).astype(np.int32).take(scaled.astype(np.uint8))
    height = (scaled * (1 << _FINE)).astype(np.int64)
    regions, peaks = _divide(height, rank, len(cuts), corners=True)
    extents = _extents(regions, rank, np.arange(rank.size), len(cuts))
    boxes, cut, _ = extents.together(regions.joined, regions.count).boxes(width)
    holes, of_holes, filled, lakes = _holes(height, rank, len(cuts))
    outlines = _with_lakes(regions, lakes, filled, len(cuts)) if len(holes) else regions
    # A region belongs to the outline that its peak lies within.
    whole = extents.together(outlines.joined[:, outlines.of.ravel()[peaks]], outlines.count)
    largest = _largest(whole, _areas(outlines, filled, len(cuts)), width)
    return Contours(np.concatenate([boxes, holes]), np.concatenate([cut, of_holes]), largest)


def _divide(
    height: Int[np.ndarray, "h w"], rank: Int[np.ndarray, "h w"], num_cuts: int, *, corners: bool
) -> tuple[_Basins, Int[np.ndarray, " B"]]:
    """The basins along the steepest ways up, and the pixel of each one's peak; `rank` never falls where `height` rises."""
    size = height.shape
    # Each pixel points at the highest of its neighbours and itself, of equally high ones at the last.
    key = np.full((size[0] + 2, size[1] + 2), -1)
    key[1:-1, 1:-1] = height << _INDEX | np.arange(height.size).reshape(size)
    upward = (_window_maximum(key, corners) & ((1 << _INDEX) - 1)).ravel()
    while not np.array_equal(further := upward.take(upward), upward):
        upward = further
    peaks = np.flatnonzero(upward == np.arange(len(upward)))
    number = np.zeros(len(upward), np.int32)
    number[peaks] = np.arange(len(peaks))
    return _Basins.make(number.take(upward).reshape(size), rank, len(peaks), num_cuts, corners=corners), peaks


def _with_lakes(
    regions: _Basins, lakes: Int[np.ndarray, "h w"], filled: Int[np.ndarray, "h w"], num_cuts: int
) -> _Basins:
    """Basins of the map with its holes filled: every lake is one, flat, and the dry parts of the regions' are the others.

    A steepest way up of the unfilled map does not lead down in the filled one, though it may end in a lake.
    """
    of = np.where(lakes >= 0, regions.count + lakes, regions.of)
    used = np.bincount(of.ravel()) > 0
    number = (np.cumsum(used) - 1).astype(np.int32)
    return _Basins.make(number[of], filled, int(used.sum()), num_cuts, corners=True)


def _window_maximum(key: Int[np.ndarray, "h2 w2"], corners: bool) -> Int[np.ndarray, "h w"]:
    """Over each pixel of a framed map and its neighbours."""
    rows = np.maximum(np.maximum(key[:, :-2], key[:, 2:]), key[:, 1:-1])
    above_below = rows if corners else key[:, 1:-1]
    return np.maximum(np.maximum(above_below[:-2], above_below[2:]), rows[1:-1])


def _saddles(
    of: Int[np.ndarray, "h w"], rank: Int[np.ndarray, "h w"], count: int, corners: bool
) -> tuple[Int[np.ndarray, " S"], Int[np.ndarray, " S"], Int[np.ndarray, " S"]]:
    """The ranks at which two basins touch, the highest first, and the two basins."""
    width = of.shape[1] + 1
    of, rank = (np.pad(table, ((0, 1), (0, 1)), constant_values=-1) for table in (of, rank))
    # The upper left pixels of squares of four that are not all of one basin.
    lower, upper = np.minimum(of[:-1], of[1:]), np.maximum(of[:-1], of[1:])
    mixed = np.zeros(of.shape, bool)
    np.not_equal(np.minimum(lower[:, :-1], lower[:, 1:]), np.maximum(upper[:, :-1], upper[:, 1:]), out=mixed[:-1, :-1])
    place, of, rank = np.flatnonzero(mixed), of.ravel(), rank.ravel()
    four = place, place + 1, place + width, place + width + 1
    basin = [of[corner] for corner in four]
    keys = []
    for one, other in ((0, 1), (0, 2), (0, 3), (1, 2)) if corners else ((0, 1), (0, 2)):
        low, high = np.minimum(basin[one], basin[other]), np.maximum(basin[one], basin[other])
        there = np.flatnonzero((low >= 0) & (low < high))
        level = np.minimum(rank[four[one][there]], rank[four[other][there]])
        keys.append((low[there].astype(np.int64) * count + high[there]) << _LEVEL + 1 | level)
    key = np.sort(np.concatenate(keys))
    key = key[np.append(key[1:] >> _LEVEL + 1 != key[:-1] >> _LEVEL + 1, np.ones(min(len(key), 1), bool))]
    pair, level = key >> _LEVEL + 1, key & (2 << _LEVEL) - 1
    order = np.argsort(-level, kind="stable")
    return (level[order], *np.divmod(pair[order], count))


def _cut_tree(level, first, second, count: int, num_cuts: int) -> Int[np.ndarray, "T B"]:
    """At each cut one basin of each component, for all of its basins: a spanning tree of the highest saddles, cut."""
    parent, joins_at, top = list(range(count)), [0] * count, list(range(count))
    for rank, a, b in zip(level.tolist(), first.tolist(), second.tolist(), strict=True):
        while top[a] != a:
            top[a] = a = top[top[a]]
        while top[b] != b:
            top[b] = b = top[top[b]]
        if a != b:
            parent[b] = top[b] = a
            joins_at[b] = rank
    # Ranks fall on the way to the root, so it ends at the component's own root.
    joined = np.where(np.array(joins_at) > np.arange(num_cuts)[:, None], np.array(parent), np.arange(count))
    while not np.array_equal(further := np.take_along_axis(joined, joined, axis=1), joined):
        joined = further
    return joined


def _extents(basins: _Basins, rank: Int[np.ndarray, "h w"], pixels: Int[np.ndarray, " n"], num_cuts: int) -> _Extents:
    """Extents of some pixels, given by their indices, that are above each cut, by basin."""
    place = basins.of.ravel()[pixels].astype(np.int64) * (num_cuts + 1) + rank.ravel()[pixels]
    column = pixels % rank.shape[1]
    tables = []
    for where, value, nothing in (
        (np.minimum, column, _NOWHERE),
        (np.minimum, pixels, _NOWHERE),
        (np.maximum, column, -1),
        (np.maximum, pixels, -1),
    ):
        table = np.full(basins.count * (num_cuts + 1), nothing)
        where.at(table, place, value)
        by_rank = table.reshape(-1, num_cuts + 1)
        tables.append(where.accumulate(by_rank[:, :0:-1], axis=1)[:, ::-1].T)
    return _Extents(*tables)


def _holes(
    height: Int[np.ndarray, "h w"], rank: Int[np.ndarray, "h w"], num_cuts: int
) -> tuple[Int[np.ndarray, "n 4"], Int[np.ndarray, " n"], Int[np.ndarray, "h w"], Int[np.ndarray, "h w"]]:
    """Boxes around what surrounds each hole, and their cuts; ranks with all holes filled, and the lake of each pixel.

    A lake is a number for pixels of a basin of a hole that filling raises; -1 for others.
    """
    # Upside down, in a frame that is lower than all: a pixel is not above a cut where its depth is above T - 1 - cut.
    depth, depth_rank = (
        np.pad(top - table, 1, constant_values=top + more)
        for table, top, more in ((height, height.max(), 1), (rank, np.int32(num_cuts), 0))
    )
    gaps, pits = _divide(depth, depth_rank, num_cuts, corners=False)
    joined = gaps.joined[::-1]
    closed = joined != joined[:, gaps.of[:1, 0]]
    closed &= depth_rank.ravel()[pits] >= num_cuts - np.arange(num_cuts)[:, None]
    # The last cut at which a basin is closed in.
    level = np.pad((closed * np.arange(1, num_cuts + 1, dtype=np.int32)[:, None]).max(axis=0)[gaps.of[1:-1, 1:-1]], 1)
    lakes = level > num_cuts - depth_rank
    turned = _extents(gaps, depth_rank, np.flatnonzero(lakes), num_cuts)
    extents = _Extents(*(getattr(turned, field.name)[::-1] for field in dataclasses.fields(turned)))
    boxes, cut, number = extents.together(joined, gaps.count).boxes(depth.shape[1])
    inner = closed[cut, number]
    return (
        boxes[inner] + np.array([-2, -2, 0, 0]),
        cut[inner],
        np.maximum(rank, level[1:-1, 1:-1]),
        np.where(lakes, gaps.of, -1)[1:-1, 1:-1],
    )


def _areas(outlines: _Basins, filled: Int[np.ndarray, "h w"], num_cuts: int) -> Float[np.ndarray, "T B"]:
    """Area within each outline, at the place of its component, of the polygon through the centres of its pixels.

    It covers each square of four pixels of the outline wholly, and half of each with three; all others not at all.
    """
    filled = filled.astype(np.int16)
    one, other, right, left = filled[:-1, :-1], filled[1:, 1:], filled[:-1, 1:], filled[1:, :-1]
    low, high = np.minimum(one, other), np.maximum(one, other)
    across_low, across_high = np.minimum(left, right), np.maximum(left, right)
    # Above these cuts a square has less than four pixels, less than three.
    four = np.minimum(low, across_low)
    three = np.minimum(np.maximum(low, across_low), np.minimum(high, across_high))
    # Of three pixels at least one lies on the diagonal; the higher one of these is of the outline.
    own = np.where(one > other, outlines.of[:-1, :-1], outlines.of[1:, 1:]).astype(np.int64) * (num_cuts + 1)
    places = np.stack([own + four, own + three]).ravel()
    count = outlines.count
    halves = np.bincount(places, minlength=count * (num_cuts + 1)).reshape(count, -1)
    of_basins = np.cumsum(halves[:, :0:-1], axis=1)[:, ::-1].T
    areas = np.bincount(_places(outlines.joined, count), of_basins.ravel() / 2, minlength=of_basins.size)
    return areas.reshape(num_cuts, count)


def _largest(whole: _Extents, areas: Float[np.ndarray, "T B"], width: int) -> Int[np.ndarray, "T 4"]:
    """At each cut the box of the outline of the largest area, of equal ones of the one whose first pixel comes last."""
    boxes, cut, number = whole.boxes(width)
    order = np.lexsort((whole.first[cut, number], areas[cut, number], cut))
    largest = np.zeros((len(areas), 4), int)
    # Of several values for one place the last one stays.
    largest[cut[order]] = boxes[order]
    return largest


def _places(key: Int[np.ndarray, "T B"], number: int) -> Int[np.ndarray, " TB"]:
    """Where the entries of a table [T, B] go in a flat one of [T, number]."""
    return (np.arange(len(key))[:, None] * number + key).ravel()
