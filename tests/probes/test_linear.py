import dataclasses

import jax
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from tests.probes.tables import mesh_of
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.moments import feature_moments, highest_variance
from vitprobe_jax.probes import linear
from vitprobe_jax.probes.linear import LinearConfig, batch_order, fit_linear, predict

CLASSES, WIDTH, LOUD = 4, 10, [1, 4, 8]
PLAIN = LinearConfig(l2=1e-3, max_steps=200, gradient_norm=1e-5)
BATCH_NORM = LinearConfig(kind="batch_norm", l2=1e-3, steps=300, batch_size=512, learning_rate=0.1)
GRADIENT = dataclasses.replace(BATCH_NORM, kind="gradient")


def drawn(rng, count):
    """Classes of unequal size that overlap, told apart by seven features; three others are a hundred times as loud, and one
    of those is far from 0."""
    labels = rng.choice(CLASSES, count, p=[0.5, 0.25, 0.15, 0.1])
    means = 1.2 * np.random.default_rng(1).standard_normal((CLASSES, WIDTH))
    rows = means[labels] + rng.standard_normal((count, WIDTH))
    rows[:, LOUD] = 100 * rng.standard_normal((count, 3)) + [0, 1000, 0]
    return rows.astype(np.float32), labels


@pytest.fixture(scope="module")
def data():
    """More rows than one block has."""
    rng = np.random.default_rng(0)
    return *drawn(rng, linear.BLOCK + 1000), *drawn(rng, 2000)


@pytest.fixture(scope="module")
def keep(data):
    keep = highest_variance(feature_moments(data[0]).variance, 3)
    assert np.flatnonzero(~keep).tolist() == LOUD
    return np.stack([np.ones(WIDTH), keep, np.zeros(WIDTH)]).astype(np.float32)


@pytest.fixture(scope="module")
def fitted(data, keep):
    """All variants of both kinds, on one device."""
    return {config: fit(data, keep, config) for config in (PLAIN, BATCH_NORM, GRADIENT)}


def fit(data, keep, config, *, devices=1):
    rows, labels, *_ = data
    probes = fit_linear(jax.random.key(0), rows, labels, CLASSES, keep, config, mesh=mesh_of(devices))
    return jax.tree.map(np.asarray, probes)


def logits(probes, variant, rows):
    return rows.astype(np.float64) @ probes.w[variant].T + probes.b[variant]


def accuracy(probes, data):
    return (predict(probes, data[2]) == data[3]).mean(axis=1)


@pytest.fixture(scope="module")
def rival(data):
    """scikit-learn on standardised rows, with the same penalty."""
    rows, labels, *_ = data
    model = LogisticRegression(C=1 / (PLAIN.l2 * len(rows)), tol=1e-8, max_iter=1000)
    return model.fit(standardized(rows, rows), labels)


def standardized(z, rows):
    moments = feature_moments(rows)
    return (z - moments.mean) / np.sqrt(moments.variance)


def test_a_plain_probe_is_the_minimum_that_scikit_learn_finds(data, fitted, rival):
    rows, labels, *_ = data
    probes, moments = fitted[PLAIN], feature_moments(rows)
    weights = probes.w[0] * np.sqrt(moments.variance)
    np.testing.assert_allclose(weights, rival.coef_, atol=2e-3)
    intercept = probes.b[0] + probes.w[0].astype(np.float64) @ moments.mean
    np.testing.assert_allclose(intercept - intercept.mean(), rival.intercept_ - rival.intercept_.mean(), atol=2e-3)
    minimum = log_loss(labels, rival.predict_proba(standardized(rows, rows))) + PLAIN.l2 / 2 * (rival.coef_**2).sum()
    assert probes.loss[0] + PLAIN.l2 / 2 * (weights**2).sum() == pytest.approx(minimum, abs=2e-6)


def test_behind_a_batch_norm_it_is_nearly_as_good(data, fitted, rival):
    rows, _, queries, truth = data
    asked, probes = standardized(queries, rows), fitted[BATCH_NORM]
    assert accuracy(probes, data)[0] == pytest.approx(rival.score(asked, truth), abs=0.01)
    scores = logits(probes, 0, queries)
    loss = np.mean(np.logaddexp.reduce(scores, axis=1) - scores[np.arange(len(truth)), truth])
    assert loss == pytest.approx(log_loss(truth, rival.predict_proba(asked)), abs=0.02)


@pytest.mark.parametrize("config", [PLAIN, BATCH_NORM])
def test_loud_noise_ruins_neighbours_and_spares_a_linear_probe(data, keep, fitted, config):
    """And without the features of highest variance neighbours are as good as the probe again."""
    rows, labels, queries, truth = data

    def neighbours(kept):
        base, asked = rows[:, kept > 0].astype(np.float64), queries[:, kept > 0].astype(np.float64)
        nearest = ((base**2).sum(1)[None] - 2 * asked @ base.T).argmin(axis=1)
        return (labels[nearest] == truth).mean()

    everything, quiet, nothing = accuracy(fitted[config], data)
    assert neighbours(keep[0]) < 0.5
    assert neighbours(keep[1]) > 0.8
    assert everything > 0.85
    assert everything == pytest.approx(quiet, abs=0.01)
    assert nothing == pytest.approx((truth == 0).mean())


