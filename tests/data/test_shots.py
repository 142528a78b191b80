import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from tests.data.ade20k_tree import write_ade20k
from vitprobe_jax.data.ade20k import open_ade20k
from vitprobe_jax.data.cityscapes import open_cityscapes
from vitprobe_jax.data.dataset import Annotation
from vitprobe_jax.data.shots import draw_shots
from vitprobe_jax.errors import InputError

NAMES = ("a", "b", "c", "d")


class Ungrouped:
    """A split of names alone."""

    def __init__(self, size):
        self.count = size

    def __len__(self):
        return self.count

    def name(self, index):
        return str(index)

    def image(self, index):
        return Image.new("RGB", (2, 2))

    def annotation(self, index):
        return Annotation()


class Grouped(Ungrouped):
    """The groups of each image, and which of them were asked for."""

    def __init__(self, members, group_names=NAMES):
        super().__init__(len(members))
        self.members, self.group_names, self.asked = members, group_names, []

    def groups(self, index):
        self.asked.append(index)
        return tuple(self.members[index])


cities = st.lists(st.sampled_from(NAMES).map(lambda name: (name,)), max_size=40)
classes = st.lists(st.lists(st.sampled_from(NAMES), unique=True).map(tuple), max_size=30)
counts = st.integers(1, 6)


@given(cities, counts, st.integers(0, 3))
def test_every_city_gives_so_many_images_or_all_it_has(members, count, seed):
    draw = draw_shots(Grouped(members), (count,), seed)
    has = {name: members.count((name,)) for name in NAMES}
    for name in NAMES:
        ranks = [rank for image, rank in zip(draw.images, draw.rank, strict=True) if members[image] == (name,)]
        assert sorted(ranks) == list(range(min(count, has[name])))
    assert draw.lacking == {name: number for name, number in has.items() if number < count}
    assert draw.images.tolist() == sorted(set(draw.images.tolist()))


@given(classes, counts, st.integers(0, 3))
def test_an_image_of_several_classes_counts_for_one(members, count, seed):
    draw = draw_shots(Grouped(members), (count,), seed)
    short = {name: draw.lacking.get(name, count) for name in NAMES}
    assert all(number < count for number in draw.lacking.values())
    assert len(draw.images) == sum(short.values())
    # At every rank the images can be given to different classes, each showing its own.
    for rank in range(count):
        images = draw.images[draw.rank == rank]
        assert len(images) == sum(number > rank for number in short.values())
        shows = csr_matrix([[name in members[i] for name in NAMES] for i in images] or np.zeros((1, 4)), dtype=int)
        assert (maximum_bipartite_matching(shows, perm_type="column") >= 0).sum() == len(images)
    # What is lacking is not lying about.
    left = set(range(len(members))) - set(draw.images.tolist())
    assert all(not set(members[i]) & set(draw.lacking) for i in left)


@settings(max_examples=60)
@given(classes, st.lists(counts, min_size=1, max_size=3), st.integers(0, 3))
def test_a_smaller_draw_is_part_of_the_larger_whatever_else_is_asked_for(members, many, seed):
    draw = draw_shots(Grouped(members), many, seed)
    everything = draw_shots(Grouped(members), (*many, 0), seed)
    assert everything.images.tolist() == list(range(len(members)))
    assert everything.lacking == draw.lacking
    for count in many:
        alone = draw_shots(Grouped(members), (count,), seed)
        for larger in (draw, everything):
            part = larger.rank < count
            assert larger.images[part].tolist() == alone.images.tolist()
            assert larger.rank[part].tolist() == alone.rank.tolist()


def test_the_seed_decides_and_nothing_else():
    members = [(NAMES[i % 4],) for i in range(200)]
    first, again, other = (draw_shots(Grouped(members), (2, 8), seed) for seed in (0, 0, 1))
    assert first.images.tolist() == again.images.tolist() != other.images.tolist()
    assert first.rank.tolist() == again.rank.tolist()


def test_images_of_a_city_are_equally_likely():
    members = [("a",)] * 6
    drawn = np.zeros(6)
    for seed in range(600):
        drawn[draw_shots(Grouped(members, ("a",)), (2,), seed).images] += 1
    # Binomial of 600 and 1/3: a deviation of 11.5, so five of them.
    assert np.abs(drawn - 200).max() < 58


