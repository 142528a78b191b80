"""ImageNet-200 for tfds: the images that `imagenet200:DIR` draws by a seed, in record files."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from vitprobe_jax.data.imagenet200 import TRAIN_PER_CLASS, VAL_PER_CLASS, Imagenet200Split, open_imagenet200, wnids


@dataclasses.dataclass(eq=False)
class Imagenet200Config(tfds.core.BuilderConfig):
    """Which images are drawn. tfds keeps each configuration in a folder of its own.

    Attributes:
        name: of the folder; follows from the rest unless given.
        seed: of the draw.
        train_per_class: training images of a class.
        val_per_class: held-out images of a class.
    """

    name: str = ""
    seed: int = 0
    train_per_class: int = TRAIN_PER_CLASS
    val_per_class: int = VAL_PER_CLASS

    def __post_init__(self):
        counts = (self.train_per_class, self.val_per_class)
        usual = counts == (TRAIN_PER_CLASS, VAL_PER_CLASS)
        self.name = self.name or f"seed{self.seed}" + ("" if usual else f"_{counts[0]}_{counts[1]}")


class Imagenet200(tfds.core.GeneratorBasedBuilder):
    """Features `image` (the file as it is), `label` and `file_name`; splits `train` and `validation`."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [Imagenet200Config()]  # noqa: RUF012 - tfds reads it from the class
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "manual_dir holds the training images of ImageNet (ILSVRC 2012), from https://image-net.org/download: "
        "train/n*/*.JPEG, train/n*.tar or ILSVRC2012_img_train.tar."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="550 images of each of Tiny ImageNet's 200 classes, drawn from ImageNet's training images.",
            homepage="https://image-net.org",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(),
                    "label": tfds.features.ClassLabel(names=wnids()),
                    "file_name": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[int, dict]]]:
        config = self.builder_config
        dataset = open_imagenet200(
            Path(dl_manager.manual_dir),
            self.name,
            seed=config.seed,
            train_per_class=config.train_per_class,
            val_per_class=config.val_per_class,
        )
        self.info.metadata["fingerprint"] = dataset.fingerprint
        return {
            "train": self._generate_examples(dataset.splits["train"]),
            "validation": self._generate_examples(dataset.splits["val"]),
        }

    def _generate_examples(self, split: Imagenet200Split) -> Iterator[tuple[int, dict[str, Any]]]:
        for i in range(len(split)):
            yield i, {"image": split.content(i), "label": split.numbers[i] - 1, "file_name": split.name(i)}
