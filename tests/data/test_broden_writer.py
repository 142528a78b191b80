"""Broden folders that are written are read back: every label, every count, no trace of a failure."""

import csv
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.data.broden_tree import write_image
from vitprobe_jax.data.broden import CATEGORIES, open_broden
from vitprobe_jax.data.broden_writer import place_image, whole_folder, write_tables
from vitprobe_jax.errors import InputError
from vitprobe_jax.types import Concept

CONCEPTS = [
    Concept(number, f"{category} {number}", category)
    for number, category in zip((1, 2, 255, 256, 300, 65535), (*CATEGORIES[1:], "object"), strict=True)
]
OF_NUMBER = {concept.number: concept.category for concept in CONCEPTS}


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    path = tmp_path_factory.mktemp("photograph") / "a.jpg"
    write_image(path, 8, 12)
    return path


def write(output, photograph, masks):
    splits = {f"{i}.jpg": "val" if i % 2 else "train" for i in range(len(masks))}
    with whole_folder(output) as folder:
        placed = [
            place_image(folder, f"{i}.jpg", photograph, mask, photograph, OF_NUMBER) for i, mask in enumerate(masks)
        ]
        shown = write_tables(folder, CONCEPTS, placed, splits)
    return shown


drawn = hnp.arrays(np.int32, (4, 6), elements=st.sampled_from([0, *OF_NUMBER]))


@given(st.lists(drawn, min_size=2, max_size=4))
def test_every_pixel_keeps_its_label_and_every_count_is_right(tmp_path_factory, photograph, masks):
    output = tmp_path_factory.mktemp("made") / "out"
    shown = write(output, photograph, masks)
    dataset = open_broden(output, "broden:out")
    assert set(dataset.concepts) == set(CONCEPTS)
    for i, mask in enumerate(masks):
        split = dataset.splits["val" if i % 2 else "train"]
        annotation = split.annotation(i // 2)
        assert split.name(i // 2) == f"{i}.jpg"
        assert split.image(i // 2).size == (12, 8)
        assert annotation.labels == ()
        rebuilt = np.zeros_like(mask)
        for category, labels in annotation.masks:
            assert {OF_NUMBER[number] for number in np.unique(labels).tolist() if number} == {category}
            rebuilt += labels
        np.testing.assert_array_equal(rebuilt, mask)

    of_number = {int(row["number"]): row for row in table(output / "label.csv")}
    for concept in CONCEPTS:
        row = of_number[concept.number]
        frequency = sum(bool((mask == concept.number).any()) for mask in masks)
        assert int(row["frequency"]) == frequency == sum(shown[concept].values())
        assert float(row["coverage"]) == pytest.approx(sum((mask == concept.number).mean() for mask in masks), abs=1e-6)
        assert (row["name"], row["category"]) == (concept.name, f"{concept.category}({frequency})")


def test_the_tables_of_categories_add_up(tmp_path, photograph):
    masks = [np.full((8, 12), 1), np.array([[1, 65535]] * 3 + [[2, 0]]).repeat(2, 0).repeat(6, 1)]
    write(tmp_path / "out", photograph, masks)
    assert table(tmp_path / "out/category.csv")[0] == {
        "name": "object",
        "first": "1",
        "last": "65535",
        "count": "2",
        "frequency": "3",
    }
    assert table(tmp_path / "out/c_object.csv") == [
        {"code": "1", "number": "1", "name": "object 1", "frequency": "2", "coverage": "1.375000"},
        {"code": "2", "number": "65535", "name": "object 65535", "frequency": "1", "coverage": "0.375000"},
    ]
    assert not (tmp_path / "out/c_color.csv").exists()


def test_nothing_is_left_of_a_folder_that_failed(tmp_path):
    def fail():
        with whole_folder(tmp_path / "deep/out") as folder:
            (folder / "images").mkdir()
            raise InputError("something")

    with pytest.raises(InputError, match="something"):
        fail()
    assert os.listdir(tmp_path / "deep") == []


def test_an_output_with_anything_in_it_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    with whole_folder(tmp_path / "out"):  # An empty one is taken.
        pass
    (tmp_path / "out/mine").write_text("")
    with pytest.raises(InputError, match="not an empty folder"), whole_folder(tmp_path / "out"):
        pass
    assert os.listdir(tmp_path) == ["out"]
    with pytest.raises(InputError, match="--output"), whole_folder(tmp_path / "out/mine/inner"):
        pass
