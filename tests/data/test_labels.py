import dataclasses
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from tests.data.broden_tree import write_image, write_mask, write_tables
from vitprobe_jax.data.broden import open_broden
from vitprobe_jax.data.dataset import Annotation
from vitprobe_jax.data.labels import build_labels, patch_labels, slot_dtype
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Concept

WHOLE = Transform((8, 8), "none")


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


def carried(table):
    """Per image and row the set of (category, number), as a reader of the table sees it."""
    owners = [table.categories[c] for c in table.concept_category]
    assert owners == [concept.category for concept in table.concepts]
    result = []
    for image in table.slots:
        rows = []
        for row in image:
            found = [(table.concepts[s - 1].category, table.concepts[s - 1].number, m) for m, s in enumerate(row) if s]
            assert all(table.categories[table.slot_category[m]] == category for category, _, m in found)
            assert len({key[:2] for key in found}) == len(found), "a row holds a concept twice"
            rows.append({key[:2] for key in found})
        result.append(rows)
    return result


def majority_by_loop(labels, patch):
    height, width = labels.shape
    result = []
    for top in range(0, height, patch):
        for left in range(0, width, patch):
            votes = Counter(int(label) for label in labels[top : top + patch, left : left + patch].ravel())
            result.append(min(votes, key=lambda label: (-votes[label], label)))
    return result


# Few labels and small patches make ties and empty patches common; 300 lies beyond one byte.
grids = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)).flatmap(
    lambda s: st.tuples(
        hnp.arrays(np.int32, (s[0] * s[2], s[1] * s[2]), elements=st.sampled_from([0, 1, 2, 300])), st.just(s[2])
    )
)


@given(grids)
def test_majority_is_that_of_a_plain_loop(case):
    labels, patch = case
    assert patch_labels(labels, patch_size=patch, rule="majority").tolist() == majority_by_loop(labels, patch)


