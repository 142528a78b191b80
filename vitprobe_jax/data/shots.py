"""Few-shot draws: so many images of every city, every class."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Int

from vitprobe_jax.data.dataset import GroupedSplit, ImageSplit
from vitprobe_jax.errors import InputError

EVERYTHING = "all"
"""The one group of a split that has none."""

_AHEAD = 64
"""Images whose groups are read at a time. The last of them may be for nothing, once every group is full."""


@dataclasses.dataclass(frozen=True)
class Draw:
    """Images of a split, so many of each group, for several sizes of the draw at once.

    Attributes:
        images: indices into the split of the largest draw, ascending.
        rank: place of each image among those of its group, from 0: the draw of c images a group is `images[rank < c]`.
            Where all images were asked for beside so many of each group, those of no group rank behind all draws.
        lacking: groups with fewer images than the largest number asked for, and how many they have.
    """

    images: Int[np.ndarray, " n"]
    rank: Int[np.ndarray, " n"]
    lacking: dict[str, int]


def draw_shots(split: ImageSplit, counts: Sequence[int], seed: int, *, in_turn: bool = False) -> Draw:
    """Draws images by `seed` until every group of the split has enough; a split without groups is a group of its own.

    Images come in a random order. One that shows several groups counts for one alone, that which has the fewest images so
    far; of equals, that which was seen the least, as it will be hardest to fill; then the last, since classes are mostly
    listed by frequency. Still a group may lack images that went to another one. Whether an image is the r-th of a group
    never hangs on the images after it nor on `counts`: a draw of 2 images a group is the same, and part of the draw of 8,
    whatever else is asked for.

    With `in_turn`, groups are filled one after another, in their own order, each by the first images of the random order
    that show it and that no group before it took (appendix A.4 of study 2's paper). All groups are read. A draw of 2 images
    a group is then the first 2 of each group of the largest draw, so it depends on the largest count.

    Groups are read as far as needed, in threads: rare classes want most of a data set to be read.

    Args:
        split: which images.
        counts: images a group, of every draw; 0 is for all images of the split.
        seed: of the order.
        in_turn: fill one group after another.

    Raises:
        InputError: a count is negative or there is none, or the groups of an image cannot be read.
    """
    if not counts or min(counts) < 0:
        raise InputError(
            f"--images_per_group, --val_images_per_group: {list(counts)} is no number of images; give 1 or more, or 0 for "
            "all"
        )
    if set(counts) == {0}:
        return Draw(np.arange(len(split)), np.zeros(len(split), np.int64), {})
    wanted = max(counts)
    names = split.group_names if isinstance(split, GroupedSplit) else (EVERYTHING,)
    read = _read_groups(split, np.random.default_rng([seed, len(split)]).permutation(len(split)))
    if in_turn:
        rank, filled = _fill_in_turn(read, names, wanted)
    else:
        rank, filled = _fill_together(read, names, len(split) if 0 in counts else wanted)
    if 0 in counts:
        rank = dict.fromkeys(range(len(split)), max(len(split), wanted)) | rank
    images = sorted(rank)
    return Draw(
        images=np.array(images, np.int64),
        rank=np.array([rank[index] for index in images], np.int64),
        lacking={name: filled[name] for name in names if filled[name] < wanted},
    )


_Read = Iterable[tuple[int, tuple[str, ...]]]
"""Images with their groups, in the order of the draw."""


def _fill_together(read: _Read, names: Sequence[str], limit: int) -> tuple[dict[int, int], dict[str, int]]:
    """The rank of each drawn image, and how many each group has; every image goes to the group that needs it most."""
    place = {name: i for i, name in enumerate(names)}
    filled, seen = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    rank = {}
    for index, groups in read:
        for name in groups:
            seen[name] += 1
        group = min(groups, key=lambda name: (filled[name], seen[name], -place[name]), default=None)
        if group is not None and filled[group] < limit:
            rank[index] = filled[group]
            filled[group] += 1
            if min(filled.values()) == limit:
                break
    return rank, filled


def _fill_in_turn(read: _Read, names: Sequence[str], limit: int) -> tuple[dict[int, int], dict[str, int]]:
    """The same, but each group in turn takes what it needs from what those before it left."""
    members: dict[str, list[int]] = {name: [] for name in names}
    for index, groups in read:
        for name in groups:
            members[name].append(index)
    rank, filled = {}, {}
    for name in names:
        taken = [index for index in members[name] if index not in rank][:limit]
        rank |= {index: place for place, index in enumerate(taken)}
        filled[name] = len(taken)
    return rank, filled


def _read_groups(split: ImageSplit, order: Int[np.ndarray, " n"]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Images in the given order with their groups, read ahead."""
    indices = order.tolist()
    if not isinstance(split, GroupedSplit):
        yield from ((index, (EVERYTHING,)) for index in indices)
        return
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(indices), _AHEAD):
            ahead = indices[start : start + _AHEAD]
            yield from zip(ahead, pool.map(split.groups, ahead), strict=True)
