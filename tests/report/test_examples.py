"""Examples survive their files bit by bit; damaged files end in one line."""

import numpy as np
import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vitprobe_jax.errors import InputError
from vitprobe_jax.report.examples import LEFT_OUT, Example, Examples, masks_path, read_examples, write_examples


def example(truth, found, **fields):
    described = {
        "kind": "coverage",
        "backbone": "dino_vits16",
        "layer": 11,
        "token": "k",
        "rule": "hyperplane",
        "shots": None,
        "concept": 12,
        "name": "tree",
        "category": "object",
        "image": "a/b.jpg",
        "iou": 0.1 + 0.2,
        "choice": "paper",
    }
    return Example(**(described | fields), truth=truth, found=found)


def same(a, b):
    plain = all(getattr(a, name) == getattr(b, name) for name in vars(a) if name not in ("truth", "found"))
    return plain and np.array_equal(a.truth, b.truth) and np.array_equal(a.found, b.found)


SIDES = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(
    truth=SIDES.flatmap(lambda shape: hnp.arrays(np.uint8, shape, elements=st.integers(0, LEFT_OUT))), data=st.data()
)
@settings(max_examples=40, deadline=None)
def test_what_is_written_is_read(tmp_path_factory, truth, data):
    folder = epath.Path(tmp_path_factory.mktemp("out"))
    found = data.draw(hnp.arrays(np.uint8, truth.shape, elements=st.integers(0, 1)))
    rows = (
        example(truth, found),
        example(1 - found, found, kind="iou", choice="best", rule="cosine_centered", shots=500, image="ü, 'b'.png"),
    )
    images = {"ü, 'b'.png": b"\x00\xff", "a/b.jpg": b"\xff\xd8jpeg"}
    write_examples(folder, Examples(rows, images))
    read = read_examples(folder)
    assert read.images == images
    assert len(read.rows) == 2
    assert all(map(same, read.rows, rows))


@pytest.fixture
def written(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        example(*rng.integers(0, 2, (2, 14, 14), dtype=np.uint8), concept=k, image=f"{k}.jpg") for k in range(1, 30)
    ]
    images = {row.image: rng.bytes(500) for row in rows}
    write_examples(epath.Path(tmp_path), Examples(tuple(rows), images))
    return epath.Path(tmp_path)


def test_the_order_of_images_does_not_show_in_the_files(written):
    before = [path.read_bytes() for path in sorted((written / "examples").iterdir())]
    examples = read_examples(written)
    write_examples(written, Examples(examples.rows, dict(reversed(examples.images.items()))))
    assert [path.read_bytes() for path in sorted((written / "examples").iterdir())] == before


def test_a_folder_without_examples_and_one_of_a_stopped_sweep_have_none(written, tmp_path):
    assert read_examples(epath.Path(tmp_path / "nowhere")) is None
    masks_path(written).unlink()
    assert read_examples(written) is None


@pytest.mark.parametrize("file", ["masks.parquet", "images.parquet"])
@pytest.mark.parametrize("damage", ["empty", "cut", "text", "flipped", "gone"])
def test_damaged_files_end_in_one_line_that_names_them(written, file, damage):
    path = written / "examples" / file
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        content[len(content) // 3] ^= 0x55
        path.write_bytes(
            {"empty": b"", "cut": bytes(content[:-20]), "text": b"masks", "flipped": bytes(content)}[damage]
        )
    if (file, damage) == ("masks.parquet", "gone"):
        assert read_examples(written) is None
        return
    with pytest.raises(InputError) as raised:
        read_examples(written)
    assert file in str(raised.value)
    assert "\n" not in str(raised.value)


def test_files_that_do_not_belong_together_are_refused(written, tmp_path):
    other = epath.Path(tmp_path / "other")
    rows = read_examples(written).rows
    write_examples(other, Examples(rows[:1], {rows[0].image: b"jpeg"}))
    (other / "examples" / "images.parquet").copy(written / "examples" / "images.parquet", overwrite=True)
    with pytest.raises(InputError, match=r"10\.jpg, which images\.parquet lacks"):
        read_examples(written)
    (other / "examples" / "images.parquet").copy(masks_path(written), overwrite=True)
    with pytest.raises(InputError, match="not those of this version"):
        read_examples(written)


def test_an_example_whose_image_is_missing_is_not_written(tmp_path):
    masks = np.zeros((2, 2, 2), np.uint8)
    with pytest.raises(ValueError, match=r"a/b\.jpg"):
        write_examples(epath.Path(tmp_path), Examples((example(*masks),), {}))
    assert not masks_path(epath.Path(tmp_path)).exists()