def test_rare_classes_are_not_robbed():
    """The rare class is in 4 images of 400, all of which show the common one as well."""
    members = [("a", "b") if i % 100 == 50 else ("a",) for i in range(400)]
    for seed in range(20):
        draw = draw_shots(Grouped(members, ("a", "b")), (4,), seed)
        assert draw.lacking.get("b", 4) >= 3
        assert "a" not in draw.lacking


def test_no_more_groups_are_read_than_it_takes():
    split = Grouped([(NAMES[i % 4],) for i in range(10_000)])
    draw_shots(split, (4,), 0)
    assert 16 <= len(split.asked) <= 256
    split.asked.clear()
    assert draw_shots(split, (0,), 0).images.tolist() == list(range(10_000))
    assert split.asked == []


def test_a_split_without_groups_is_one():
    draw = draw_shots(Ungrouped(9), (2, 4), 0)
    assert sorted(draw.rank) == [0, 1, 2, 3]
    assert draw.lacking == {}
    few = draw_shots(Ungrouped(3), (4,), 0)
    assert few.images.tolist() == [0, 1, 2]
    assert few.lacking == {"all": 3}


def test_images_of_no_group_are_in_the_draw_of_all_alone():
    draw = draw_shots(Grouped([(), ("a",), ()], ("a",)), (1, 0), 0)
    assert draw.rank.tolist() == [3, 0, 3]


def taken_in_turn(members, names, count, order):
    """Group after group, as appendix A.4 has it: images that show it, then removed from the cohort."""
    cohort, taken = list(order), {}
    for name in names:
        taken[name] = [image for image in cohort if name in members[image]][:count]
        cohort = [image for image in cohort if image not in taken[name]]
    return taken


@given(classes, counts, st.integers(0, 3))
def test_groups_in_turn_take_what_those_before_them_left(members, count, seed):
    # The order of the draw is that in which a draw of all as one group ranks them.
    everything = draw_shots(Ungrouped(len(members)), (len(members) or 1, 0), seed)
    order = everything.images[np.argsort(everything.rank)]
    expected = taken_in_turn(members, NAMES, count, order.tolist())
    for asked in ((count,), (count, 0)):
        draw = draw_shots(Grouped(members), asked, seed, in_turn=True)
        ranks = {image: rank for image, rank in zip(draw.images.tolist(), draw.rank.tolist(), strict=True)}
        drawn = {image: rank for image, rank in ranks.items() if rank < count}
        assert drawn == {image: rank for images in expected.values() for rank, image in enumerate(images)}
        assert draw.lacking == {name: len(images) for name, images in expected.items() if len(images) < count}
        assert len(ranks) == (len(members) if 0 in asked else len(drawn))


@pytest.mark.parametrize("wrong", [(), (-1,), (4, -2)])
def test_no_number_of_images_is_one_line(wrong):
    with pytest.raises(
        InputError, match=r"^--images_per_group, --val_images_per_group: \[.*give 1 or more, or 0 for all$"
    ):
        draw_shots(Ungrouped(4), wrong, 0)


def test_four_images_a_class_of_a_tree(tmp_path):
    train = open_ade20k(write_ade20k(tmp_path, counts={"train": 30, "val": 1}), "x").splits["train"]
    draw = draw_shots(train, (1, 2), 0)
    assert draw.lacking == {}
    assert len(draw.images) == 2 * len(train.group_names)
    (tmp_path / train.pairs[draw.images[0]].mask).write_bytes(b"no PNG")
    with pytest.raises(InputError, match=r"ADE_train_.*png: cannot be decoded"):
        draw_shots(train, (2,), 0)


def test_images_a_city_of_real_photographs(shared_data):
    folder = shared_data / "camvid_cityscapes"
    if not folder.is_dir():
        pytest.skip(f"no photographs in Cityscapes' layout at {folder}")
    train = open_cityscapes(folder, "x").splits["train"]
    draw = draw_shots(train, (2, 4, 8), 0)
    for count in (2, 4, 8):
        cities = [train.cities[i] for i in draw.images[draw.rank < count]]
        assert {city: cities.count(city) for city in train.group_names} == dict.fromkeys(train.group_names, count)
    assert draw_shots(dataclasses.replace(train, group_names=(*train.group_names, "x")), (12,), 0).lacking == {
        "0001tp": 11,
        "x": 0,
    }
