"""Small trees of COCO's photographs and object lists, drawn by code."""

import json
from pathlib import Path

import numpy as np

from tests.data.moving import background, draw, movers

CATEGORIES = ((1, "person", "person"), (3, "car", "vehicle"), (18, "dog", "animal"), (90, "toothbrush", "indoor"))
"""Number, name and kind; the numbers have gaps as the official ones."""


def write_coco(
    root: Path,
    *,
    seed: int,
    train: int = 16,
    val: int = 8,
    size: tuple[int, int] = (128, 160),
    year: str = "2017",
) -> Path:
    """Photographs of striped objects, a hue for each category: up to three in an image, none in every eighth.

    Images are listed in a random order, and every fifth object is a crowd.

    Args:
        root: gets train2017/, val2017/ and annotations/.
        seed: of all that is drawn.
        train: images.
        val: held-out images.
        size: height and width of the images.
        year: in the names of files and folders.
    """
    (root / "annotations").mkdir(parents=True)
    for s, (split, count) in enumerate((("train", train), ("val", val))):
        folder = root / f"{split}{year}"
        folder.mkdir()
        images, annotations = [], []
        for i in np.random.default_rng([seed, s]).permutation(count).tolist():
            rng = np.random.default_rng([seed, s, i])
            kinds = rng.integers(0, len(CATEGORIES), rng.integers(1, 4)).tolist() if i % 8 else []
            shown = movers(rng, kinds, len(CATEGORIES), size, 1) if kinds else []
            number = 1000 * s + 9 * i + 9
            images.append(
                {"id": number, "file_name": f"{number:012d}.jpg", "height": size[0], "width": size[1], "license": 3}
            )
            draw(background(rng, size), shown, 0).save(folder / images[-1]["file_name"], quality=95)
            for mover in shown:
                left, top, right, bottom = mover.box(0)
                crowd = len(annotations) % 5 == 4
                outline = [[left, top, right, top, right, bottom, left, bottom]]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": CATEGORIES[mover.kind][0],
                        "iscrowd": int(crowd),
                        "bbox": [left, top, right - left, bottom - top],
                        "area": (right - left) * (bottom - top),
                        "segmentation": {"counts": [0, size[0] * size[1]], "size": list(size)} if crowd else outline,
                    }
                )
        categories = [{"id": number, "name": name, "supercategory": kind} for number, name, kind in CATEGORIES]
        content = {"info": {"year": int(year)}, "images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}{year}.json").write_text(json.dumps(content))
    return root
