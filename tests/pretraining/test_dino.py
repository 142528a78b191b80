"""DINO's loss and memory against loops over crops, as the paper writes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.pretraining.tiny import make_dino, pictures
from vitprobe_jax.pretraining.dino import STUDENT_TEMPERATURE


@pytest.fixture(scope="module")
def dino():
    objective = make_dino()
    init = jax.jit(objective.init)
    params, memory = init(jax.random.key(0)), objective.init_memory(init(jax.random.key(5)))
    memory = {**memory, "center": jnp.linspace(-0.1, 0.1, 24)}
    return objective, params, memory, jax.random.split(jax.random.key(1), 3), jnp.asarray(pictures(3))


def softmax(x, temperature):
    e = np.exp((x - x.max(-1, keepdims=True)) / temperature)
    return e / e.sum(-1, keepdims=True)


@pytest.mark.slow
def test_the_loss_is_the_sum_over_pairs_of_crops(dino):
    objective, params, memory, keys, images = dino

    @jax.jit
    def compute(params, memory):
        found = objective.loss(params, memory, keys, images, jnp.int32(5), steps=20)
        crops = jax.vmap(objective._views, out_axes=1)(keys, images)
        said = jnp.concatenate([objective._project(params, part) for part in crops])
        return *found, said, objective._project(memory["teacher"], crops[0])

    loss, extra, said, taught = compute(params, memory)
    said, taught = np.asarray(said, np.float64), np.asarray(taught, np.float64)
    terms, center = [], np.asarray(memory["center"], np.float64)
    for g in range(2):
        q = softmax(taught[g] - center, objective.teacher_temperature)
        for v in range(len(said)):
            if v != g:
                terms.append(-(q * np.log(softmax(said[v], STUDENT_TEMPERATURE))).sum(-1))
    np.testing.assert_allclose(loss, np.mean(terms), rtol=1e-4)
    assert len(terms) == 2 * (4 - 1)
    np.testing.assert_allclose(extra["kept"]["center"], taught.mean(axis=(0, 1)), atol=1e-5)


def test_the_teacher_learns_by_averaging_alone(dino):
    objective, params, memory, keys, images = dino

    def loss_of_teacher(teacher):
        return objective.loss(params, {**memory, "teacher": teacher}, keys, images, jnp.int32(5), steps=20)[0]

    gradient = jax.jit(jax.grad(loss_of_teacher))(memory["teacher"])
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))
    kept = {"center": jnp.ones(24)}
    first = objective.remember(memory, params, kept, jnp.int32(0), steps=20)
    leaf = lambda tree: np.asarray(tree["encoder"]["pos_embed"])  # noqa: E731
    expected = 0.996 * leaf(memory["teacher"]) + 0.004 * leaf(params)
    np.testing.assert_allclose(leaf(first["teacher"]), expected, atol=1e-6)
    np.testing.assert_allclose(first["center"], 0.9 * np.asarray(memory["center"]) + 0.1, atol=1e-6)
    last = objective.remember(memory, params, kept, jnp.int32(20), steps=20)
    np.testing.assert_allclose(leaf(last["teacher"]), leaf(memory["teacher"]), atol=1e-7)


@pytest.mark.slow
def test_prototypes_are_of_unit_length_and_still_at_first(dino):
    objective, params, memory, keys, images = dino
    objective = make_dino(frozen_share=0.2)

    @jax.jit
    def gradient(step):
        return jax.grad(lambda p: objective.loss(p, memory, keys, images, step, steps=20)[0])(params)["head"]

    assert not np.any(gradient(jnp.int32(3))["prototypes"])
    assert np.any(gradient(jnp.int32(4))["prototypes"])
    assert np.any(gradient(jnp.int32(3))["fc3"]["kernel"])
    doubled = {**params["head"], "prototypes": 2 * params["head"]["prototypes"]}
    x = jax.random.normal(jax.random.key(0), (5, 16))
    outputs = [objective.head.apply({"params": head}, x) for head in (params["head"], doubled)]
    np.testing.assert_allclose(*outputs, atol=1e-6)
    assert np.abs(outputs[0]).max() <= 1 + 1e-6


def test_crops_have_their_sizes(dino):
    objective, _, _, keys, images = dino
    whole, local = jax.eval_shape(jax.vmap(objective._views, out_axes=1), keys, images)
    assert whole.shape == (2, 3, 24, 24, 3)
    assert local.shape == (2, 3, 16, 16, 3)
