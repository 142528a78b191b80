"""The study of optimisers and feature norms, in small."""

import dataclasses

import pytest

from experiments import protocol
from experiments.protocol import Outcome, format_outcomes, outcomes
from tests.experiments.test_sweep import shapes_config


@pytest.mark.slow
def test_every_combination_is_tried_on_every_token(tmp_path, monkeypatch):
    monkeypatch.setattr(protocol, "SETTINGS", (("sgd", 1e-1), ("sgd", 1e6)))
    monkeypatch.setattr(protocol, "FEATURE_NORMS", ("none", "standardize"))
    tried = list(outcomes(shapes_config(tmp_path / "unused", "--rounds=2")))
    assert len(tried) == 2 * 2 * 2
    assert len({dataclasses.astuple(outcome)[:4] for outcome in tried}) == len(tried)
    assert all(outcome.warned == (outcome.learning_rate == 1e6) for outcome in tried)
    assert all(0.3 < outcome.accuracy < 1 for outcome in tried)
    assert len({outcome.accuracy for outcome in tried}) > 4
    assert not (tmp_path / "unused").exists()


def test_the_table_has_means_and_marks_the_best(monkeypatch):
    monkeypatch.setattr(protocol, "SETTINGS", (("sgd", 1e-2), ("lbfgs", 1.0)))
    monkeypatch.setattr(protocol, "FEATURE_NORMS", ("none",))
    tried = [
        Outcome("none", "sgd", 1e-2, "k", 0.5, 0.4, True),
        Outcome("none", "sgd", 1e-2, "k", 0.7, 0.6, False),
        Outcome("none", "lbfgs", 1.0, "k", 0.9, 0.3, False),
        Outcome("none", "lbfgs", 1.0, "k", 0.9, 0.3, False),
    ]
    header, _, sgd, lbfgs = format_outcomes(tried).splitlines()
    assert header == "| feature norm | optimiser | k | accuracy | F1 | warned |"
    assert sgd == "| none | sgd 0.01 | 0.600 | 0.600 | **0.500** | 50% |"
    assert lbfgs == "| none | lbfgs | **0.900** | **0.900** | 0.300 | 0% |"


def test_an_argument_is_refused():
    with pytest.raises(protocol.InputError, match="unexpected argument"):
        protocol.main(["protocol", "seg"])
