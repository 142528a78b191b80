"""The step: the same on 1 and 8 devices but for rounding, AdamW as torch has it, what is fixed stays."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.pretraining.tiny import make_dino, make_mae, make_schedule, pictures
from vitprobe_jax.features.table import make_mesh
from vitprobe_jax.pretraining.training import Schedule, init_state, train_step

STEPS = 60
SCHEDULE = make_schedule(steps=STEPS, learning_rate=5e-3, clip=3.0)
OBJECTIVES = [make_mae, pytest.param(make_dino, marks=pytest.mark.slow)]


@functools.cache
def train(make, num_devices: int, steps: int):
    """The state and what is shown after some steps by one batch; a compilation for each objective and mesh."""
    mesh, objective, images = make_mesh(jax.devices()[:num_devices]), make(), pictures(16)
    state = init_state(jax.random.key(0), objective, SCHEDULE, mesh)
    shown = []
    for _ in range(steps):
        state, record = train_step(jax.random.key(1), state, images, objective, SCHEDULE, mesh)
        shown.append(record)
    return jax.tree.map(np.asarray, (state, shown))


@pytest.mark.slow
@pytest.mark.parametrize("make", [make_mae, make_dino])
def test_one_device_and_eight_take_the_same_step(make):
    """The same sums in the same order; only rounding within a backward pass differs, 1e-7 of a gradient of order 1."""
    (one, shown), (eight, shown_by_eight) = (train(make, n, 1) for n in (1, 8))
    for a, b in zip(jax.tree.leaves((one, shown)), jax.tree.leaves((eight, shown_by_eight)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)
    again, _ = train.__wrapped__(make, 8, 1)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(eight), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("make", OBJECTIVES)
def test_training_lowers_the_loss_of_one_batch(make):
    _, shown = train(make, 8, STEPS)
    losses = [float(record["loss"]) for record in shown]
    assert np.mean(losses[-5:]) < 0.97 * np.mean(losses[:3])


@pytest.mark.slow
def test_fixed_positions_stay():
    state, _ = train(make_mae, 8, 2)
    start = make_mae().init(jax.random.key(0))
    for part in ("encoder", "decoder"):
        np.testing.assert_array_equal(state.params[part]["pos_embed"], start[part]["pos_embed"])
        assert np.any(state.params[part]["norm"]["bias"] != start[part]["norm"]["bias"])


@pytest.mark.slow
def test_learned_positions_move():
    state, _ = train(make_dino, 8, 2)
    start = make_dino().init(jax.random.key(0))
    assert np.any(state.params["encoder"]["pos_embed"] != start["encoder"]["pos_embed"])


class Plain:
    """An objective with a matrix and a bias and no data, to look at the optimiser alone."""

    betas, fixed = (0.9, 0.95), ()

    def init(self, key): ...

    def init_memory(self, params): ...

    def loss(self, params, memory, keys, images, step, *, steps): ...

    def remember(self, memory, params, kept, step, *, steps): ...

    def encoder(self, params, memory): ...


def test_the_optimiser_is_torchs_adamw_under_its_schedule():
    schedule = Schedule(
        steps=10, warmup=3, learning_rate=0.1, final_rate=0.01, weight_decay=0.2, final_weight_decay=0.2, clip=0.5
    )
    rng = np.random.default_rng(0)
    params = {"kernel": rng.normal(size=(3, 2)).astype(np.float32), "bias": rng.normal(size=2).astype(np.float32)}
    optimizer = schedule.optimizer(Plain())
    state = optimizer.init(jax.tree.map(jnp.asarray, params))
    theirs = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in params.items()}
    groups = [{"params": [theirs["kernel"]], "weight_decay": 0.2}, {"params": [theirs["bias"]], "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=0.1, betas=(0.9, 0.95))
    for step in range(10):
        gradient = {name: rng.normal(size=value.shape).astype(np.float32) for name, value in params.items()}
        updates, state = optimizer.update(*jax.tree.map(jnp.asarray, (gradient, state, params)))
        params = jax.tree.map(lambda p, u: p + np.asarray(u), params, updates)
        warm = step / 3 if step < 3 else None
        rate = 0.1 * warm if warm is not None else 0.01 + 0.09 * (1 + np.cos(np.pi * (step - 3) / 7)) / 2
        for name, parameter in theirs.items():
            norm = np.linalg.norm(gradient[name])
            parameter.grad = torch.tensor(gradient[name] * min(1.0, 0.5 / (norm + 1e-6)))
        for group in adamw.param_groups:
            group["lr"] = rate
        adamw.step()
        for name, parameter in theirs.items():
            np.testing.assert_allclose(params[name], parameter.detach().numpy(), atol=2e-5)


def test_weight_decay_rises_along_a_cosine():
    schedule = make_schedule(steps=8, warmup=1, learning_rate=1.0, weight_decay=0.04, final_weight_decay=0.4)
    optimizer = schedule.optimizer(Plain())
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    state, zero = optimizer.init(params), jax.tree.map(jnp.zeros_like, params)
    decays = []
    for step in range(8):
        updates, state = optimizer.update(zero, state, params)
        if step:  # The rate of the first step is zero.
            decays.append(-float(updates["kernel"][0, 0]) / float(schedule.rate(step)))
        assert not np.any(updates["bias"])
    expected = [0.4 - 0.36 * (1 + np.cos(np.pi * step / 8)) / 2 for step in range(1, 8)]
    np.testing.assert_allclose(decays, expected, rtol=1e-4)
