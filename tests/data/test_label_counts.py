import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from tests.data.cityscapes_tree import write_cityscapes
from vitprobe_jax.data.cityscapes import open_cityscapes
from vitprobe_jax.data.dataset import Annotation
from vitprobe_jax.data.label_counts import count_labels
from vitprobe_jax.data.labels import build_labels
from vitprobe_jax.data.tiles import TiledSplit
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Concept

WHOLE = Transform((8, 8), "none")
CONCEPTS = (Concept(1, "a", "object"), Concept(300, "c", "object"), Concept(1, "a", "part"), Concept(7, "d", "part"))


@dataclasses.dataclass(frozen=True)
class Annotations:
    """A split of annotations alone."""

    items: tuple[Annotation, ...]

    def __len__(self):
        return len(self.items)

    def name(self, index):
        return str(index)

    def image(self, index):
        return Image.new("RGB", (8, 8))

    def annotation(self, index):
        return self.items[index]


masks = st.lists(
    st.tuples(
        st.sampled_from(["object", "part", "scene"]),
        hnp.arrays(np.int32, (4, 4), elements=st.sampled_from([0, 1, 7, 300, 999])),
    ),
    max_size=3,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(masks, max_size=3))
def test_counts_are_those_of_a_plain_loop(images):
    split = Annotations(tuple(Annotation(masks=tuple(image), labels=(("object", 1),)) for image in images))
    table = count_labels(split, CONCEPTS, transform=WHOLE, patch_size=4)
    column = {(c.category, c.number): i for i, c in enumerate(CONCEPTS, 1)}
    expected = np.zeros((len(images), 4, 5), int)
    for i, image in enumerate(images):
        for y in range(8):
            for x in range(8):
                found = [column.get((category, int(mask[y // 2, x // 2])), 0) for category, mask in image]
                expected[i, y // 4 * 2 + x // 4, next(filter(None, found), 0)] += 1
    np.testing.assert_array_equal(table.counts, expected)
    assert table.counts.dtype == np.uint16
    assert (table.counts.sum(-1) == 16).all()
    assert table.concepts == CONCEPTS


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.int32, (8, 8), elements=st.sampled_from([0, 1, 300])))
def test_majority_is_that_of_the_label_table(mask):
    split, concepts = Annotations((Annotation(masks=(("object", mask),)),)), CONCEPTS[:2]
    counts = count_labels(split, concepts, transform=WHOLE, patch_size=2)
    table = build_labels(split, concepts, transform=WHOLE, patch_size=2, task="segmentation")
    slots = table.slots[..., 0] if table.slots.shape[-1] else np.zeros((1, 16), int)
    np.testing.assert_array_equal(counts.majority(), slots)


def test_labels_that_are_no_concept_vote_for_none_together():
    mask = np.array([[1, 1, 1], [5, 5, 0], [6, 6, 0]], np.int32).repeat(2, 0).repeat(2, 1)
    split = Annotations((Annotation(masks=(("object", mask),)),))
    counts = count_labels(split, CONCEPTS[:1], transform=Transform((6, 6), "none"), patch_size=6)
    assert counts.counts.tolist() == [[[24, 12]]]
    assert counts.majority().tolist() == [[0]]


def test_large_patches_are_counted_in_more_bits():
    split = Annotations((Annotation(masks=(("object", np.ones((1, 1), np.int32)),)),))
    counts = count_labels(split, CONCEPTS[:1], transform=Transform((256, 256), "none"), patch_size=256).counts
    assert counts.tolist() == [[[0, 65_536]]]


def test_masks_take_the_way_of_their_images():
    mask = np.zeros((10, 20), np.int32)
    mask[:, 10:] = 1
    split = Annotations((Annotation(masks=(("object", mask),), image_size=(20, 40)),))
    counts = count_labels(split, CONCEPTS[:1], transform=Transform((8, 8), resize_ratio=1.0), patch_size=4)
    assert counts.counts[0].tolist() == [[16, 0], [0, 16]] * 2


def test_patches_must_fill_the_image():
    with pytest.raises(InputError, match=r"^--image_size: 8 x 8 is not a multiple of the patch size 3$"):
        count_labels(Annotations(()), CONCEPTS, transform=WHOLE, patch_size=3)


def test_tiles_count_every_pixel_once(tmp_path):
    """At their own size tiles count what the masks hold, though the last ones overlap."""
    dataset = open_cityscapes(write_cityscapes(tmp_path, size=(40, 72)), "x")
    train = dataset.splits["train"]
    counts = count_labels(TiledSplit(train, 32), dataset.concepts, transform=Transform((32, 32), "none"), patch_size=8)
    assert counts.counts.shape == (len(train) * 2 * 3, 16, 20)
    masks = [train.annotation(i).masks[0][1] for i in range(len(train))]
    expected = [sum(int((mask == concept.number).sum()) for mask in masks) for concept in dataset.concepts]
    assert counts.counts[..., 1:].sum((0, 1)).tolist() == expected
