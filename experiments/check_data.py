"""What of a data set is on this disk, and what is missing: `python -m experiments.check_data KIND:DIR`.

KIND is `broden`, `imagefolder` or `imagenet200`. Prints tables of what is there; ends with exit code 0 where the data set
is whole, else with 2 and one line on stderr that says what is missing.
"""

import functools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from absl import flags

from experiments.progress import progress
from vitprobe_jax import cli
from vitprobe_jax.data import open_dataset
from vitprobe_jax.data.broden import CATEGORIES, BrodenTables, file_sizes, read_tables
from vitprobe_jax.data.dataset import Dataset
from vitprobe_jax.data.files import existing_folder
from vitprobe_jax.data.imagenet200 import ARCHIVE
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import SPLITS

BRODEN_PLACES = """\
Where Broden comes from:
  https://github.com/CSAILVision/NetDissect, whose script/dlbroden.sh fetches
    http://netdissect.csail.mit.edu/data/broden1_224.zip, broden1_227.zip and broden1_384.zip beside it
The host is often down. Then
  - ask a colleague or your institute for a copy: unzipped, it is the folder with index.csv;
  - look the address of the zip up in the Internet Archive's Wayback Machine, https://web.archive.org;
  - build it from its sources (ADE20K, PASCAL VOC 2010 with Part and Context, DTD, OpenSurfaces) by NetDissect's
    script/makebroden.sh, which fetches them and runs src/joinseg.py.
Broden 1.0 lists 63,305 images. Missing files can be taken from any other copy of the same image size."""

IMAGENET_PLACES = f"""\
Where ImageNet comes from:
  https://image-net.org, after registration: the training images of ILSVRC 2012, {ARCHIVE} (138 GB).
It is read as it is, or unpacked to one tar or one folder a class."""

IMAGEFOLDER_PLACES = "An image folder is your own: train/CLASS/*.jpg and val/CLASS/*.jpg."

