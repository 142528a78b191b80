"""Data sets that tfds (TensorFlow Datasets) has prepared, read at random from array_record files, without TensorFlow.

Two layouts are understood:

    image, label                                          any classification set of tfds
    image, file_name, image_size, masks, labels           annotated images, as `vitprobe_jax.data.tfds_builders` writes them

The code that built a data set is not needed and not run; what lies on the disk is read. Images leave the records as the
encoded files that they are and are decoded as those of a folder: tfds would decode them by TensorFlow or OpenCV.
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow_datasets as tfds
from etils import epath
from PIL import Image

from vitprobe_jax.data.dataset import Annotation, Dataset
from vitprobe_jax.data.encoded import decode_image, decode_mask
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Concept, Split

FILE_FORMAT = "array_record"
_SPLITS: dict[Split, tuple[str, ...]] = {"train": ("train",), "val": ("validation", "val", "test")}
_ANNOTATED = ("image", "file_name", "image_size", "masks", "labels")

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class TfdsSplit:
    """The images of one split, in the order of the records. The files are opened when the first image is asked for.

    A record is read as a whole, so an annotation costs its image's bytes too.

    Attributes:
        folder: of the prepared data set; ends in its version.
        split: what tfds calls it.
        length: images.
        annotate: from a record, what messages call it, and the categories that are read, to its annotation.
        categories: those whose annotations are read; () for all.
    """

    folder: str
    split: str
    length: int
    annotate: Callable[[Record, str, tuple[str, ...]], Annotation]
    categories: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.length

    def name(self, index: int) -> str:
        name = self._record(index).get("file_name")
        return name.decode() if isinstance(name, bytes) else f"{self.split}/{index}"

    def image(self, index: int) -> Image.Image:
        return decode_image(self._record(index)["image"], self._source(index))

    def annotation(self, index: int) -> Annotation:
        return self.annotate(self._record(index), self._source(index), self.categories)

    def select(self, categories: tuple[str, ...]) -> "TfdsSplit":
        """The same images, annotated in these categories only."""
        return dataclasses.replace(self, categories=categories)

    def __getstate__(self) -> dict[str, Any]:
        # Open files stay behind: a worker process opens its own.
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @functools.cached_property
    def _records(self) -> Sequence[Record]:
        builder = tfds.builder_from_directory(self.folder, file_format=FILE_FORMAT)
        return builder.as_data_source(self.split, decoders=_keep_encoded(builder.info.features))

    def _record(self, index: int) -> Record:
        try:
            return self._records[index]
        # Broken files and foreign features raise whatever array_record, protobuf and tfds think of.
        except Exception as error:
            reason = _one_line(error)
            raise InputError(f"{self._source(index)}: cannot be read ({reason}); prepare the data set again") from error

    def _source(self, index: int) -> str:
        return f"{self.folder}: record {index} of {self.split}"


def open_tfds(spec: str) -> Dataset:
    """Opens a data set that tfds has prepared in array_record files.

    Args:
        spec: `NAME` or `NAME@DATA_DIR`. NAME is as tfds writes it, with configuration and version where there is a choice
            (`imagenet200/seed0:1.0.0`); DATA_DIR is tfds's `data_dir`, by default $TFDS_DATA_DIR, else
            ~/tensorflow_datasets.

    Returns:
        The data set, called `tfds:` and its full name, version included. Classes keep the numbers of their labels plus
        one; val is the split `validation`, else `val`, else `test`. A record without a class (label -1) carries none.

    Raises:
        InputError: nothing is prepared there, the files are no array_record files or not all there, there is no split to
            train on or to hold out, or the features are of neither layout.
    """
    name, _, data_dir = spec.partition("@")
    builder = _open_builder(name, data_dir)
    info = builder.info
    metadata = dict(info.metadata.items())
    if set(_ANNOTATED) <= set(info.features) and "concepts" in metadata:
        concepts = tuple(Concept(*concept) for concept in metadata["concepts"])
        annotate, unprobed = _masks_and_labels, tuple(metadata.get("unprobed", ()))
    else:
        concepts, annotate, unprobed = _classes(info), _class_label, ()
    identity = [info.full_name, concepts, metadata.get("fingerprint")]
    splits = {}
    for split, candidates in _SPLITS.items():
        present = [candidate for candidate in candidates if candidate in info.splits]
        if not present:
            raise InputError(
                f"--dataset: tfds:{name} has the splits {', '.join(info.splits)}; "
                f"one called {' or '.join(candidates)} is needed"
            )
        found = info.splits[present[0]]
        identity.append((split, _shards(found), found.num_bytes))
        splits[split] = TfdsSplit(os.fspath(builder.data_dir), present[0], found.num_examples, annotate)
    return Dataset(
        name=f"tfds:{info.full_name}",
        concepts=concepts,
        splits=splits,
        skip_corrupt=annotate is _class_label,
        fingerprint=hashlib.sha256(repr(identity).encode()).hexdigest(),
        unprobed=unprobed,
        coverage=tuple(metadata.get("coverage", ())),
    )


def _open_builder(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
    try:
        parsed, _ = tfds.core.naming.parse_builder_name_kwargs(name)
    except ValueError as error:
        raise InputError(
            f"--dataset: {name!r} is no name of tfds; give tfds:NAME[/CONFIG][:VERSION][@DATA_DIR]"
        ) from error
    folder = os.path.expanduser(data_dir or tfds.core.constants.DATA_DIR)
    try:
        # Not tfds.builder, which prefers the code of a known data set, and its newest version, to what is on the disk.
        return tfds.core.read_only_builder.builder_from_files(name, data_dir=folder, file_format=FILE_FORMAT)
    except tfds.core.DatasetNotFoundError as error:
        there = _prepared(folder, parsed.name)
        hint = (
            f"there is {', '.join(there)}"
            if there
            else "build imagenet200 or broden by python -m vitprobe_jax.data.tfds_builders, others by tfds's "
            "download_and_prepare(file_format='array_record'), or say where it is, tfds:NAME@DATA_DIR"
        )
        raise InputError(f"--dataset: no tfds data set {name} is prepared in {folder}; {hint}") from error
    # Another file format, a damaged dataset_info.json, a bucket without its client: tfds has no common exception.
    except Exception as error:
        raise InputError(
            f"--dataset: tfds:{name} in {folder} cannot be opened ({_one_line(error)}); "
            f"prepare it with file_format='{FILE_FORMAT}'"
        ) from error


def _prepared(data_dir: str, name: str) -> list[str]:
    """The configurations and versions of a data set that are there, as `tfds:` takes them."""
    root = epath.Path(data_dir)
    # Without a configuration, and with one.
    found = [path for levels in ("*", "*/*") for path in root.glob(f"{name}/{levels}/dataset_info.json")]
    folders = sorted(path.parent.relative_to(root) for path in found)
    return [f"{folder.parent.as_posix()}:{folder.name}" for folder in folders]


def _classes(info: tfds.core.DatasetInfo) -> tuple[Concept, ...]:
    """The classes of a set with an `image` and a `label`."""
    features = dict(info.features.items())
    image, label = features.get("image"), features.get("label")
    is_image = isinstance(image, tfds.features.Image) and image.np_dtype == "uint8"
    if not is_image or not isinstance(label, tfds.features.ClassLabel) or not label.num_classes:
        raise InputError(
            f"--dataset: tfds:{info.full_name} has the features {', '.join(sorted(features))}; "
            "an image of 8 bits and a label that is one of some classes are needed"
        )
    return tuple(Concept(i + 1, label.int2str(i), "class") for i in range(label.num_classes))


def _class_label(record: Record, source: str, categories: tuple[str, ...]) -> Annotation:
    label = int(record["label"])
    return Annotation(labels=(("class", label + 1),) if label >= 0 else ())


def _masks_and_labels(record: Record, source: str, categories: tuple[str, ...]) -> Annotation:
    def of_wanted(feature: str, value: str) -> list[tuple[str, Any]]:
        columns = zip(record[feature]["category"], record[feature][value], strict=True)
        named = ((category.decode(), entry) for category, entry in columns)
        return [(category, entry) for category, entry in named if not categories or category in categories]

    height, width = record["image_size"]
    return Annotation(
        masks=tuple(
            (category, decode_mask(mask, f"{source}, {category}")) for category, mask in of_wanted("masks", "mask")
        ),
        labels=tuple((category, int(number)) for category, number in of_wanted("labels", "number")),
        image_size=(int(height), int(width)),
    )


class _KeepEncoded(tfds.decode.SkipDecoding):
    """Leaves images as bytes; tfds's own decoder of this kind knows no sequences outside TensorFlow."""

    def decode_batch_example_np(self, serialized_example: Any) -> Any:
        return serialized_example


def _keep_encoded(features: tfds.features.FeaturesDict) -> dict[str, Any]:
    """A decoder for every image in the features."""
    decoders = {}
    for name, feature in features.items():
        if isinstance(feature, tfds.features.Sequence):
            feature = feature.feature
        if isinstance(feature, tfds.features.Image):
            decoders[name] = _KeepEncoded()
        elif isinstance(feature, tfds.features.FeaturesDict):
            decoders |= {name: nested} if (nested := _keep_encoded(feature)) else {}
    return decoders


def _shards(split: tfds.core.SplitInfo) -> list[tuple[str, int]]:
    """Name and bytes of each file of a split."""
    try:
        return [(path.name, path.stat().length) for path in map(epath.Path, split.filepaths)]
    except OSError as error:
        raise InputError(
            f"--dataset: {error.filename} cannot be read ({error.strerror}); prepare the data set again"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
