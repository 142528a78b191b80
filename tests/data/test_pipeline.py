import numpy as np
import pytest

from tests.data.broden_tree import write_image
from vitprobe_jax.data.dataset import draw_subset
from vitprobe_jax.data.imagefolder import open_imagefolder
from vitprobe_jax.data.pipeline import image_batches
from vitprobe_jax.data.transforms import Transform

TRANSFORM = Transform((16, 16))


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Eleven images of many sizes, the sixth of them broken."""
    folder = tmp_path_factory.mktemp("images")
    for i in range(11):
        write_image(folder / f"train/a/{'x' * i}{i:02d}.png", 20 + i, 30 - i)
    write_image(folder / "val/a/0.png")
    dataset = open_imagefolder(folder, "x")
    path = folder / dataset.splits["train"].name(5)
    path.write_bytes(path.read_bytes()[:-40])
    return dataset.splits["train"]


def test_batches_hold_the_split_in_order_padded_with_zeros(split):
    batches = list(image_batches(split, TRANSFORM, batch_size=4))
    assert [batch.images.shape for batch in batches] == [(4, 16, 16, 3)] * 3
    assert [batch.num_valid for batch in batches] == [4, 4, 3]
    images = np.concatenate([batch.images for batch in batches])
    for i in range(11):
        expected = TRANSFORM.image(split.image(i)) if i != 5 else np.zeros((16, 16, 3))
        np.testing.assert_array_equal(images[i], expected)
    assert not images[11:].any()


def test_a_broken_image_is_named_by_its_place_in_the_split(split):
    first, second, third = image_batches(split, TRANSFORM, batch_size=4)
    assert first.errors == third.errors == ()
    [(index, message)] = second.errors
    assert index == 5
    assert split.name(5) in message
    assert message.endswith("replace the file")


def test_worker_processes_give_the_same_batches(split):
    here = list(image_batches(split, TRANSFORM, batch_size=2))
    there = list(image_batches(split, TRANSFORM, batch_size=2, num_workers=2))
    assert len(here) == len(there) == 6
    for a, b in zip(here, there, strict=True):
        np.testing.assert_array_equal(a.images, b.images)
        assert (a.num_valid, a.errors) == (b.num_valid, b.errors)


def test_more_workers_than_batches_and_a_reader_that_stops(split):
    subset = draw_subset(split, 3, seed=0)
    [batch] = image_batches(subset, TRANSFORM, batch_size=8, num_workers=2)
    assert batch.num_valid == 3
    iterator = image_batches(split, TRANSFORM, batch_size=2, num_workers=2)
    np.testing.assert_array_equal(next(iterator).images[0], TRANSFORM.image(split.image(0)))
    iterator.close()


def test_an_exception_that_is_no_bad_input_is_not_swallowed(split):
    class Broken:
        def __len__(self):
            return 1

        def image(self, index):
            raise ZeroDivisionError

        name = annotation = image

    with pytest.raises(ZeroDivisionError):
        list(image_batches(Broken(), TRANSFORM, batch_size=1))


def test_an_empty_split_has_no_batches(split):
    nothing = type(split)(split.folder, (), ())
    assert list(image_batches(nothing, TRANSFORM, batch_size=2)) == []
