import numpy as np
import pytest

from vitprobe_jax.data.dataset import Annotation
from vitprobe_jax.data.image_labels import image_classes, image_labels, read_all
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Concept

CONCEPTS = (Concept(2, "cat", "object"), Concept(7, "dog", "object"), Concept(2, "street", "scene"))


class Labelled:
    """A split of labels alone."""

    def __init__(self, *labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def name(self, index):
        return f"{index}.jpg"

    def image(self, index):
        raise AssertionError("no image is to be decoded")

    def annotation(self, index):
        mask = np.full((2, 2), 7, np.int32)
        return Annotation(masks=(("object", mask),), labels=self.labels[index])


def test_labels_of_images_and_nothing_of_masks():
    split = Labelled(
        (("object", 7), ("object", 2)),
        (),
        (("scene", 2), ("material", 2), ("object", 3), ("object", 99)),
        (("object", 7), ("object", 7)),
    )
    expected = [[True, True, False], [False] * 3, [False, False, True], [False, True, False]]
    np.testing.assert_array_equal(image_labels(split, CONCEPTS), expected)
    # The order of the columns is that of the concepts.
    np.testing.assert_array_equal(image_labels(split, CONCEPTS[::-1]), np.array(expected)[:, ::-1])
    assert image_labels(split, ()).shape == (4, 0)


def test_classes_are_where_the_labels_are():
    """More images than a thread goes through at a time."""
    numbers = np.random.default_rng(0).integers(0, 9, 150)
    split = Labelled(*((("object", int(number)),) for number in numbers))
    classes = image_classes(split, CONCEPTS[:2])
    labels = image_labels(split, CONCEPTS[:2])
    np.testing.assert_array_equal(classes, np.where(labels.any(1), labels.argmax(1), -1))
    np.testing.assert_array_equal(classes, np.select([numbers == 2, numbers == 7], [0, 1], -1))


def test_an_image_of_several_classes_is_named():
    with pytest.raises(InputError, match=r"--dataset: 1.jpg is of 2 classes \(cat, dog\)"):
        image_classes(Labelled((("object", 2),), (("object", 7), ("object", 2))), CONCEPTS)


def test_the_first_error_is_raised():
    def read(index):
        if index >= 70:
            raise InputError(f"{index} is broken")
        return index

    assert read_all(read, 70) == list(range(70))
    assert read_all(read, 0) == []
    with pytest.raises(InputError, match=r"^70 is broken"):
        read_all(read, 200)
