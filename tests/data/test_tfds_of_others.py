"""Data sets of tfds that others made."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from vitprobe_jax.data import open_dataset
from vitprobe_jax.data.image_labels import image_classes
from vitprobe_jax.data.tfds_dataset import open_tfds
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Concept


def png(value: int, mode: str = "L") -> bytes:
    content = io.BytesIO()
    Image.new(mode, (4, 3), value).save(content, "PNG")
    return content.getvalue()


class Digits(tfds.core.GeneratorBasedBuilder):
    """What others have made: grey images, more features than are needed, a record without a class."""

    VERSION = tfds.core.Version("3.0.1")
    SPLITS = ("train", "test")
    IMAGE = tfds.features.Image(shape=(None, None, 1))
    LABEL = tfds.features.ClassLabel(names=["zero", "one", "two"])

    def _info(self):
        thumbnails = {"category": tfds.features.Text(), "thumbnail": tfds.features.Image()}
        features = {
            "image": self.IMAGE,
            "label": self.LABEL,
            "box": tfds.features.BBoxFeature(),
            "thumbnails": tfds.features.Sequence(thumbnails),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="x",
            features=tfds.features.FeaturesDict({name: feature for name, feature in features.items() if feature}),
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples() for split in self.SPLITS}

    def _generate_examples(self):
        for i, label in enumerate((0, 2, 1, -1)):
            example = {
                "image": png(100 + label),
                "label": label,
                "box": tfds.features.BBox(0.0, 0.0, 1.0, 1.0),
                "thumbnails": [{"category": "x", "thumbnail": b"never decoded"}] * i,
            }
            yield f"key{i}", {name: value for name, value in example.items() if name in self.info.features}


class DigitsWithoutTest(Digits):
    SPLITS = ("train", "extra")


class DigitsWithoutLabel(Digits):
    LABEL = None


class DigitsOfManyBits(Digits):
    IMAGE = tfds.features.Image(shape=(None, None, 1), dtype=np.uint16)


def prepare(builder_class, data_dir):
    builder = builder_class(data_dir=data_dir)
    builder.download_and_prepare(download_dir=data_dir / "downloads", file_format="array_record")
    return Path(builder.data_dir)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tfds")
    prepare(Digits, data_dir)
    return data_dir


def test_classification_sets_of_others(digits):
    dataset = open_dataset(f"tfds:digits@{digits}", seed=0)
    assert dataset.name == "tfds:digits/3.0.1"
    assert dataset.concepts == tuple(Concept(i, name, "class") for i, name in enumerate(("zero", "one", "two"), 1))
    assert dataset.skip_corrupt
    for split, folder in (("train", "train"), ("val", "test")):
        images = dataset.splits[split]
        assert [images.name(i) for i in range(4)] == [f"{folder}/{i}" for i in range(4)]
        # tfds shuffles by the keys; an image still goes with its label.
        greys = [np.asarray(images.image(i)) for i in range(4)]
        assert {grey.shape for grey in greys} == {(3, 4, 3)}
        labels = [images.annotation(i).labels for i in range(4)]
        assert labels == [(("class", number),) if (number := int(grey.max()) - 99) else () for grey in greys]
        assert sorted(labels) == [(), (("class", 1),), (("class", 2),), (("class", 3),)]
        # What heads are trained on; the record without a class is of none.
        np.testing.assert_array_equal(
            image_classes(images, dataset.concepts), [int(grey.max()) - 100 for grey in greys]
        )


def test_the_version_may_be_given_and_the_folder_left_to_tfds(digits):
    assert open_tfds(f"digits:3.0.1@{digits}").name == "tfds:digits/3.0.1"
    command = "from vitprobe_jax.data.tfds_dataset import open_tfds; print(open_tfds('digits').name)"
    result = subprocess.run(
        [sys.executable, "-c", command], env=os.environ | {"TFDS_DATA_DIR": str(digits)}, capture_output=True, text=True
    )
    assert result.stdout == "tfds:digits/3.0.1\n", result.stderr


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        (DigitsWithoutTest, r"has the splits .*; one called validation or val or test is needed"),
        (DigitsWithoutLabel, r"has the features box, image, thumbnails; an image of 8 bits and a label"),
        (DigitsOfManyBits, r"an image of 8 bits and a label"),
    ],
)
def test_what_cannot_be_probed_is_refused(builder, message, tmp_path):
    prepare(builder, tmp_path)
    with pytest.raises(InputError, match=rf"^--dataset: .*{message}"):
        open_tfds(f"{builder.name}@{tmp_path}")


def set_file_format(folder):
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))


@pytest.mark.parametrize(
    ("break_it", "name", "message"),
    [
        (lambda folder: None, "no_such_set", r"no tfds data set no_such_set is prepared in .*download_and_prepare"),
        (lambda folder: None, "no/such/set", r"'no/such/set' is no name of tfds"),
        (lambda folder: None, "", r"'' is no name of tfds"),
        (lambda folder: None, "digits:9.9.9", r"no tfds data set digits:9.9.9 is prepared .* there is digits:3.0.1$"),
        (lambda folder: shutil.rmtree(folder.parent), "digits", r"no tfds data set digits is prepared"),
        (set_file_format, "digits", r"cannot be opened .*tfrecord.*; prepare it with file_format='array_record'"),
        (lambda folder: (folder / "dataset_info.json").write_text("{"), "digits", r"cannot be opened"),
        (lambda folder: next(folder.glob("*test*")).unlink(), "digits", r"digits-test.* cannot be read"),
    ],
)
def test_what_is_not_prepared_ends_in_one_line(break_it, name, message, digits, tmp_path):
    shutil.copytree(digits, tmp_path / "data")
    break_it(tmp_path / "data/digits/3.0.1")
    with pytest.raises(InputError, match=message) as caught:
        open_tfds(f"{name}@{tmp_path / 'data'}")
    assert str(caught.value).startswith("--dataset: ")
    assert "\n" not in str(caught.value)
