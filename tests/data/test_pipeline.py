import json
import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

import grain
import numpy as np
import pytest

from tests.data.broden_tree import write_image
from vitprobe_jax.data.dataset import ImageSubset, draw_subset
from vitprobe_jax.data.imagefolder import open_imagefolder
from vitprobe_jax.data.pipeline import image_batches
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.errors import InputError

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
    assert [(batch.first, batch.num_valid) for batch in batches] == [(0, 4), (4, 4), (8, 3)]
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


def assert_equal_batches(left, right):
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a.images, b.images)
        assert (a.first, a.num_valid, a.errors) == (b.first, b.num_valid, b.errors)


def test_worker_processes_give_the_same_batches(split):
    here = list(image_batches(split, TRANSFORM, batch_size=2))
    assert len(here) == 6
    assert_equal_batches(here, image_batches(split, TRANSFORM, batch_size=2, num_workers=2))


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_what_is_left_after_a_stop_comes_as_without_it(split, num_workers):
    """The state is taken while batches beyond it are decoded already, and goes through JSON to another iterator."""
    undisturbed = list(image_batches(split, TRANSFORM, batch_size=2))
    stopped = image_batches(split, TRANSFORM, batch_size=2, num_workers=num_workers)
    for _ in range(3):
        next(stopped)
    state = json.loads(json.dumps(stopped.get_state()))
    stopped.close()
    resumed = image_batches(split, TRANSFORM, batch_size=2, num_workers=num_workers)
    resumed.set_state(state)
    assert_equal_batches(undisturbed[3:], resumed)
    # An iterator that is at its end can go back.
    resumed.set_state({"next_image": 8})
    assert_equal_batches(undisturbed[4:], resumed)


@pytest.mark.slow
def test_a_state_holds_for_other_workers_and_batch_sizes(split):
    stopped = image_batches(split, TRANSFORM, batch_size=4, num_workers=1)
    next(stopped)
    resumed = image_batches(split, TRANSFORM, batch_size=3)
    resumed.set_state(stopped.get_state())
    stopped.close()
    batches = list(resumed)
    assert [(batch.first, batch.num_valid) for batch in batches] == [(4, 3), (7, 3), (10, 1)]
    np.testing.assert_array_equal(batches[1].images[0], TRANSFORM.image(split.image(7)))
    assert resumed.get_state() == {"next_image": 11}


def test_grain_saves_and_restores_the_state(split, tmp_path):
    handler = grain.checkpoint.CheckpointHandler()
    stopped = image_batches(split, TRANSFORM, batch_size=4)
    next(stopped)
    handler.save(tmp_path, stopped)
    restored = handler.restore(tmp_path, image_batches(split, TRANSFORM, batch_size=4))
    assert_equal_batches(stopped, restored)


@pytest.mark.parametrize("state", [{}, {"next_image": 12}, {"next_image": -1}, {"next_image": "4"}])
def test_a_state_of_something_else_is_refused(split, state):
    with pytest.raises(InputError, match="no place in a split of 11 images; give"):
        image_batches(split, TRANSFORM, batch_size=4).set_state(state)


@pytest.mark.parametrize("processes", [2, 4])
def test_the_parts_of_all_processes_are_the_split(split, processes):
    """Parts are whole shards of images; those of 3 images divide neither the split nor any batch."""
    shards = np.array_split(np.arange(11), range(3, 11, 3))
    batches = []
    for chosen in np.array_split(np.arange(len(shards)), processes):
        indices = np.concatenate([shards[shard] for shard in chosen])
        part = image_batches(ImageSubset(split, indices), TRANSFORM, batch_size=2)
        batches += [(indices[0], batch) for batch in part]
    [whole] = image_batches(split, TRANSFORM, batch_size=11)
    images = np.concatenate([batch.images[: batch.num_valid] for _, batch in batches])
    np.testing.assert_array_equal(images, whole.images)
    errors = [(start + index, message) for start, batch in batches for index, message in batch.errors]
    assert tuple(errors) == whole.errors


@pytest.mark.slow
def test_more_workers_than_batches(split):
    subset = draw_subset(split, 3, seed=0)
    [batch] = image_batches(subset, TRANSFORM, batch_size=8, num_workers=2)
    assert batch.num_valid == 3


def shared_memory():
    """Names of the blocks of memory that processes share, where the system lists them."""
    folder = Path("/dev/shm")
    return {path.name for path in folder.iterdir() if path.name.startswith("psm_")} if folder.is_dir() else set()


@pytest.mark.parametrize("read", [1, 6])
def test_a_reader_that_stops_leaves_no_worker_and_no_shared_memory(split, read):
    before = shared_memory()
    iterator = image_batches(split, TRANSFORM, batch_size=2, num_workers=2)
    iterator.start_prefetch()
    assert until(lambda: len(multiprocessing.active_children()) == 2)
    for _ in range(read):
        next(iterator)
    iterator.close()
    assert multiprocessing.active_children() == []
    assert until(lambda: shared_memory() <= before)
    with pytest.raises(ValueError, match="closed"):
        next(iterator)


def test_an_iterator_that_is_left_open_ends_quietly(split):
    """In a process of its own, which exits with an iterator half read."""
    lines = [
        "from vitprobe_jax.data.imagefolder import open_imagefolder",
        "from vitprobe_jax.data.pipeline import image_batches",
        "from vitprobe_jax.data.transforms import Transform",
        "if __name__ == '__main__':",
        f"    split = open_imagefolder({str(split.folder)!r}, 'x').splits['train']",
        "    batches = image_batches(split, Transform((16, 16)), batch_size=2, num_workers=2)",
        "    print(next(batches).num_valid)",
    ]
    script = split.folder / "left_open.py"
    script.write_text("\n".join(lines))
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("2\n", "")


def until(condition, seconds=5.0):
    """Whether the condition comes true: grain starts workers and gives shared memory back in threads."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_an_exception_that_is_no_bad_input_is_not_swallowed(split):
    class Broken:
        def __len__(self):
            return 1

        def image(self, index):
            raise ZeroDivisionError

        name = annotation = image

    iterator = image_batches(Broken(), TRANSFORM, batch_size=1)
    for _ in range(2):  # The second call does not step over the image.
        with pytest.raises(ZeroDivisionError):
            next(iterator)


def test_an_empty_split_has_no_batches(split):
    nothing = type(split)(split.folder, (), (), ())
    assert list(image_batches(nothing, TRANSFORM, batch_size=2)) == []