@pytest.mark.parametrize("config", [PLAIN, BATCH_NORM, GRADIENT])
def test_a_probe_is_the_same_to_the_bit_beside_others_and_on_other_devices(data, keep, fitted, config):
    alone = fit(data, keep[1:2], config, devices=8)
    jax.tree.map(lambda one, all_: np.testing.assert_array_equal(one[0], all_[1]), alone, fitted[config])


def test_the_scale_of_a_feature_is_of_no_account(data, keep, fitted):
    """Nor is how far it is from 0; one that is constant has no weight."""
    rows, labels, queries, _ = data
    scale, offset = np.geomspace(1e-2, 1e2, WIDTH), np.linspace(-1, 1, WIDTH)
    scale[3], offset[3] = 0, 7

    def moved(z):
        return ((z + offset) * scale + (scale == 0) * offset).astype(np.float32)

    without = keep.copy()
    without[:, 3] = 0
    probes = fit((moved(rows), labels), keep, PLAIN)
    assert not probes.w[0][:, 3].any()
    expected = fit(data, without, PLAIN)
    np.testing.assert_allclose(logits(probes, 0, moved(queries)), logits(expected, 0, queries), atol=5e-3)


@pytest.mark.usefixtures("one_thread")
def test_a_gradient_probe_is_sgd_at_the_highest_safe_rate(data):
    """A few steps of PyTorch's, on rows of the scales that features have."""
    rows, labels, *_ = data
    config = dataclasses.replace(GRADIENT, steps=20, batch_size=64)
    probes = fit(data, np.ones((1, WIDTH), np.float32), config)
    module = torch.nn.Linear(WIDTH, CLASSES)
    torch.nn.init.zeros_(module.weight)
    torch.nn.init.zeros_(module.bias)
    wide = rows.astype(np.float64)
    rate = 1 / ((np.linalg.eigvalsh(wide.T @ wide / len(rows))[-1] + 1) / 2 + config.l2)
    optimizer = torch.optim.SGD(module.parameters(), lr=rate, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    for batch in batch_order(jax.random.key(0), len(rows), config):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(torch.from_numpy(rows[batch])), torch.from_numpy(labels[batch]))
        (loss + config.l2 / 2 * (module.weight**2).sum()).backward()
        optimizer.step()
        schedule.step()
    largest = float(module.weight.detach().abs().max())
    np.testing.assert_allclose(probes.w[0], module.weight.detach(), atol=1e-4 * largest)
    np.testing.assert_allclose(probes.b[0], module.bias.detach(), atol=1e-7)


def test_loud_noise_holds_a_gradient_probe_back(data, fitted):
    everything, quiet, nothing = accuracy(fitted[GRADIENT], data)
    assert quiet > 0.85
    assert everything < quiet - 0.1
    assert nothing == pytest.approx((data[3] == 0).mean())


def test_leaving_features_out_equals_a_narrower_table(data, keep, fitted):
    rows, labels, queries, _ = data
    kept, probes = keep[1] > 0, fitted[PLAIN]
    for of_kind in fitted.values():
        assert not of_kind.w[1][:, ~kept].any()
        assert not of_kind.w[2].any()
    narrow = fit((rows[:, kept], labels), np.ones((1, kept.sum()), np.float32), PLAIN)
    np.testing.assert_allclose(logits(narrow, 0, queries[:, kept]), logits(probes, 1, queries), atol=2e-3)


@pytest.fixture
def one_thread():
    """Of torch: on batches as small as these, others cost more than they do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_batch_norm_runs_as_pytorch(data, fitted):
    rows, *_ = data
    module = torch.nn.BatchNorm1d(WIDTH, affine=False)
    for batch in batch_order(jax.random.key(0), len(rows), BATCH_NORM):
        module(torch.from_numpy(rows[batch]))
    probes = fitted[BATCH_NORM]
    for variant in range(3):
        np.testing.assert_allclose(probes.mean[variant], module.running_mean, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(probes.variance[variant], module.running_var, rtol=1e-5)


def test_batches_are_epochs_of_all_rows_in_new_orders():
    config, key = LinearConfig(steps=7, batch_size=4), jax.random.key(0)
    order = batch_order(key, 11, config)
    assert order.shape == (7, 4)
    epochs = order[:6].reshape(3, 8)  # Two batches an epoch.
    assert all(len(set(epoch)) == 8 for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3
    assert len({row for seed in range(9) for row in batch_order(jax.random.key(seed), 11, config).ravel()}) == 11
    assert (batch_order(key, 3, config).shape, batch_order(key, 1000, config).shape) == ((7, 3), (7, 4))


def test_predictions_equal_numpy_in_all_blocks(data, fitted):
    probes = fitted[PLAIN]
    rows = data[0]
    by_hand = np.stack([logits(probes, variant, rows).argmax(axis=1) for variant in range(3)])
    found = predict(probes, rows)
    # A row on the border of two classes may fall on either side.
    assert (found != by_hand).mean() < 1e-3
    np.testing.assert_array_equal(predict(probes, rows[:5]), found[:, :5])


@pytest.mark.parametrize(("labels", "words"), [([0], "1 labelled row"), ([0, 4], "from 0 to 4, classes from 0 to 3")])
def test_what_cannot_be_fitted_is_one_line(labels, words):
    rows = np.zeros((len(labels), 2), np.float32)
    with pytest.raises(InputError, match=words):
        fit_linear(jax.random.key(0), rows, np.array(labels), CLASSES, np.ones((1, 2), np.float32))
