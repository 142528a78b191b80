"""A backbone's folder: every bit comes back, one parameter after another is read, and it is never there in part."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, path_aware_map

from tests.backbones.random_vit import random_params, tiny
from vitprobe_jax.backbones.config import BackboneSpec
from vitprobe_jax.backbones.loading import load_backbone
from vitprobe_jax.backbones.saving import StreamedArray, params_digest, save_backbone, streamed
from vitprobe_jax.errors import InputError

SPEC = BackboneSpec(
    # Eleven blocks: `blocks_10` stands before `blocks_2` in the order of names.
    name="mine",
    family="dino",
    objective="none",
    config=tiny("dino", width=8, num_heads=2, depth=11, mlp_dim=12),
)


@pytest.fixture(scope="module")
def params() -> dict:
    return random_params(SPEC.config)


def reading(params, read: Callable[[StreamedArray], np.ndarray]) -> dict:
    """The tree with something else in the place of every parameter's `read`."""
    return path_aware_map(lambda _, leaf: dataclasses.replace(leaf, read=lambda: read(leaf)), streamed(params))


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_every_bit_comes_back(params, tmp_path):
    numbers = {**params, "cls_token": np.asarray(params["cls_token"]).copy()}
    # Among them what arithmetic would change: the smallest number there is, and a negative zero.
    numbers["cls_token"][0, 0, :2] = [1e-45, -0.0]
    spec = save_backbone(tmp_path / "out", SPEC, streamed(numbers), {}, extra={"note.txt": "hello"})
    assert spec == dataclasses.replace(SPEC, params_sha256=params_digest(numbers))
    loaded = load_backbone(str(tmp_path / "out"))
    assert loaded.spec == spec
    assert left(tmp_path / "out") == ["backbone.json", "note.txt", "params"]
    found, expected = flatten_dict(loaded.params), flatten_dict(numbers)
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        assert np.asarray(found[path]).tobytes() == np.asarray(value).tobytes(), path


def test_parameters_are_read_once_each_in_the_digests_order(params, tmp_path):
    read = []

    def note(leaf: StreamedArray) -> np.ndarray:
        read.append(leaf.path)
        return np.asarray(flatten_dict(params)[leaf.path])

    save_backbone(tmp_path / "out", SPEC, reading(params, note), {})
    assert read == sorted(flatten_dict(params))
    assert [path[0] for path in read].index("blocks_10") < [path[0] for path in read].index("blocks_2")


def test_the_digest_tells_names_and_values_apart(params):
    digest = params_digest(params)
    assert params_digest(jax.tree.map(np.asarray, params)) == digest
    swapped = {**params, "blocks_2": params["blocks_10"], "blocks_10": params["blocks_2"]}
    assert params_digest(swapped) != digest
    bumped = {**params, "cls_token": np.nextafter(np.asarray(params["cls_token"]), np.float32(9))}
    assert params_digest(bumped) != digest


@pytest.mark.parametrize("error", [InputError("the file is cut short"), RuntimeError("a bug")])
def test_nothing_is_left_when_a_parameter_cannot_be_read(params, tmp_path, error):
    def read(leaf: StreamedArray) -> np.ndarray:
        if leaf.path[0] == "blocks_5":
            raise error
        return np.asarray(flatten_dict(params)[leaf.path])

    with pytest.raises(type(error), match=str(error)):
        save_backbone(tmp_path / "out", SPEC, reading(params, read), {})
    assert left(tmp_path) == []


def test_what_was_read_is_checked_before_the_folder_appears(params, tmp_path):
    read, seen = [], []

    def note(leaf: StreamedArray) -> np.ndarray:
        read.append(leaf.path)
        return np.asarray(flatten_dict(params)[leaf.path])

    def check():
        seen.append((len(read), (tmp_path / "out").exists()))
        raise InputError("not finite")

    with pytest.raises(InputError, match="not finite"):
        save_backbone(tmp_path / "out", SPEC, reading(params, note), {}, check=check)
    assert seen == [(len(flatten_dict(params)), False)]
    assert left(tmp_path) == []


def test_a_folder_with_something_in_it_is_left_as_it_is(params, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"--output: .* cannot be written"):
        save_backbone(tmp_path / "out", SPEC, streamed(params), {})
    assert (left(tmp_path), left(tmp_path / "out")) == (["out"], ["mine.txt"])