@given(grids)
def test_nearest_is_the_label_at_the_centre(case):
    labels, patch = case
    centres = [
        labels[int((i + 0.5) * patch), int((j + 0.5) * patch)]
        for i in range(labels.shape[0] // patch)
        for j in range(labels.shape[1] // patch)
    ]
    assert patch_labels(labels, patch_size=patch, rule="nearest").tolist() == centres


def test_ties_go_to_the_lowest_label_and_none_counts():
    labels = np.array([[5, 5, 0, 9], [3, 3, 0, 9]], np.int32)
    assert patch_labels(labels, patch_size=2, rule="majority").tolist() == [3, 0]


CONCEPTS = (
    Concept(1, "a", "object"),
    Concept(2, "b", "object"),
    Concept(300, "c", "object"),
    Concept(1, "a", "part"),
    Concept(7, "d", "part"),
    Concept(9, "e", "scene"),
)
masks = st.lists(
    st.tuples(
        st.sampled_from(["object", "part"]), hnp.arrays(np.int32, (4, 4), elements=st.sampled_from([0, 1, 2, 7, 300]))
    ),
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(masks, st.sampled_from([(), (("scene", 9),), (("scene", 9), ("object", 2))])), max_size=3),
    st.sampled_from(["segmentation", "classification"]),
    st.sets(st.sampled_from(CONCEPTS)),
)
def test_table_holds_what_a_plain_loop_finds(images, task, kept):
    concepts = tuple(concept for concept in CONCEPTS if concept in kept)
    split = Annotations(tuple(Annotation(tuple(masks), labels, (8, 8)) for masks, labels in images))
    table = build_labels(split, concepts, transform=WHOLE, patch_size=4, task=task)
    known = {(concept.category, concept.number) for concept in concepts}
    expected = []
    for image_masks, labels in images:
        rows = [set(labels) for _ in range(4 if task == "segmentation" else 1)]
        for category, mask in image_masks:
            mask = np.kron(mask, np.ones((2, 2), np.int32))
            if task == "classification":
                rows[0] |= {(category, int(label)) for label in mask.ravel()}
            else:
                for row, label in zip(rows, majority_by_loop(mask, 4), strict=True):
                    row.add((category, label))
        expected.append([row & known for row in rows])
    assert carried(table) == expected
    assert table.slots.dtype == np.int16
    assert table.slots.shape[:2] == (len(images), 4 if task == "segmentation" else 1)
    # No narrower table would do: each category has the slots of its fullest row, and they stand together.
    for i, category in enumerate(table.categories):
        fullest = max((sum(c == category for c, _ in row) for rows in expected for row in rows), default=0)
        assert (table.slot_category == i).sum() == fullest
    assert (np.diff(table.slot_category) >= 0).all()


def test_every_oddity_by_hand(tmp_path):
    """One 8 x 8 Broden image on a 2 x 2 grid, its masks half the size: what each of the four patches carries."""
    write_image(tmp_path / "images/a.jpg")
    write_mask(tmp_path / "images/object.png", [[7, 7, 12, 0]] * 2 + [[0, 0, 0, 0], [0, 7, 12, 12]])
    write_mask(tmp_path / "images/part_1.png", [[300, 300, 0, 0]] * 4)
    write_mask(tmp_path / "images/part_2.png", [[7, 7, 7, 7]] * 2 + [[300, 300, 300, 300]] * 2)
    row = "8,8,4,4,,object.png,part_1.png;part_2.png,,83,290;372"
    write_tables(tmp_path, [f"a.jpg,train,{row}", "a.jpg,val,8,8,4,4,,,,,0,"])
    dataset = open_broden(tmp_path, "broden:tiny").select(())
    table = build_labels(dataset.splits["train"], dataset.concepts, transform=WHOLE, patch_size=4, task="segmentation")
    image_level = {("scene", 83), ("texture", 290), ("texture", 372)}
    assert carried(table) == [
        [
            {("object", 7), ("part", 300), ("part", 7)} | image_level,
            {("part", 7)} | image_level,  # object: none and 12 tie, the lowest label is none
            {("part", 300)} | image_level,  # both part masks say 300: once
            {("part", 300)} | image_level,  # object: none and 12 tie again
        ]
    ]
    object_, part = (table.categories.index(name) for name in ("object", "part"))
    assert table.in_category(object_).tolist() == [[True, False, False, False]]
    assert table.in_category(part).all()
    empty = build_labels(dataset.splits["val"], dataset.concepts, transform=WHOLE, patch_size=4, task="segmentation")
    assert empty.slots.shape == (1, 4, 0)
    assert not empty.in_category(object_).any()
    whole = build_labels(
        dataset.splits["train"], dataset.concepts, transform=WHOLE, patch_size=4, task="classification"
    )
    assert carried(whole) == [[{("object", 7), ("object", 12), ("part", 300), ("part", 7)} | image_level]]


def test_broden_at_its_true_sizes_by_hand(tmp_path):
    """224 px, masks of 112 px, patches of 16 px = 8 mask pixels; borders of regions run through patches."""
    write_image(tmp_path / "images/a.jpg", 224, 224)
    row, column = np.mgrid[:112, :112]
    # Column 2 of the grid is mask columns 16 to 23: 5 of 7, then 3 of 12.
    write_mask(tmp_path / "images/object.png", np.where(column < 21, 7, 12))
    # Row 0 of the grid is half 300, half none: a tie, which none wins. Row 13 is all 300.
    write_mask(tmp_path / "images/part_1.png", np.where((row < 4) | (row >= 104), 300, 0))
    # Row 0: 5 of 8 are 7. Row 13: all 7 again, beside the 300 of the first mask.
    write_mask(tmp_path / "images/part_2.png", np.where((row < 5) | (row >= 104), 7, 0))
    write_tables(tmp_path, ["a.jpg,train,224,224,112,112,,object.png,part_1.png;part_2.png,,0,290;372"])
    dataset = open_broden(tmp_path, "broden:tiny").select(())
    table = build_labels(
        dataset.splits["train"],
        dataset.concepts,
        transform=Transform((224, 224), "none"),
        patch_size=16,
        task="segmentation",
    )
    parts = {0: {("part", 7)}, 13: {("part", 7), ("part", 300)}}
    expected = [
        {("object", 7 if x <= 2 else 12), ("texture", 290), ("texture", 372)} | parts.get(y, set())
        for y in range(14)
        for x in range(14)
    ]
    assert carried(table) == [expected]
    # One slot for the object, two for the parts and the textures, none for a scene of 0.
    assert [table.categories[c] for c in table.slot_category] == ["object", "part", "part", "texture", "texture"]


@settings(max_examples=80, deadline=None)
@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
        lambda shape: hnp.arrays(np.int32, shape, elements=st.sampled_from([0, 1, 2, 300]))
    ),
    st.sampled_from([1, 2, 3, 4, 6, 12]),
    st.sampled_from(["none", "family"]),
    st.sampled_from(["majority", "nearest"]),
)
def test_masks_of_any_size_are_voted_on_as_the_image_shows_them(mask, patch, crop, rule):
    """Also where a mask is only enlarged, and its own pixels are counted instead."""
    transform = Transform((12, 24), crop)
    split = Annotations((Annotation((("object", mask),), image_size=(24, 48)),))
    objects = CONCEPTS[:3]
    table = build_labels(split, objects, transform=transform, patch_size=patch, task="segmentation", patch_label=rule)
    shown = transform.mask(mask, (24, 48))
    labels = majority_by_loop(shown, patch) if rule == "majority" else shown[patch // 2 :: patch, patch // 2 :: patch]
    assert carried(table) == [[{("object", int(n))} - {("object", 0)} for n in np.ravel(labels)]]


def test_slots_are_as_small_as_the_concepts_allow():
    for num_concepts in (1, 1200, 32_766, 32_767, 100_000):
        dtype = slot_dtype(num_concepts)
        # The last concept's slot and one beyond it, as far as tables by slot reach.
        assert num_concepts + 1 <= np.iinfo(dtype).max
        assert (dtype == np.int16) == (num_concepts < 32_767)
    far = tuple(Concept(n, str(n), "object") for n in range(1, 40_001))
    split = Annotations((Annotation(labels=(("object", 40_000),)),))
    table = build_labels(split, far, transform=WHOLE, patch_size=4, task="classification")
    assert table.slots.tolist() == [[[40_000]]]


@pytest.mark.slow
def test_building_takes_twice_the_table_at_most():
    """Measured by tracemalloc, which NumPy reports its arrays to."""
    masks = tuple(np.random.default_rng(i).integers(1, 3, (14, 14)).astype(np.int32) for i in range(4))
    annotation = Annotation(tuple(("object" if i % 2 else "part", mask) for i, mask in enumerate(masks)))
    split = Annotations((annotation,) * 3000)
    concepts = tuple(Concept(n, str(n), category) for category in ("object", "part") for n in (1, 2))
    tracemalloc.start()
    try:
        table = build_labels(split, concepts, transform=Transform((14, 14), "none"), patch_size=1, task="segmentation")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert table.slots.shape == (3000, 196, 4)
    assert peak < 2.2 * table.slots.nbytes


def test_classification_sees_only_what_the_crop_keeps():
    mask = np.zeros((8, 16), np.int32)
    mask[:, 0], mask[:, 8] = 1, 2
    split = Annotations((Annotation((("object", mask),)),))
    table = build_labels(
        split, CONCEPTS, transform=Transform((8, 8), "family", 1.0), patch_size=4, task="classification"
    )
    assert carried(table) == [[{("object", 2)}]]


def test_the_crop_is_that_of_the_image_whatever_the_shape_of_its_mask():
    """A square mask over an oblong image: the central crop shows the middle half of the mask's columns."""
    mask = np.array([[1, 2, 300, 1]], np.int32).repeat(4, 0)
    split = Annotations((Annotation((("object", mask),), image_size=(8, 16)),))
    table = build_labels(split, CONCEPTS, transform=Transform((8, 8), "family", 1.0), patch_size=4, task="segmentation")
    assert carried(table) == [[{("object", 2)}, {("object", 300)}] * 2]


def test_labels_that_are_not_probed_still_vote():
    mask = np.array([[7, 7, 7, 1]], np.int32).repeat(4, 0)
    split = Annotations((Annotation((("object", mask),)),))
    table = build_labels(split, CONCEPTS[:1], transform=Transform((4, 4), "none"), patch_size=4, task="segmentation")
    assert carried(table) == [[set()]]


def test_patch_size_must_divide_the_image():
    with pytest.raises(InputError, match=r"--image_size: 8 x 8 is not a multiple of the patch size 3"):
        build_labels(Annotations(()), CONCEPTS, transform=WHOLE, patch_size=3, task="segmentation")


def test_unfit_mask_ends_the_building(tmp_path):
    write_image(tmp_path / "images/a.jpg")
    write_mask(tmp_path / "images/object.png", [[5, 5], [5, 5]])
    write_tables(tmp_path, ["a.jpg,train,8,8,2,2,,object.png,,,,"])
    dataset = open_broden(tmp_path, "broden:tiny")
    with pytest.raises(InputError, match=r"object.png: holds label 5"):
        build_labels(dataset.splits["train"], dataset.concepts, transform=WHOLE, patch_size=4, task="segmentation")


def test_real_masks_agree_with_a_plain_loop(shared_data):
    dataset = open_broden(shared_data / "camvid_broden", "x").select(("object",))
    split, transform = dataset.splits["val"], Transform((224, 224), "family")
    table = build_labels(split, dataset.concepts, transform=transform, patch_size=16, task="segmentation")
    assert table.slots.shape == (101, 196, 1)
    numbers = np.array([0, *(concept.number for concept in dataset.concepts)])
    for i in range(0, 101, 20):
        mask = transform.mask(split.annotation(i).masks[0][1], (224, 224))
        np.testing.assert_array_equal(numbers[table.slots[i, :, 0]], majority_by_loop(mask, 16))
