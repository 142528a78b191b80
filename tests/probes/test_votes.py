"""Votes of neighbours equal plain loops, and those of Scale-MAE its own arithmetic."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitprobe_jax.probes.votes import TEMPERATURE, classify, classify_weighted


@settings(max_examples=50)
@given(st.lists(st.lists(st.integers(0, 4), min_size=6, max_size=6), max_size=5))
def test_votes(labels):
    """The most common class; Counter keeps the first of equals, the nearest, first."""
    expected = [Counter(row).most_common(1)[0][0] for row in labels]
    assert classify(np.array(labels, int).reshape(-1, 6), 5).tolist() == expected


def draw(queries=200, k=20, classes=7):
    rng = np.random.default_rng(0)
    similarities = -np.sort(-rng.uniform(0.3, 0.99, (queries, k)), axis=1).astype(np.float32)
    return rng.integers(0, classes, (queries, k)), similarities, classes


def test_weighted_votes_are_those_of_a_plain_loop():
    labels, similarities, classes = draw()
    expected = []
    for own, of_own in zip(labels, similarities, strict=True):
        sums = [
            sum(np.exp(float(s) / 0.07) for c, s in zip(own, of_own, strict=True) if c == k) for k in range(classes)
        ]
        expected.append(int(np.argmax(sums)))
    told = classify_weighted(labels, similarities, classes)
    np.testing.assert_array_equal(told, expected)
    # Counted alike, and by the nearest alone, the same neighbours say something else.
    assert (told != classify(labels, classes)).any()
    assert (told != labels[:, 0]).any()


def test_weighted_votes_are_those_of_scale_mae():
    """The arithmetic of mae/eval/knn.py in PyTorch: one-hot votes times exp(s / sigma), the first after sorting."""
    labels, similarities, classes = draw()
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(labels), classes).float()
    weights = torch.from_numpy(similarities).clone().div_(0.07).exp_()
    expected = (one_hot * weights[:, :, None]).sum(1).sort(1, True)[1][:, 0]
    np.testing.assert_array_equal(classify_weighted(labels, similarities, classes), expected.numpy())


@pytest.mark.parametrize(("temperature", "told"), [(TEMPERATURE, 2), (0.5, 1)])
def test_temperature_weighs_near_against_many(temperature, told):
    labels, similarities = np.array([[2, 1, 1, 1]]), np.array([[0.95, 0.6, 0.6, 0.6]])
    assert classify_weighted(labels, similarities, 3, temperature=temperature).tolist() == [told]


def test_of_equal_sums_the_nearest_counts():
    assert classify_weighted(np.array([[4, 3, 3, 4]]), np.array([[0.5, 0.5, 0.5, 0.5]]), 5).tolist() == [4]
