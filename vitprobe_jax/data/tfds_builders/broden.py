"""Broden for tfds: photographs with pixel and image labels, in record files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from vitprobe_jax.data.broden import open_broden
from vitprobe_jax.data.dataset import ImageSplit
from vitprobe_jax.data.encoded import encode_mask


class Broden(tfds.core.GeneratorBasedBuilder):
    """One record an image, with all that is annotated on it; splits `train` and `validation`.

    `image` is the file as it is. `masks` pairs a category with an RGB PNG (label = R + 256 G), `labels` a category with a
    number that holds for the whole image; `image_size` is (height, width) of the image, of which masks show all in any
    size. The concepts behind the numbers are in `info.metadata`, as (number, name, category).
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "manual_dir holds Broden as Network Dissection publishes it (https://github.com/CSAILVision/NetDissect): "
        "index.csv, label.csv and images/."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features
        return tfds.core.DatasetInfo(
            builder=self,
            description="Photographs from five data sets with pixel and image labels in one numbering.",
            homepage="https://github.com/CSAILVision/NetDissect",
            features=features.FeaturesDict(
                {
                    "image": features.Image(),
                    "file_name": features.Text(),
                    "image_size": features.Tensor(shape=(2,), dtype=np.int32),
                    "masks": features.Sequence(
                        {"category": features.Text(), "mask": features.Image(encoding_format="png")}
                    ),
                    "labels": features.Sequence({"category": features.Text(), "number": np.int32}),
                }
            ),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[int, dict]]]:
        folder = Path(dl_manager.manual_dir)
        dataset = open_broden(folder, self.name)
        self.info.metadata.update(
            concepts=[(concept.number, concept.name, concept.category) for concept in dataset.concepts],
            unprobed=dataset.unprobed,
            coverage=dataset.coverage,
            fingerprint=dataset.fingerprint,
        )
        return {
            "train": self._generate_examples(folder / "images", dataset.splits["train"]),
            "validation": self._generate_examples(folder / "images", dataset.splits["val"]),
        }

    def _generate_examples(self, images: Path, split: ImageSplit) -> Iterator[tuple[int, dict[str, Any]]]:
        for i in range(len(split)):
            # Decoded only to find out now that it can be, and that its aspect is its masks'.
            split.image(i)
            annotation = split.annotation(i)
            yield (
                i,
                {
                    "image": (images / split.name(i)).read_bytes(),
                    "file_name": split.name(i),
                    "image_size": annotation.image_size,
                    "masks": [{"category": category, "mask": encode_mask(mask)} for category, mask in annotation.masks],
                    "labels": [{"category": category, "number": number} for category, number in annotation.labels],
                },
            )
