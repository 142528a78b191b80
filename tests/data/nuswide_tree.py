"""Small trees of NUS-WIDE's photographs and label lists, drawn by code."""

from pathlib import Path

import numpy as np

from tests.data.moving import background, draw, movers

CONCEPTS = ("airport", "beach", "cat", "zebra")


def write_nuswide(root: Path, *, seed: int, train: int = 16, val: int = 8, size: tuple[int, int] = (128, 160)) -> Path:
    """Photographs of striped objects, a hue for each concept: up to three in an image, none in every eighth.

    Args:
        root: gets Flickr/, ImageList/, ConceptsList/ and Groundtruth/.
        seed: of all that is drawn.
        train: images.
        val: images of the test list.
        size: height and width of the images.
    """
    for folder in ("ImageList", "ConceptsList", "Groundtruth/TrainTestLabels"):
        (root / folder).mkdir(parents=True)
    (root / "ConceptsList/Concepts81.txt").write_text("\n".join(CONCEPTS) + "\n")
    for s, (part, count) in enumerate((("Train", train), ("Test", val))):
        files, labels = [], np.zeros((count, len(CONCEPTS)), int)
        for i in range(count):
            rng = np.random.default_rng([seed, s, i])
            kinds = rng.integers(0, len(CONCEPTS), rng.integers(1, 4)).tolist() if i % 8 else []
            labels[i, kinds] = 1
            shown = movers(rng, kinds, len(CONCEPTS), size, 1) if kinds else []
            # Photographs lie in a folder for each word that they were found by, whatever they show.
            files.append((("actor", "zoo")[i % 2], f"{i + 1:04d}_{s}{7 * i}.jpg"))
            path = root / "Flickr" / "/".join(files[-1])
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(background(rng, size), shown, 0).save(path, quality=95)
        # Lines end as on Windows, some of them in a blank, as the official ones.
        (root / "ImageList" / f"{part}Imagelist.txt").write_bytes(
            "".join(f"{folder}\\{file}\r\n" for folder, file in files).encode()
        )
        for name, column in zip(CONCEPTS, labels.T, strict=True):
            path = root / "Groundtruth/TrainTestLabels" / f"Labels_{name}_{part}.txt"
            path.write_text("".join(f"{value} \n" for value in column))
    return root
