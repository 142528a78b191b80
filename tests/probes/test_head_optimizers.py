"""LARS against a step in NumPy, SGD against PyTorch's, the learning rate against MAE's rule."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from vitprobe_jax.probes.head_optimizers import MOMENTA, head_optimizer, rate_share

STEPS, WARMUP, MOMENTUM = 7, 2, 0.9
SHAPES = {"kernel": (4, 3), "bias": (3,), "zero": (2, 2)}


def draw_gradients():
    rng = np.random.default_rng(1)
    return [
        {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()} for _ in range(STEPS)
    ]


def draw_params():
    rng = np.random.default_rng(0)
    params = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    return params | {"zero": np.zeros(SHAPES["zero"], np.float32)}


def mae_rate(step, peak):
    """MAE's rule with steps in place of its fractions of epochs, and nothing as the least rate."""
    if step < WARMUP:
        return peak * step / WARMUP
    return peak * 0.5 * (1.0 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))


def train(kind, rate, momentum=MOMENTUM):
    optimizer = head_optimizer(kind, rate, momentum=momentum, steps=STEPS, warmup_steps=WARMUP)
    params = jax.tree.map(jnp.asarray, draw_params())
    state, seen = optimizer.init(params), []
    update = jax.jit(optimizer.update)
    for gradient in draw_gradients():
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(params)
    return seen


def test_lars_equals_numpy_steps():
    peak = 3.0
    params = {name: leaf.astype(float) for name, leaf in draw_params().items()}
    momenta = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    seen = train("lars", peak)
    for step, gradients in enumerate(draw_gradients()):
        for name, gradient in gradients.items():
            gradient = gradient.astype(float)
            if gradient.ndim > 1:
                size, length = np.linalg.norm(params[name]), np.linalg.norm(gradient)
                gradient = gradient * (0.001 * size / length if size > 0 and length > 0 else 1.0)
            momenta[name] = MOMENTUM * momenta[name] + gradient
            params[name] = params[name] - mae_rate(step, peak) * momenta[name]
            # Biases of order 10 in float32; matrices move by 0.3% a step.
            np.testing.assert_allclose(seen[step][name], params[name], rtol=2e-6, atol=1e-5, err_msg=f"{name} {step}")
    assert np.abs(seen[-1]["kernel"] - draw_params()["kernel"]).max() > 1e-3


@pytest.mark.parametrize("momentum", [MOMENTUM, MOMENTA["sgd"]])
def test_sgd_equals_torch(momentum):
    """Without momentum too: PyTorch's default, which the code of "Beyond [cls]" keeps."""
    peak = 0.5
    params = {name: torch.nn.Parameter(torch.from_numpy(leaf.copy())) for name, leaf in draw_params().items()}
    optimizer = torch.optim.SGD(params.values(), lr=peak, **({"momentum": momentum} if momentum else {}))
    seen = train("sgd", peak, momentum)
    for step, gradients in enumerate(draw_gradients()):
        optimizer.param_groups[0]["lr"] = mae_rate(step, peak)
        for name, parameter in params.items():
            parameter.grad = torch.from_numpy(gradients[name].copy())
        optimizer.step()
        for name, parameter in params.items():
            np.testing.assert_allclose(seen[step][name], parameter.detach().numpy(), atol=2e-6)


def test_rate_follows_the_rule():
    shares = rate_share(np.arange(STEPS), steps=STEPS, warmup_steps=WARMUP)
    np.testing.assert_allclose(shares, [mae_rate(step, 1.0) for step in range(STEPS)], atol=1e-7)
    assert shares[0] == 0


@pytest.mark.parametrize("warmup", [0, STEPS])
def test_rate_without_warmup_and_with_nothing_else(warmup):
    shares = np.asarray(rate_share(np.arange(STEPS), steps=STEPS, warmup_steps=warmup))
    assert np.isfinite(shares).all()
    assert shares[0] == (1 if warmup == 0 else 0)
