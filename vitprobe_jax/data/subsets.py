"""Parts of a split to train on: a share of every class, or the images that a list names."""

from collections import defaultdict
from pathlib import Path

import numpy as np
from jaxtyping import Int

from vitprobe_jax.data.dataset import GroupedSplit, ImageSplit, ImageSubset
from vitprobe_jax.data.files import read_lines
from vitprobe_jax.data.image_labels import read_all
from vitprobe_jax.errors import InputError


def draw_share(split: ImageSplit, share: float, seed: int) -> ImageSubset:
    """A share of the images of every class, drawn by `seed`: at least one each, in the split's order.

    The draw of a larger share contains that of a smaller one. Classes are the groups of a `GroupedSplit`, else the labels of
    whole images. An image of several counts for the one that the fewest images show, so that a share of a multi-label set is
    still that share of it; images of no class are together one of their own.

    Args:
        split: which images.
        share: above 0, at most 1; of n images round(share * n) are drawn.
        seed: at least 0.

    Raises:
        InputError: the share is none, or the classes of an image cannot be read.
    """
    if not 0 < share <= 1:
        raise InputError(f"--train_share: {share:g} is no share of the training images; give above 0, at most 1")
    members = _members(split)
    drawn = [np.zeros(0, np.int64)]
    for i, images in enumerate(members):
        # A class's order hangs on the seed, its place and its images alone.
        order = np.random.default_rng([seed, i, len(images)]).permutation(len(images))
        drawn.append(images[order[: max(1, round(share * len(images)))]])
    return ImageSubset(split, np.sort(np.concatenate(drawn)))


def listed_subset(split: ImageSplit, path: str | Path) -> ImageSubset:
    """The images that a text file names, one a line, in the split's order.

    A line is the image's name, or as many of its last parts as tell it from others: SimCLR's lists of 1% and 10% of ImageNet
    have bare file names, `n01440764_10027.JPEG`, which stand for `train/n01440764/n01440764_10027.JPEG`. Blank lines are
    left out, and a name that stands there twice counts once.

    Raises:
        InputError: the file cannot be read or names nothing, or a name is that of no image, or of several.
    """
    path = Path(path).expanduser()
    listed = dict.fromkeys(line for line in (line.strip() for line in read_lines(path)) if line)
    if not listed:
        raise InputError(f"{path}: names no image; give a file with one name a line")
    names = read_all(split.name, len(split))
    exact, by_last = {name: index for index, name in enumerate(names)}, defaultdict(list)
    for index, name in enumerate(names):
        by_last[name.rpartition("/")[2]].append(index)
    chosen, unknown = set(), []
    for line in listed:
        last = line.rpartition("/")[2]
        found = [exact[line]] if line in exact else [i for i in by_last[last] if names[i].endswith(f"/{line}")]
        if len(found) > 1:
            raise InputError(
                f"{path}: {line} may be {names[found[0]]} or {names[found[1]]}; give as much of its path as tells them apart"
            )
        chosen.update(found)
        unknown += [] if found else [line]
    if unknown:
        raise InputError(
            f"{path}: names {len(unknown)} images that are not in the data set, the first is {unknown[0]}; "
            f"its own are called as {names[0] if names else 'nothing'}; correct the list, or complete the data set"
        )
    return ImageSubset(split, np.array(sorted(chosen), np.int64))


def _members(split: ImageSplit) -> list[Int[np.ndarray, " n"]]:
    """The images of each class, ascending, every image in one class; classes without images are left out."""

    def classes_of(index: int) -> tuple:
        return split.groups(index) if isinstance(split, GroupedSplit) else split.annotation(index).labels

    classes = read_all(classes_of, len(split))
    shown_by = defaultdict(int)
    for group in (group for groups in classes for group in groups):
        shown_by[group] += 1
    members = defaultdict(list)
    for index, groups in enumerate(classes):
        members[min(groups, key=lambda group: (shown_by[group], group), default=None)].append(index)
    return [np.array(images, np.int64) for images in members.values()]
