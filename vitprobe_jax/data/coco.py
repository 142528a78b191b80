"""COCO's photographs and the kinds of objects that they show (Lin et al., ECCV 2014): 80 labels, any number an image.

    train2017/*.jpg, val2017/*.jpg                      or both in images/
    annotations/instances_train2017.json, instances_val2017.json:
        images      [{id, file_name}]
        annotations [{image_id, category_id}]           outlines and boxes are not looked at
        categories  [{id, name, supercategory}]

2014's files, of the same form, are read where 2017's are not there.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitprobe_jax.data.dataset import Dataset
from vitprobe_jax.data.files import existing_folder
from vitprobe_jax.data.label_lists import Listed, listed_dataset
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import SPLITS, Split

_YEARS = ("2017", "2014")
_UNUSED = ("segmentation", "bbox")


def open_coco(folder: str | Path, name: str) -> Dataset:
    """Reads which kinds of objects each photograph of COCO shows, in crowds too; no image is decoded.

    Concepts have COCO's own numbers, 1 to 90 with gaps. Images are sorted by name; those with no object are kept, with no
    label. 2017's lists take 15 seconds to read and a gigabyte of memory meanwhile.

    Args:
        folder: holds annotations/ and the images of both splits.
        name: what results call the data set.

    Raises:
        InputError: the folder is missing or empty, a list is missing or damaged, the two lists differ in their categories,
            or of a split no image is there.
    """
    folder = existing_folder(folder)
    years = [year for year in _YEARS if all(_list_of(folder, split, year).is_file() for split in SPLITS)]
    if not years:
        there = [path.name for path in sorted((folder / "annotations").glob("instances_*.json"))]
        raise InputError(
            f"--dataset: {folder}/annotations has {', '.join(there) or 'no lists'}; instances_train2017.json and "
            "instances_val2017.json are needed, or both of 2014"
        )
    listed: dict[Split, list[Listed]] = {}
    categories = None
    for split in SPLITS:
        path = _list_of(folder, split, years[0])
        content = _read_list(path)
        found = _categories(path, content["categories"])
        if categories not in (None, found):
            raise InputError(f"{path}: its categories are not those of the training list; restore one of the two")
        categories = found
        place = f"{split}{years[0]}"
        place = place if (folder / place).is_dir() else f"images/{place}"
        listed[split] = _images(path, content, place, categories)
    return listed_dataset(
        folder,
        name,
        {number: label for number, (label, _) in categories.items()},
        listed,
        supercategories=tuple(kind for _, kind in categories.values()),
    )


def _list_of(folder: Path, split: Split, year: str) -> Path:
    return folder / "annotations" / f"instances_{split}{year}.json"


def _read_list(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The three tables of a list."""
    try:
        with open(path, encoding="utf-8") as file:
            # Outlines are most of the 450 MB: they are dropped while the file is read, object by object.
            content = json.load(file, object_hook=_without_outlines)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no JSON that can be read ({error}); restore the file") from error
    tables = {}
    for table in ("images", "annotations", "categories"):
        rows = content.get(table) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise InputError(f"{path}: has no list of {table}; restore the file")
        tables[table] = rows
    return tables


def _without_outlines(row: dict[str, Any]) -> dict[str, Any]:
    for key in _UNUSED:
        row.pop(key, None)
    return row


def _categories(path: Path, rows: list[dict[str, Any]]) -> dict[int, tuple[str, str | None]]:
    """Name and kind of each category by its number, ascending."""
    found = {}
    for i, row in enumerate(rows):
        number, label, kind = row.get("id"), row.get("name"), row.get("supercategory")
        if type(number) is not int or number < 1 or not isinstance(label, str) or not label or number in found:
            raise InputError(f"{path}: category {i} has no name, or no id from 1 on of its own; restore the file")
        found[number] = (label, kind if isinstance(kind, str) else None)
    if not found or len({label for label, _ in found.values()}) < len(found):
        raise InputError(f"{path}: lists no categories, or two of one name; restore the file")
    return dict(sorted(found.items()))


def _images(
    path: Path, content: dict[str, list[dict[str, Any]]], place: str, categories: Mapping[int, Any]
) -> list[Listed]:
    """The images of a list, sorted by name, with the numbers of what they show."""
    names: dict[int, str] = {}
    for i, row in enumerate(content["images"]):
        number, file = row.get("id"), row.get("file_name")
        if type(number) is not int or not isinstance(file, str) or not file or number in names:
            raise InputError(f"{path}: image {i} has no file_name, or no id of its own; restore the file")
        names[number] = file
    shown: dict[int, set[int]] = {number: set() for number in names}
    for i, row in enumerate(content["annotations"]):
        image, category = row.get("image_id"), row.get("category_id")
        if type(image) is not int or image not in shown or type(category) is not int or category not in categories:
            raise InputError(
                f"{path}: annotation {i} is of image {image!r} and category {category!r}, which are not both listed; "
                "restore the file"
            )
        shown[image].add(category)
    if len(set(names.values())) < len(names):
        raise InputError(f"{path}: two images have one file_name; restore the file")
    ordered = sorted(names, key=names.__getitem__)
    return [Listed(f"{place}/{names[number]}", tuple(sorted(shown[number]))) for number in ordered]
