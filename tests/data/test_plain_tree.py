"""Reading a plain tree: the values of every kind of PNG, the seeded split."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.plain_tree import save_mask, write_tree
from vitprobe_jax.data.plain_tree import draw_splits, read_mask, read_tree
from vitprobe_jax.types import Concept

MASK = np.arange(96).reshape(8, 12) % 2


def write_grey(path, values, bits):
    """A grey PNG of 1, 2 or 4 bits a pixel, by the format's own rules: pillow writes none."""
    height, width = values.shape
    shifts = np.arange(8 - bits, -1, -bits)
    packed = (values.reshape(height, -1, len(shifts)) << shifts).sum(-1).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("kind", "largest"), [("I;16", 65535), ("L", 255), ("P", 255), ("1", 1)])
def test_a_pixels_value_is_its_number_in_every_kind_of_png(tmp_path, kind, largest):
    labels = np.linspace(0, largest, 96).astype(int).reshape(8, 12)
    save_mask(tmp_path / "mask.png", labels, kind=kind)
    found = read_mask(tmp_path / "mask.png")
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, labels)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_is_not_stretched(tmp_path, bits):
    labels = np.arange(8 * 16).reshape(8, 16) % 2**bits
    write_grey(tmp_path / "mask.png", labels, bits)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), labels)


def test_ignored_values_are_no_label(tmp_path):
    save_mask(tmp_path / "mask.png", [[1, 255], [254, 0]], kind="L")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", (255, 254)), [[1, 0], [0, 0]])


def test_a_tree_is_listed_by_name_with_subfolders_and_without_what_is_hidden(tmp_path):
    write_tree(tmp_path, {"b/x.y.png": MASK, "a.jpg": MASK})
    for extra in ("images/.DS_Store", "images/notes.txt", "masks/.x.png"):
        (tmp_path / extra).write_text("")
    tree = read_tree(tmp_path)
    assert tree.images == ("a.jpg", "b/x.y.png")
    assert tree.mask_path("b/x.y.png") == tmp_path / "masks/b/x.y.png"
    assert tree.concepts == (
        Concept(1, "sky", "object"),
        Concept(2, "grass", "material"),
        Concept(7, "cat", "object"),
        Concept(300, "wheel", "part"),
    )
    assert tree.splits is None


def test_tables_may_come_from_a_spreadsheet(tmp_path):
    """A byte order mark, CR LF, quotes, blank lines at the end, other columns."""
    write_tree(tmp_path, {"a.jpg": MASK, "b.jpg": MASK})
    (tmp_path / "names.csv").write_bytes('\ufeffname, number,colour\r\n"cat, tabby",3,red\r\n,,\r\n\r\n'.encode())
    (tmp_path / "split.csv").write_bytes(b"split,image\r\ntrain,b.jpg\r\nval,a.jpg\r\n")
    tree = read_tree(tmp_path)
    assert tree.concepts == (Concept(3, "cat, tabby", "object"),)
    assert tree.splits == {"a.jpg": "val", "b.jpg": "train"}


names = st.lists(st.text(min_size=1, max_size=5), min_size=2, max_size=40, unique=True)


@given(names, st.floats(0.01, 0.99), st.integers(0, 2**32))
def test_the_split_has_its_share_and_hangs_on_names_alone(images, share, seed):
    splits = draw_splits(images, val_share=share, seed=seed)
    held_out = sum(split == "val" for split in splits.values())
    assert held_out == min(max(round(share * len(images)), 1), len(images) - 1)
    assert draw_splits(images[::-1], val_share=share, seed=seed) == splits
    if len(images) > 2:
        fewer = draw_splits(images[:-1], val_share=share, seed=seed)
        assert sum(splits[name] != split for name, split in fewer.items()) <= 1


def test_another_seed_draws_others():
    images = [f"{i}.jpg" for i in range(100)]
    assert draw_splits(images, val_share=0.5, seed=0) != draw_splits(images, val_share=0.5, seed=1)
