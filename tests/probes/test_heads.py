"""Heads that are trained together: as alone, as in PyTorch, on one device or eight, and found again in their file."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from vitprobe_jax.errors import InputError
from vitprobe_jax.features.frozen import ImageTokens
from vitprobe_jax.features.table import deal, make_mesh
from vitprobe_jax.probes import head_files, pooled_parts
from vitprobe_jax.probes.head_files import load_heads, save_heads
from vitprobe_jax.probes.head_training import add_micro_batch, apply_gradients, zero_gradients
from vitprobe_jax.probes.heads import HeadsConfig, init_heads, scores, weights_of
from vitprobe_jax.probes.pooling import parse_pooling

B, P, D, C = 16, 4, 8, 3
STEPS = 4
NAMES = ("mean", "cls_attention", "abmilp_1", "abmilp_2_tanh", "attentive_2")
ONE, EIGHT = make_mesh(jax.devices()[:1]), make_mesh(jax.devices()[:8])


def make_config(names=NAMES, **changes):
    settings = {
        "poolings": tuple(map(parse_pooling, names)),
        "rates": (2.0, 16.0),
        "seeds": (0, 1),
        "num_classes": C,
        "multilabel": False,
        "width": D,
        "optimizer": "lars",
        "steps": STEPS,
        "warmup_steps": 1,
    }
    return HeadsConfig(**settings | changes)


def draw_batch(seed, valid=B, *, garbage=1.0, multilabel=False):
    """Tokens, labels and `valid`; what comes after the valid images is `garbage` times as large."""
    rng = np.random.default_rng(seed)
    size = np.where(np.arange(B) < valid, 1.0, garbage).astype(np.float32)
    cls = rng.standard_normal((B, D)).astype(np.float32) * size[:, None]
    patches = rng.standard_normal((B, P, D)).astype(np.float32) * size[:, None, None]
    weights = rng.dirichlet(np.ones(P), B).astype(np.float32)
    classes = rng.integers(C, size=B).astype(np.int32)
    labels = (rng.random((B, C)) < 0.4).astype(np.float32) if multilabel else classes
    return ImageTokens(cls, patches, {"cls_attention": weights}), labels, (np.arange(B) < valid).astype(np.float32)


def train(config, mesh, steps):
    """The state after steps of some micro batches each, and the losses [steps, M] of every head."""
    state, curves = init_heads(config, mesh), []
    for batches in steps:
        gradients = zero_gradients(config, mesh, state)
        for batch in batches:
            state, gradients = add_micro_batch(config, mesh, state, gradients, *deal(batch, mesh))
        state, losses = apply_gradients(config, mesh, state, gradients)
        curves.append(losses)
    return state, {name: np.stack([losses[name] for losses in curves]) for name in curves[0]}


PLAIN = tuple((draw_batch(2 * step), draw_batch(2 * step + 1, 11, garbage=50.0)) for step in range(STEPS))


@functools.cache
def trained(mesh=ONE):
    return train(make_config(), mesh, PLAIN)


def assert_close(tree, other, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), tree, other)


def test_a_member_is_trained_as_if_alone():
    """Another head is nothing to it either: PyTorch below has one at a time."""
    config, names, member = make_config(), ["abmilp_2_tanh", "attentive_2"], 2
    rate, seed = config.members[member]
    state, curves = train(make_config(names, rates=(rate,), seeds=(seed,)), ONE, PLAIN)
    together, all_curves = trained()
    for name in names:
        # Products of other shapes sum in other orders; float32.
        np.testing.assert_allclose(all_curves[name][:, member], curves[name][:, 0], rtol=1e-5)
        own = jax.tree.map(lambda leaf: leaf[member : member + 1], together.params[name])
        assert_close(own, state.params[name], atol=1e-5)
        others = [m for m in range(4) if m != member]
        assert np.abs(all_curves[name][-1, others] - curves[name][-1]).min() > 1e-4


class TorchHead(nn.Module):
    """The mean of the patches or AbMILP of one layer, a BatchNorm and a classifier."""

    def __init__(self, params, member):
        super().__init__()
        self.norm, self.classifier = nn.BatchNorm1d(D, affine=False, eps=1e-6), nn.Linear(D, C)
        # A logit of 0 for every patch is the mean of them.
        logit = params["pooling"].get("logit", {"kernel": np.zeros((member + 1, D, 1), np.float32)})["kernel"][member]
        self.logit = nn.Parameter(torch.from_numpy(np.array(logit)), requires_grad="logit" in params["pooling"])
        with torch.no_grad():
            self.classifier.weight.copy_(torch.from_numpy(np.array(params["classifier"]["kernel"][member].T)))
            self.classifier.bias.zero_()

    def forward(self, patches):
        pooled = ((patches @ self.logit).softmax(dim=1) * patches).sum(dim=1)
        return self.classifier(self.norm(pooled))


@torch.no_grad()
def take_lars_step(momenta, rate):
    for parameter, momentum in momenta.items():
        gradient = parameter.grad
        if parameter.ndim > 1:
            gradient = gradient * 0.001 * parameter.norm() / gradient.norm()
        momentum.mul_(0.9).add_(gradient)
        parameter -= rate * momentum
        parameter.grad = None


@pytest.mark.parametrize("name", ["mean", "abmilp_1"])
def test_training_equals_torch(name):
    """Two micro batches a step, of which PyTorch gets the valid images alone; then the running statistics in use."""
    config, member = make_config(), 2
    state, curves = trained()
    head = TorchHead(init_heads(config, ONE).params[name], member)
    momenta = {leaf: torch.zeros_like(leaf) for leaf in head.parameters() if leaf.requires_grad}
    expected = []
    for step, batches in enumerate(PLAIN):
        total, count = 0.0, sum(int(valid.sum()) for *_, valid in batches)
        for tokens, labels, valid in batches:
            kept = torch.from_numpy(valid) > 0
            logits = head(torch.from_numpy(tokens.patches)[kept])
            loss = nn.functional.cross_entropy(logits, torch.from_numpy(labels).long()[kept], reduction="sum") / count
            loss.backward()
            total += loss.item()
        expected.append(total)
        # One step of warm-up, at a rate of 0.
        share = 0.5 * (1 + np.cos(np.pi * (step - 1) / (STEPS - 1))) if step else 0.0
        take_lars_step(momenta, config.members[member][0] * share)
    np.testing.assert_allclose(curves[name][:, member], expected, rtol=1e-5)
    assert np.ptp(expected) > 0.1
    statistics = jax.tree.map(lambda leaf: leaf[member % len(leaf)], state.statistics[name])
    np.testing.assert_allclose(statistics["mean"], head.norm.running_mean, atol=1e-6)
    np.testing.assert_allclose(statistics["variance"], head.norm.running_var, atol=1e-6)
    tokens, *_ = draw_batch(99)
    with torch.no_grad():
        logits = head.eval()(torch.from_numpy(tokens.patches))
    found = scores(config, ONE, state, deal(tokens, ONE))[name]
    assert found.shape == (4, B, C)
    np.testing.assert_allclose(found[member], logits, rtol=1e-5, atol=2e-5)


def test_micro_batches_of_equal_statistics_are_one_batch():
    """The same images twice have the statistics of once."""
    config = make_config()
    once, curves = train(config, ONE, [(PLAIN[0][0],)] * 2)
    twice, same = train(config, ONE, [(PLAIN[0][0],) * 2] * 2)
    assert_close(twice.params, once.params, atol=1e-6)
    assert_close(same, curves, rtol=1e-6)


def test_padding_takes_part_in_nothing():
    config, start = make_config(), init_heads(make_config(), ONE)
    zero = zero_gradients(config, ONE, start)
    empty = draw_batch(0, 0, garbage=1e3)
    state, gradients = add_micro_batch(config, ONE, start, zero, *deal(empty, ONE))
    assert_close(state.statistics, start.statistics, atol=0)
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(gradients))
    found = [
        add_micro_batch(
            config, ONE, start, zero_gradients(config, ONE, start), *deal(draw_batch(1, 9, garbage=garbage), ONE)
        )
        for garbage in (1.0, 1e3)
    ]
    assert found[0][1].count == 9
    # To the last bit: padding is multiplied by 0.
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_eight_devices_agree_with_one():
    one, eight = trained(ONE), trained(EIGHT)
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(eight[0])} == {8}
    # XLA compiles a few elementwise functions otherwise for other numbers of parts: 8e-7 after four large steps.
    assert_close(eight[0].params, one[0].params, rtol=3e-6, atol=3e-6)
    assert_close(eight[0].statistics, one[0].statistics, rtol=3e-6, atol=3e-6)
    assert_close(eight[1], one[1], rtol=3e-6)


def test_scores_and_weights_are_spread_by_image():
    config, tokens = make_config(), draw_batch(99)[0]
    of_one, of_eight = (scores(config, mesh, trained(mesh)[0], deal(tokens, mesh)) for mesh in (ONE, EIGHT))
    assert_close(of_eight, of_one, atol=1e-5)
    assert of_eight["mean"].addressable_shards[0].data.shape == (4, B // 8, C)
    weights = weights_of(config, EIGHT, trained(EIGHT)[0], deal(tokens, EIGHT), "attentive_2")
    assert weights.shape == (4, B, P)
    np.testing.assert_allclose(np.sum(weights, axis=-1), 1, atol=1e-6)
    given = weights_of(config, ONE, trained()[0], deal(tokens, ONE), "cls_attention")
    np.testing.assert_array_equal(given, np.broadcast_to(tokens.weights["cls_attention"], (4, B, P)))


def test_several_classes_an_image_have_sigmoids():
    config = make_config(["mean"], multilabel=True)
    tokens, labels, _ = batch = draw_batch(5, 12, multilabel=True)
    _, curves = train(config, ONE, [(batch,)])
    head = TorchHead(init_heads(config, ONE).params["mean"], 1)
    logits = head(torch.from_numpy(tokens.patches[:12]))
    expected = nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(labels[:12]))
    assert curves["mean"][0, 1] == pytest.approx(expected.item(), rel=1e-5)


def test_a_planted_patch_is_found():
    """One patch of each image says its class and carries a mark; the mean drowns it in the noise of the others."""
    rng = np.random.default_rng(0)
    directions = 4 * np.linalg.qr(rng.standard_normal((D, D)))[0].astype(np.float32)
    steps = []
    for _ in range(60):
        (_, patches, weights), labels, valid = draw_batch(rng.integers(1 << 30))
        place = rng.integers(P, size=B)
        patches[np.arange(B), place] += directions[labels] + directions[C]
        steps.append(((ImageTokens(patches[:, 0], patches, weights), labels, valid),))
    settings = {"rates": (1.0,), "seeds": (0,), "optimizer": "sgd", "steps": len(steps), "warmup_steps": 0}
    config = make_config(["mean", "abmilp_1"], **settings)
    state, curves = train(config, ONE, steps)
    tokens = deal(steps[-1][0][0], ONE)
    on_it = weights_of(config, ONE, state, tokens, "abmilp_1")[0, np.arange(B), place]
    assert np.mean(on_it) > 0.8  # A patch in four: chance is 0.25.
    assert curves["abmilp_1"][-10:].mean() < 0.5 * curves["mean"][-10:].mean()
    found = scores(config, ONE, state, tokens)
    right = {name: np.mean(np.argmax(leaf[0], axis=-1) == labels) for name, leaf in found.items()}
    assert right["abmilp_1"] > right["mean"]


def test_saved_heads_are_loaded_again(tmp_path):
    config, (state, _) = make_config(), trained()
    path = tmp_path / "heads.safetensors"
    save_heads(path, config, state)
    loaded = load_heads(path, config, EIGHT)
    jax.tree.map(np.testing.assert_array_equal, loaded, state)
    assert int(loaded.step) == STEPS
    whole = path.read_bytes()
    save_heads(path, config, loaded)
    assert path.read_bytes() == whole
    with pytest.raises(InputError, match="another rates, momentum"):
        load_heads(path, dataclasses.replace(config, rates=(1.0, 2.0), momentum=0.5), ONE)
    for damaged in (whole[:-1], whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:], b"", b"\xff" * 200):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="no readable file of heads"):
            load_heads(path, config, ONE)
    with pytest.raises(InputError, match="nowhere"):
        load_heads(tmp_path / "nowhere", config, ONE)


def test_files_of_earlier_versions_are_loaded(tmp_path):
    """What a file tells of its heads, as it was before momentum and the initial scale were the paper's."""
    config, (state, _) = (
        make_config(["mean"], optimizer="sgd"),
        train(make_config(["mean"], optimizer="sgd"), ONE, PLAIN),
    )
    described = {
        "poolings": [{"kind": "mean", "depth": 1, "activation": "relu", "heads": 1, "weights": ""}],
        "rates": [2.0, 16.0],
        "seeds": [0, 1],
        "num_classes": C,
        "multilabel": False,
        "width": D,
        "optimizer": "sgd",
        "momentum": 0.9,
        "steps": STEPS,
        "warmup_steps": 1,
    }
    assert head_files._describe(config) == described
    path = tmp_path / "heads.safetensors"
    save_heads(path, config, state)
    jax.tree.map(np.testing.assert_array_equal, load_heads(path, config, ONE), state)


@pytest.mark.parametrize("mesh", [ONE, EIGHT])
def test_few_images_at_a_time_give_the_same(mesh, monkeypatch):
    """Parts of two images are cut in two: only the order of sums within a part changes; float32."""
    config, batch = make_config(["abmilp_2_tanh", "sa_abmilp"]), draw_batch(0)
    found = []
    for together in (64, 1):
        monkeypatch.setattr(pooled_parts, "TOGETHER", together)
        jax.clear_caches()
        state = init_heads(config, mesh)
        zero = zero_gradients(config, mesh, state)
        found.append(add_micro_batch(config, mesh, state, zero, *deal(batch, mesh)))
    assert_close(*found, rtol=1e-5, atol=1e-6)
    jax.clear_caches()


def test_batches_that_cannot_be_dealt():
    config = make_config(["mean"])
    state = init_heads(config, ONE)
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf[:12]), draw_batch(0))
    with pytest.raises(ValueError, match="12 images cannot be dealt into 8 parts"):
        add_micro_batch(config, ONE, state, zero_gradients(config, ONE, state), *batch)
