"""ADE20K as the scene parsing challenge of 2016 gives it out (ADEChallengeData2016; Zhou et al., CVPR 2017).

    images/{training,validation}/*.jpg
    annotations/{training,validation}/*.png     of the same names; a pixel's value is its class, 1..150, 0 for other
    objectInfo150.txt                           Idx, Ratio, Train, Val and Name of the classes, separated by tabs

Photographs have all sizes. Local representations are studied at 448 x 672 (height x width): every image and its mask are
brought to that size, whatever their aspect.
"""

import dataclasses
from pathlib import Path

from PIL import Image

from vitprobe_jax.data.dataset import Annotation, Dataset, FewShotDraw
from vitprobe_jax.data.files import existing_folder, read_image
from vitprobe_jax.data.labels import distinct_labels
from vitprobe_jax.data.mask_files import Pair, find_pairs, pairs_fingerprint, read_pair_mask
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Concept, Split

CATEGORY = "object"
SIZE = (448, 672)
"""Height and width of all images: 2 x 3 tiles of 224."""

_TABLE = "objectInfo150.txt"
_FOLDERS: dict[Split, str] = {"train": "training", "val": "validation"}
_FRAME = Transform(SIZE, "none")


@dataclasses.dataclass(frozen=True)
class AdeSplit:
    """The images of one split; its groups are the classes, so an image is of several.

    Attributes:
        folder: the root of the data set.
        pairs: images and masks, sorted by name.
        group_names: the classes, by number from 1.
    """

    folder: Path
    pairs: tuple[Pair, ...]
    group_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        return self.pairs[index].image

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(_FRAME.image(read_image(self.folder / self.pairs[index].image, mode="RGB")))

    def size(self, index: int) -> tuple[int, int]:
        del index
        return SIZE

    def annotation(self, index: int) -> Annotation:
        mask = read_pair_mask(self.folder, self.pairs[index], largest=len(self.group_names))
        return Annotation(masks=((CATEGORY, _FRAME.mask(mask, mask.shape)),))

    def groups(self, index: int) -> tuple[str, ...]:
        """Classes that the image shows at `SIZE`, by number; its mask is decoded for that."""
        ((_, mask),) = self.annotation(index).masks
        return tuple(self.group_names[number - 1] for number in distinct_labels(mask) if number)


def open_ade20k(folder: str | Path, name: str) -> Dataset:
    """Lists the images and masks of an ADEChallengeData2016 folder; they are read when asked for.

    A class is called what the table calls it, synonyms and all: `building, edifice`.

    Args:
        folder: holds images, annotations and objectInfo150.txt.
        name: what results call the data set.

    Raises:
        InputError: the folder is missing or empty, the table is missing or malformed, a split lacks a folder or has no
            images, an image has no mask or a mask no image.
    """
    folder = existing_folder(folder)
    names, table = _read_table(folder / _TABLE)
    splits = {}
    for split, part in _FOLDERS.items():
        pairs = find_pairs(folder, f"images/{part}", f"annotations/{part}", image_ending=".jpg", mask_ending=".png")
        splits[split] = AdeSplit(folder, pairs, names)
    return Dataset(
        name=name,
        concepts=tuple(Concept(number, class_name, CATEGORY) for number, class_name in enumerate(names, 1)),
        splits=splits,
        skip_corrupt=False,
        fingerprint=pairs_fingerprint(folder, (pair for split in splits.values() for pair in split.pairs), table),
        tile=224,
        # 600 images, and 300 to hold out (Section 5.1 of the paper on local representations).
        draw=FewShotDraw(train=4, val=2, compared=()),
    )


def _read_table(path: Path) -> tuple[tuple[str, ...], bytes]:
    """The class names, by number from 1, and the file's bytes."""
    try:
        content = path.read_bytes()
        lines = content.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(
            f"--dataset: {path} cannot be read ({error.strerror}); ADEChallengeData2016 has images/, annotations/ and "
            f"{_TABLE}"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({error}); restore the file") from error
    header, *rows = [[cell.strip() for cell in line.split("\t")] for line in lines if line.strip()] or [[]]
    if "Idx" not in header or "Name" not in header:
        raise InputError(f"{path}: its first line has no columns Idx and Name, separated by tabs; restore the file")
    names = []
    for number, row in enumerate(rows, 1):
        cells = dict(zip(header, row, strict=False))
        if cells.get("Idx") != str(number) or not cells.get("Name"):
            raise InputError(
                f"{path}: row {number} below its first line is not class {number} and its Name; restore it"
            )
        names.append(cells["Name"])
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        reason = f"gives the name {twice[0]!r} to several classes" if twice else "lists no classes"
        raise InputError(f"{path}: {reason}; restore the file")
    return tuple(names), content