SHOWN = 3
"""Files or classes of a kind that are named; dots stand for the rest."""


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this command."""
    flags.DEFINE_bool(
        "decode", False, "Also decode every image and mask, which takes minutes for Broden.", flag_values=values
    )
    flags.DEFINE_integer("seed", 0, "Of the images that imagenet200 draws.", lower_bound=0, flag_values=values)


def main(argv: Sequence[str]) -> None:
    """Prints what is there of the data set that is the only argument.

    Raises:
        InputError: it is not whole; says what is missing.
    """
    kind, _, folder = argv[1].partition(":") if len(argv) == 2 else ("", "", "")
    if kind not in PLACES or not folder:
        usage = ", ".join(f"{known}:DIR" for known in PLACES)
        raise InputError(f"one data set is needed, of {usage}: python -m experiments.check_data broden:DIR")
    print(f"{kind}:{folder}\n")
    try:
        if kind == "broden":
            defects = check_broden(Path(folder).expanduser(), decode=flags.FLAGS.decode)
        else:
            defects = check_classes(open_dataset(argv[1], seed=flags.FLAGS.seed), decode=flags.FLAGS.decode)
    except InputError as error:
        defects = [str(error)]
    print("Not whole:" if defects else "Whole: nothing that is needed is missing.")
    print("".join(f"  {defect}\n" for defect in defects))
    print(PLACES[kind])
    if defects:
        raise InputError(defects[0] + (f"; {len(defects) - 1} more above" if len(defects) > 1 else ""))


def check_broden(folder: Path, *, decode: bool) -> list[str]:
    """Prints the tables, splits and categories of a Broden folder.

    Args:
        folder: with index.csv, label.csv and images/.
        decode: also decode every file that is there, and check it against both tables.

    Returns:
        A line for each kind of defect.

    Raises:
        InputError: index.csv or label.csv is missing or malformed; what files there are is printed by then.
    """
    existing_folder(folder)
    uses = dict.fromkeys(("index.csv", "label.csv"), "yes") | dict.fromkeys(
        ("category.csv", *(f"c_{category}.csv" for category in CATEGORIES)), "no"
    )
    there = {name: "yes" if (folder / name).is_file() else "no" for name in uses}
    _print_table(["table", "there", "needed"], [[name, there[name], use] for name, use in uses.items()])
    tables = read_tables(folder)
    sizes = file_sizes(tables)

    def counts(names: list[str]) -> list[int]:
        return [len(names), sum(sizes[name] is None for name in names)]

    splits, categories = [], []
    for split in SPLITS:
        rows = tables.rows[split]
        masks = [name for row in rows for _, name in row.masks]
        splits.append([split, *counts([row.image for row in rows]), *counts(masks)])
    for category, concepts in Counter(concept.category for concept in tables.concepts).items():
        cells = []
        for split in SPLITS:
            rows = tables.rows[split]
            annotated = sum(any(entry[0] == category for entry in row.masks + row.labels) for row in rows)
            cells += [annotated, *counts([name for row in rows for owner, name in row.masks if owner == category])]
        categories.append([category, concepts, *cells])
    _print_table(["split", "images", "missing", "masks", "missing"], splits)
    per_split = [title for split in SPLITS for title in (f"{split} images", "masks", "missing")]
    _print_table(["category", "concepts", *per_split], categories)
    if tables.coverage:
        of_label = Counter(concept.number for concept in tables.concepts)
        several = sum(count > 1 for count in of_label.values())
        print(
            f"{len(of_label):,} labels, {several:,} of them in several categories: a sweep probes each once, in the "
            "category that it covers most of, unless it is given --label_categories=all\n"
        )

    absent = [name for name, size in sizes.items() if size is None]
    defects = [
        f"{folder / 'index.csv'}: has no {split} rows; templates need both {' and '.join(SPLITS)}"
        for split in SPLITS
        if not tables.rows[split]
    ]
    if absent:
        defects.append(
            f"{tables.images}: {len(absent)} of {len(sizes)} files are missing ({_first(absent)}); take them from "
            "another copy"
        )
    if decode:
        defects += _decode(list(_broden_reads(tables, sizes)))
    return defects


def check_classes(dataset: Dataset, *, decode: bool) -> list[str]:
    """Prints how many images each split has and how they spread over the classes.

    Args:
        dataset: every image has one label and no mask.
        decode: also decode every image.

    Returns:
        A line for each kind of defect. A class may have images in one split alone; it is printed, and is no defect.
    """
    names = {concept.number: concept.name for concept in dataset.concepts}
    lines, lacking = [], []
    for split, images in dataset.splits.items():
        counted = Counter(number for i in range(len(images)) for _, number in images.annotation(i).labels)
        sizes = np.array(list(counted.values()))
        lines.append([split, len(images), len(counted), sizes.min(), f"{np.median(sizes):g}", sizes.max()])
        without = [name for number, name in names.items() if number not in counted]
        if without:
            lacking.append(f"{len(without)} of {len(names)} classes have no {split} images: {_first(without)}")
    _print_table(["split", "images", "classes", "smallest class", "median", "largest"], lines)
    if lacking:
        print("\n".join(lacking) + "\n")
    if not decode:
        return []
    return _decode([functools.partial(s.image, i) for s in dataset.splits.values() for i in range(len(s))])


def _broden_reads(tables: BrodenTables, sizes: dict[str, int | None]) -> Iterator[Callable[[], object]]:
    """Calls that each decode an image, or an image's masks of one category, as a sweep does; absent files are left out."""
    for split in SPLITS:
        images = tables.split(split)
        of_category = {category: images.select((category,)) for category in CATEGORIES}
        for i, row in enumerate(tables.rows[split]):
            if sizes[row.image] is not None:
                yield functools.partial(images.image, i)
            for category in dict.fromkeys(owner for owner, _ in row.masks):
                if all(sizes[name] is not None for owner, name in row.masks if owner == category):
                    yield functools.partial(of_category[category].annotation, i)


def _decode(reads: Sequence[Callable[[], object]]) -> list[str]:
    """Runs all of them and prints the first failures; a line that counts them, where there are any."""

    def failure(read: Callable[[], object]) -> str | None:
        try:
            read()
        except InputError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = progress(pool.map(failure, reads), total=len(reads), label="decoding", unit="file")
        failures = [result for result in results if result is not None]
    if not failures:
        return []
    shown = failures[:SHOWN] + ["..."] * (len(failures) > SHOWN)
    print("\n".join(["Unfit:", *(f"  {line}" for line in shown)]) + "\n")
    return [f"{len(failures)} of {len(reads)} images and sets of masks are unfit, the first: {failures[0]}"]


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _print_table(header: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
    """Aligned text: the first column to the left, numbers to the right."""
    cells = [header, *([f"{cell:,}" if isinstance(cell, int | np.integer) else str(cell) for cell in x] for x in lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        padded = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        print("  ".join([line[0].ljust(widths[0]), *padded]).rstrip())
    print()


PLACES = {"broden": BRODEN_PLACES, "imagefolder": IMAGEFOLDER_PLACES, "imagenet200": IMAGENET_PLACES}
"""The kinds that can be checked, and where a user gets them from."""


if __name__ == "__main__":
    define_flags()
    cli.run(main)
