import ml_dtypes
import numpy as np
import pytest

from vitprobe_jax.errors import InputError
from vitprobe_jax.features.cache import FeatureCache
from vitprobe_jax.features.extract import Features


def make(cells=((0, "q"), (3, "x2")), dtype=np.float32):
    rng = np.random.default_rng(0)
    rows = {cell: rng.standard_normal((7, 9, 4)).astype(dtype) for cell in cells}
    return Features(rows, np.array([0, 1, 2, 4, 5, 6, 7]), ("3.jpg: cannot be decoded",))


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_round_trip(tmp_path, dtype):
    cache, features = FeatureCache(tmp_path, {"weights": "a"}), make(dtype=dtype)
    cache.save("train", features)
    assert cache.present("train", [*features.rows, (1, "q")]) == list(features.rows)
    assert cache.present("val", list(features.rows)) == []
    loaded = cache.load("train", list(features.rows))
    for cell, rows in features.rows.items():
        assert loaded.rows[cell].dtype == dtype
        np.testing.assert_array_equal(loaded.rows[cell], rows)
    np.testing.assert_array_equal(loaded.kept, features.kept)
    assert loaded.errors == features.errors


def test_other_weights_never_mix(tmp_path):
    FeatureCache(tmp_path, {"weights": "a"}).save("train", make())
    assert FeatureCache(tmp_path, {"weights": "b"}).present("train", [(0, "q")]) == []


def test_a_half_written_array_is_absent(tmp_path):
    cache = FeatureCache(tmp_path, {})
    cache.save("train", make())
    next(cache.folder.glob("train/0_q/commit.json")).unlink()
    assert cache.present("train", [(0, "q"), (3, "x2")]) == [(3, "x2")]


def test_a_flipped_byte_is_named(tmp_path):
    cache = FeatureCache(tmp_path, {})
    cache.save("train", make())
    shard = next(path for path in cache.folder.glob("train/0_q/c/**/*") if path.is_file())
    damaged = bytearray(shard.read_bytes())
    damaged[10] ^= 1
    shard.write_bytes(damaged)
    with pytest.raises(InputError, match="0_q is damaged"):
        cache.load("train", [(0, "q")])
