import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.test_image_labels import Labelled
from vitprobe_jax.data.subsets import draw_share, listed_subset
from vitprobe_jax.errors import InputError

SHARES = (0.01, 0.1, 0.25, 1.0)


class Grouped(Labelled):
    """The groups of each image; its labels are others."""

    group_names = ("a", "b", "c", "unseen")

    def __init__(self, groups):
        super().__init__(*([()] * len(groups)))
        self.members = groups

    def groups(self, index):
        return tuple(self.members[index])


def images_of(subset):
    return [int(subset.name(i).removesuffix(".jpg")) for i in range(len(subset))]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=80), st.integers(0, 3))
def test_shares_of_every_class_are_nested(classes, seed):
    split, smaller = Grouped(classes), set()
    for share in SHARES:
        drawn = images_of(draw_share(split, share, seed))
        assert drawn == sorted(set(drawn))
        counts = collections.Counter(classes[i] for i in drawn)
        assert counts == {name: max(1, round(share * classes.count(name))) for name in set(classes)}
        assert smaller <= set(drawn)
        smaller = set(drawn)
    assert drawn == list(range(len(classes)))


def test_a_draw_hangs_on_the_seed_and_takes_every_image_alike():
    """100 draws of 3 of 12: each image 25 times, give or take four standard deviations of 4.3."""
    split = Grouped(["a"] * 12 + ["b"])
    assert images_of(draw_share(split, 0.25, 5)) == images_of(draw_share(split, 0.25, 5))
    counts = collections.Counter(i for seed in range(100) for i in images_of(draw_share(split, 0.25, seed)))
    assert counts.pop(12) == 100
    assert sorted(counts) == list(range(12))
    assert all(abs(count - 25) < 18 for count in counts.values())


def test_a_share_of_a_multilabel_split_is_that_share_of_it():
    """a is everywhere, b in every fourth image, c in every eighth; the last ten show nothing."""
    groups = ["a" + "b" * (i % 4 == 0) + "c" * (i % 8 == 0) for i in range(160)] + [""] * 10
    drawn = images_of(draw_share(Grouped(groups), 0.1, 0))
    assert len(drawn) == 17
    assert sum("c" in groups[i] for i in drawn) == 2
    assert sum("b" in groups[i] for i in drawn) == 4
    assert sum("a" in groups[i] for i in drawn) == 16
    assert sum(not groups[i] for i in drawn) == 1


def test_without_groups_labels_are_the_classes():
    split = Labelled(*([(("class", 1),)] * 20 + [(("class", 2),)] * 10))
    assert [sum(i >= 20 for i in images_of(draw_share(split, share, 0))) for share in (0.01, 0.5)] == [1, 5]
    assert images_of(draw_share(split, 1.0, 0)) == list(range(30))


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, np.nan])
def test_what_is_no_share_is_refused(share):
    with pytest.raises(InputError, match=r"--train_share: .* is no share"):
        draw_share(Grouped(["a"]), share, 0)


class Named(Labelled):
    """A split of names alone."""

    def __init__(self, *names):
        super().__init__(*([()] * len(names)))
        self.names = names

    def name(self, index):
        return self.names[index]


SPLIT = Named(
    "train/cat/1.jpg", "train/cat/2.jpg", "train/dog/1.jpg", "train/dog/n3.jpg", "train/emu/cat/2.jpg", "dog/n3.jpg"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train/dog/n3.jpg\n", [3]),
        ("dog/n3.jpg\n", [5]),
        ("dog/n3.jpg\r\n\r\n  dog/1.jpg\ndog/n3.jpg", [2, 5]),
        ("train/emu/cat/2.jpg\ntrain/cat/1.jpg\n", [0, 4]),
        ("\ufefftrain/cat/2.jpg", [1]),
    ],
)
def test_lists_name_images_by_their_last_parts(tmp_path, text, expected):
    (tmp_path / "1percent.txt").write_text(text)
    subset = listed_subset(SPLIT, tmp_path / "1percent.txt")
    assert [subset.name(i) for i in range(len(subset))] == [SPLIT.names[i] for i in expected]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"dog/n3.jpg\nat/2.jpg\n4.jpg",
            r"list.txt: names 2 images that are not in the data set, the first is at/2.jpg",
        ),
        (b"1.jpg", r"list.txt: 1.jpg may be train/cat/1.jpg or train/dog/1.jpg"),
        (b"cat/2.jpg", r"may be train/cat/2.jpg or train/emu/cat/2.jpg"),
        (b" \n", r"list.txt: names no image"),
        (b"\xff\xfe", r"list.txt: is not UTF-8 text"),
        (None, r"list.txt: cannot be read"),
    ],
)
def test_lists_that_do_not_fit_end_in_one_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        listed_subset(SPLIT, tmp_path / "list.txt")
    assert "\n" not in str(caught.value)
