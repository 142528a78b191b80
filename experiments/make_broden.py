"""Your own photographs with masks as a data set: `python -m experiments.make_broden --input=DIR --output=DIR`.

`--input` is a tree of `images/`, `masks/` and `names.csv` (`vitprobe_jax.data.plain_tree` says what they hold); `--output`
becomes a folder in Broden's layout, which `--dataset=broden:DIR` reads. It appears whole or not at all.
"""

import functools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from absl import flags, logging

from experiments.progress import progress
from vitprobe_jax import cli
from vitprobe_jax.data.broden import open_broden
from vitprobe_jax.data.broden_writer import Placed, check_names, place_image, whole_folder, write_tables
from vitprobe_jax.data.plain_tree import PlainTree, draw_splits, read_mask, read_tree
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import SPLITS, Concept, Split

SHOWN = 3
"""Names of a kind that a warning gives; dots stand for the rest."""


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("input", None, "Folder with images/, masks/ and names.csv.", required=True, flag_values=values)
    flags.DEFINE_string("output", None, "Folder to write; must be new or empty.", required=True, flag_values=values)
    flags.DEFINE_float(
        "val_share",
        0.2,
        "Share of the images to hold out, above 0 and below 1; a split.csv in --input decides in its place.",
        flag_values=values,
    )
    flags.DEFINE_integer("seed", 0, "Which images are held out.", lower_bound=0, flag_values=values)
    flags.DEFINE_list("ignore", [], "Values of the masks that mean no label, beside 0: 255.", flag_values=values)
    flags.DEFINE_bool(
        "link", False, "Hard-link the photographs in place of copying them; same disk only.", flag_values=values
    )


def main(argv: Sequence[str]) -> None:
    """Converts the tree that the flags name, and says what it became."""
    if len(argv) > 1:
        raise InputError(f"{argv[1]!r}: not a flag; every argument is a --flag=value")
    values = flags.FLAGS
    if not 0 < values.val_share < 1:
        raise InputError(f"--val_share={values.val_share}: give a number above 0 and below 1, as 0.2")
    wrong = [text for text in values.ignore if not (text.isascii() and text.isdigit())]
    if wrong:
        raise InputError(f"--ignore: {wrong[0]!r} is no value of a mask; give whole numbers, as 255")
    output = Path(values.output)
    make_broden(
        read_tree(values.input),
        output,
        val_share=values.val_share,
        seed=values.seed,
        ignored=tuple(map(int, values.ignore)),
        link=values.link,
    )
    dataset = open_broden(output.expanduser(), "broden:made")
    sizes = " and ".join(f"{len(images)} {split}" for split, images in dataset.splits.items())
    print(f"wrote {output}: {sizes} images, {len(dataset.concepts)} concepts ({', '.join(dataset.categories)})")
    print(f"next: python -m experiments.sweep --flagfile=seg.flags --dataset=broden:{output} ...")


def make_broden(
    tree: PlainTree, output: Path, *, val_share: float, seed: int, ignored: tuple[int, ...] = (), link: bool = False
) -> None:
    """Writes a plain tree as a Broden folder, and warns of what a sweep could not probe.

    Args:
        tree: what is converted.
        output: the folder; must not exist, or be empty.
        val_share: share of the images that are held out where the tree has no split of its own.
        seed: of that draw.
        ignored: values of the masks that mean no label, beside 0.
        link: hard-links photographs in place of copying them.

    Raises:
        InputError: an image or mask is unfit, or the output cannot be written; nothing is left there then.
    """
    listed = [concept.number for concept in tree.concepts if concept.number in ignored]
    if listed:
        raise InputError(f"--ignore: {listed[0]} has a name in names.csv; take one of the two out")
    check_names(tree.images, tree.concepts)
    splits = tree.splits or draw_splits(tree.images, val_share=val_share, seed=seed)
    with whole_folder(output) as folder:
        # Nothing of `output` exists before this returns: the pool is closed within.
        placed = _place_all(tree, folder, ignored, link)
        shown = write_tables(folder, tree.concepts, placed, splits)
    _warn(shown, placed)


def _place_all(tree: PlainTree, folder: Path, ignored: tuple[int, ...], link: bool) -> list[Placed]:
    """All images and masks, on all cores: decoding and encoding leave Python's lock."""
    categories = {concept.number: concept.category for concept in tree.concepts}
    place = functools.partial(_place, tree, folder, categories, ignored, link)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            results = pool.map(place, tree.images)
            return list(progress(results, total=len(tree.images), label="converting", unit="image"))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # The first error ends it; what has begun would write on.
            raise


def _place(
    tree: PlainTree, folder: Path, categories: dict[int, str], ignored: tuple[int, ...], link: bool, image: str
) -> Placed:
    source, mask_source = tree.image_path(image), tree.mask_path(image)
    return place_image(folder, image, source, read_mask(mask_source, ignored), mask_source, categories, link=link)


def _warn(shown: dict[Concept, dict[Split, int]], placed: Sequence[Placed]) -> None:
    """One line a kind of trouble."""
    absent = [concept.name for concept, counts in shown.items() if not any(counts.values())]
    if absent:
        logging.warning("%d of the names are in no mask, and have nothing to probe: %s", len(absent), _first(absent))
    for split in SPLITS:
        only = [
            concept.name for concept, counts in shown.items() if counts[split] and sum(counts.values()) == counts[split]
        ]
        if only:
            logging.warning(
                "%d concepts are in %s images alone, and cannot be both fitted and tested: %s; another --seed, or a "
                "split.csv, may mend that",
                len(only),
                split,
                _first(only),
            )
    for category in dict.fromkeys(concept.category for concept in shown):
        members = [c.name for c, counts in shown.items() if c.category == category and any(counts.values())]
        if len(members) == 1:
            logging.warning(
                "%s has one concept alone, %s: pixels of value 0 take no part, so it has nothing to be told from; give what "
                "is not %s a number and a name too",
                category,
                members[0],
                members[0],
            )
    turned = [item.image for item in placed if item.turned]
    if turned:
        logging.warning(
            "%d images have an EXIF orientation, which is not applied: their masks must lie over the pixels as stored: %s",
            len(turned),
            _first(turned),
        )


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
