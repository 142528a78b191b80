import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save

from vitprobe_jax.backbones.loading import load_backbone
from vitprobe_jax.errors import InputError
from vitprobe_jax.probes.templates import Templates, check_finite, load_templates, save_templates
from vitprobe_jax.types import HYPERPLANE_RULES, RULES, Concept

CONCEPTS = (Concept(3, "sky", "object"), Concept(300, "sky", "material"))


def make(rule="hyperplane", task="segmentation", width=96, shots=(1, 5)):
    rng = np.random.default_rng(0)
    if rule in HYPERPLANE_RULES:
        arrays = {
            "w": rng.standard_normal((2, width)),
            "b": rng.standard_normal(2),
            "shift": rng.standard_normal(width),
        }
    else:
        arrays = {
            "alpha": rng.standard_normal((len(shots), 3, 2, width)),
            "t": rng.uniform(-0.2, 0.2, (len(shots), 3, 2)),
            "shift": rng.standard_normal(width),
            "scale": np.where(np.arange(width) == 7, np.inf, rng.uniform(0.5, 2, width)),  # One feature is left out.
        }
    return Templates(
        task=task,
        backbone="untrained_dino_tiny",
        layer=1,
        token="k",
        rule=rule,
        concepts=CONCEPTS,
        arrays={name: array.astype(np.float64 if name == "b" else np.float32) for name, array in arrays.items()},
        shots=() if rule in HYPERPLANE_RULES else shots,
    )


@pytest.mark.parametrize("rule", RULES)
def test_round_trip(tmp_path, rule):
    templates = make(rule)
    save_templates(tmp_path / "t.safetensors", templates)
    loaded = load_templates(tmp_path / "t.safetensors")
    for name, array in templates.arrays.items():
        np.testing.assert_array_equal(loaded.arrays[name], array)
        assert loaded.arrays[name].dtype == array.dtype
    assert dataclasses.replace(loaded, arrays={}) == dataclasses.replace(templates, arrays={})
    assert [path.name for path in tmp_path.iterdir()] == ["t.safetensors"]


@pytest.mark.parametrize("rule", RULES)
def test_some_templates_give_their_columns_of_all_margins(rule):
    rows = np.random.default_rng(1).standard_normal((4, 5, 96)).astype(np.float32)
    templates = make(rule)
    margins = np.asarray(templates.margins(rows))
    by_concept = margins.reshape(4, 5, *([] if rule in HYPERPLANE_RULES else [2, 3]), 2)
    taken = templates.take([1, 0, 1])
    assert taken.concepts == tuple(templates.concepts[i] for i in (1, 0, 1))
    np.testing.assert_allclose(taken.margins(rows), by_concept[..., [1, 0, 1]].reshape(4, 5, -1), rtol=1e-4, atol=1e-5)
    single = templates.most_shots()
    assert single.shots == (() if rule in HYPERPLANE_RULES else (5,))
    wanted = by_concept if rule in HYPERPLANE_RULES else by_concept[:, :, 1, 0]
    np.testing.assert_allclose(single.margins(rows), wanted, rtol=1e-4, atol=1e-5)


def test_margins_equal_numpy():
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((4, 5, 96)).astype(np.float32)
    plane = make("hyperplane")
    expected = rows @ plane.arrays["w"].T - plane.arrays["b"]
    np.testing.assert_allclose(plane.margins(rows), expected, rtol=1e-4, atol=1e-5)
    few_shot = make("cosine")
    z = (rows - few_shot.arrays["shift"]) / few_shot.arrays["scale"]
    alpha, t = few_shot.arrays["alpha"].reshape(-1, 96), few_shot.arrays["t"].reshape(-1)
    cosines = z @ alpha.T / np.linalg.norm(z, axis=-1, keepdims=True) / np.linalg.norm(alpha, axis=-1)
    np.testing.assert_allclose(few_shot.margins(rows), cosines - t, rtol=1e-4, atol=1e-5)


def test_margins_keep_the_digits_of_rows_of_large_means():
    rng = np.random.default_rng(2)
    shift = np.full(96, 1e4, np.float32)
    rows = (shift + 1e-2 * rng.standard_normal((50, 96))).astype(np.float32)
    w = 100 * rng.standard_normal((2, 96)).astype(np.float32)
    b = w.astype(np.float64) @ shift.astype(np.float64) + [0.5, -0.25]
    plane = dataclasses.replace(make(), arrays={"w": w, "b": b, "shift": shift})
    expected = rows.astype(np.float64) @ w.astype(np.float64).T - b
    assert 3 < expected.std() < 30
    np.testing.assert_allclose(plane.margins(rows), expected, rtol=0, atol=1e-4)


def test_files_without_a_shift_give_the_margins_that_they_gave(tmp_path):
    """Written by hand in the form that files had before: `w` and `b` in float32 and nothing else."""
    rng = np.random.default_rng(3)
    w, b = rng.standard_normal((2, 96)).astype(np.float32), rng.standard_normal(2).astype(np.float32)
    record = {
        "task": "segmentation",
        "backbone": "untrained_dino_tiny",
        "layer": 1,
        "token": "k",
        "rule": "hyperplane",
        "concepts": [dataclasses.asdict(concept) for concept in CONCEPTS],
        "shots": [],
        "dropped": 0,
    }
    content = save({"w": w, "b": b, "concepts": np.array([3, 300], np.int32)}, {"templates": json.dumps(record)})
    (tmp_path / "old.safetensors").write_bytes(content)
    templates = load_templates(tmp_path / "old.safetensors")
    rows = rng.standard_normal((7, 96)).astype(np.float32)
    before = jnp.einsum("...d,kd->...k", rows, w, precision=jax.lax.Precision.HIGHEST) - b[None]
    np.testing.assert_array_equal(templates.margins(rows), before)
    assert templates.take([1]).arrays["w"].shape == (1, 96)


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_templates_apply_to_new_images(task):
    backbone = load_backbone("untrained_dino_tiny")
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3)).astype(np.uint8)
    templates = make(task=task)
    found = templates.predict(backbone, images)
    tokens = np.asarray(backbone.tokens(images, [(1, "k")])[1, "k"])
    scores = tokens @ templates.arrays["w"].T - templates.arrays["b"]
    if task == "classification":
        np.testing.assert_array_equal(found, scores[:, 0] >= 0)
    else:
        # Row-major patches of 8 pixels, [CLS] left out.
        np.testing.assert_array_equal(found, (scores[:, 1:] >= 0).reshape(2, 4, 6, 2))


def test_another_backbone_is_refused():
    images = np.zeros((1, 32, 32, 3), np.uint8)
    with pytest.raises(InputError, match="fitted on untrained_dino_tiny, not on untrained_mae_tiny"):
        make().predict(load_backbone("untrained_mae_tiny"), images)


def test_a_damaged_file_is_one_line(tmp_path):
    path = tmp_path / "t.safetensors"
    with pytest.raises(InputError, match=r"t\.safetensors"):
        load_templates(path)
    save_templates(path, make())
    whole = path.read_bytes()
    for length in (0, 5, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"t\.safetensors"):
            load_templates(path)


def test_templates_that_are_not_finite_are_found():
    w, b = np.zeros((3, 4), np.float32), np.zeros(3, np.float32)
    assert check_finite(w, b) == {}
    w[1, 2], b[2] = np.nan, np.inf
    assert sorted(check_finite(w, b)) == [1, 2]
    assert check_finite(w[:0], b[:0]) == {}
    assert check_finite(b, what="the loss") == {2: "diverged: the loss is not finite"}
