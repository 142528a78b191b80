"""Images with what templates found on them, kept beside the results so that a report needs neither data nor backbones."""

import dataclasses
import io
from collections.abc import Mapping
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath
from jaxtyping import UInt8

from vitprobe_jax.atomic import write_whole
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Rule, Token

NEGATIVE, POSITIVE, LEFT_OUT = 0, 1, 2
"""Values of `Example.truth`: another concept of its category, the concept, nothing of its category."""


PAPER_TOKENS: Mapping[Rule, Token] = {"hyperplane": "k", "hyperplane_paper": "k", "cosine": "q"}
"""The tokens of Figures 15 and 16 of the paper, at the last block; it has none of centred features."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """What one template found on one held-out image.

    Attributes:
        kind: why this image: `coverage`, the one that the concept covers most of; `iou`, one of those where this template
            agrees best with the truth.
        backbone: of the template.
        layer: its block.
        token: its token.
        rule: its rule.
        shots: support images of a cosine template, of which the first trial is shown; None for hyperplanes.
        concept: label number.
        name: of the concept.
        category: of the concept.
        image: name of the image, a key of `Examples.images`.
        iou: intersection over union of found and true patches, among those that take part; in [0, 1].
        truth: of every patch: `NEGATIVE`, `POSITIVE` or `LEFT_OUT`.
        found: of every patch: 1 where the template is positive.
        choice: why this token: `best`, the token and block of the highest mean F1 of the backbone and rule; `paper`, the
            paper's token for the rule (`PAPER_TOKENS`) at the last probed block, kept where it is not the best.
    """

    kind: Literal["coverage", "iou"]
    backbone: str
    layer: int
    token: Token
    rule: Rule
    shots: int | None
    concept: int
    name: str
    category: str
    image: str
    iou: float
    truth: UInt8[np.ndarray, "rows columns"]
    found: UInt8[np.ndarray, "rows columns"]
    choice: Literal["best", "paper"] = "best"


@dataclasses.dataclass(frozen=True)
class Examples:
    """All examples of a results folder.

    Attributes:
        rows: by kind, backbone, rule, choice and concept; `iou` ones of a template from the best image down.
        images: JPEG files of the images as the backbone saw them, by name.
    """

    rows: tuple[Example, ...]
    images: Mapping[str, bytes]


_PLAIN = {
    "kind": pa.string(),
    "choice": pa.string(),
    "backbone": pa.string(),
    "layer": pa.int32(),
    "token": pa.string(),
    "rule": pa.string(),
    "shots": pa.int32(),
    "concept": pa.int32(),
    "name": pa.string(),
    "category": pa.string(),
    "image": pa.string(),
    "iou": pa.float64(),
}
"""Columns of `masks.parquet` that are fields of `Example` as they stand."""
_BITS = {"positive": pa.binary(), "left_out": pa.binary(), "found": pa.binary()}
"""Its columns of one bit a patch, row-major, eight to a byte, the first in the highest place, the last byte filled up with
zeros."""
_SCHEMA = pa.schema(_PLAIN | {"rows": pa.int32(), "columns": pa.int32()} | _BITS)
_IMAGE_SCHEMA = pa.schema([("image", pa.string()), ("jpeg", pa.binary())])


def masks_path(folder: epath.Path) -> epath.Path:
    """The file of a results folder that is written last: where it stands, its examples are whole."""
    return folder / "examples" / "masks.parquet"


def write_examples(folder: epath.Path, examples: Examples) -> None:
    """Writes `examples/images.parquet` and, last, `examples/masks.parquet`; the same examples give the same bytes.

    Args:
        folder: of the results, `--out`.
        examples: every row's image stands among the images.

    Raises:
        InputError: the disk refuses.
        ValueError: a row without its image.
    """
    missing = {row.image for row in examples.rows} - examples.images.keys()
    if missing:
        raise ValueError(f"no image {min(missing)}, which an example shows")
    path = masks_path(folder)
    images = [{"image": name, "jpeg": examples.images[name]} for name in sorted(examples.images)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path.with_name("images.parquet"), _encode(pa.Table.from_pylist(images, schema=_IMAGE_SCHEMA)))
        write_whole(path, _encode(pa.Table.from_pylist([_packed(row) for row in examples.rows], schema=_SCHEMA)))
    except OSError as error:
        raise InputError(
            f"--out: {path.parent} cannot be written ({error.strerror or error}); make room, then go on with --resume"
        ) from error


def read_examples(folder: epath.Path) -> Examples | None:
    """What `write_examples` wrote.

    Args:
        folder: of the results, `--out`.

    Returns:
        The examples; None where there are none, or a sweep was stopped before it had written all of them.

    Raises:
        InputError: a file is damaged, or of another version.
    """
    path = masks_path(folder)
    if not path.exists():
        return None
    images = {row["image"]: row["jpeg"] for row in _decode(path.with_name("images.parquet"), _IMAGE_SCHEMA)}
    try:
        rows = tuple(_unpacked(row) for row in _decode(path, _SCHEMA))
    except ValueError as error:
        raise InputError(f"{path}: is damaged ({error}); delete it, then go on with --resume") from error
    missing = {row.image for row in rows} - images.keys()
    if missing:
        raise InputError(
            f"{path}: shows {min(missing)}, which images.parquet lacks; delete it, then go on with --resume"
        )
    return Examples(rows, images)


def _packed(row: Example) -> dict:
    height, width = row.truth.shape
    bits = {"positive": row.truth == POSITIVE, "left_out": row.truth == LEFT_OUT, "found": row.found != 0}
    packed = {name: np.packbits(mask).tobytes() for name, mask in bits.items()}
    return {name: getattr(row, name) for name in _PLAIN} | {"rows": height, "columns": width} | packed


def _unpacked(row: Mapping) -> Example:
    """Raises a ValueError where the masks are of another size than the row says."""
    shape = (row["rows"], row["columns"])
    length = shape[0] * shape[1]
    if any(len(row[name]) != -(-length // 8) for name in _BITS):
        raise ValueError(f"a mask of {row['image']} is not {shape[0]} x {shape[1]}")
    positive, left_out, found = (
        np.unpackbits(np.frombuffer(row[name], np.uint8), count=length).reshape(shape) for name in _BITS
    )
    truth = positive * np.uint8(POSITIVE) + left_out * np.uint8(LEFT_OUT)
    return Example(**{name: row[name] for name in _PLAIN}, truth=truth, found=found)


def _encode(table: pa.Table) -> bytes:
    content = io.BytesIO()
    pq.write_table(table, content, write_page_checksum=True)
    return content.getvalue()


def _decode(path: epath.Path, schema: pa.Schema) -> list[dict]:
    try:
        table = pq.read_table(pa.BufferReader(path.read_bytes()), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise InputError(f"{path}: is damaged ({reason}); delete the folder, then go on with --resume") from error
    if not table.schema.equals(schema):
        raise InputError(f"{path}: its columns are not those of this version; run the sweep again")
    return table.to_pylist()
