"""The study of solvers and their settings, in small."""

import dataclasses

import numpy as np
import pytest
from absl import flags

from experiments import protocol
from experiments.config import define_sweep_flags
from experiments.protocol import DEFAULT, SETTINGS, Outcome, Setting, format_outcomes, outcomes, protocol_config
from tests.experiments.test_sweep import shapes_config
from vitprobe_jax.errors import InputError

LBFGS, PAPER = Setting("lbfgs", 1e-3), Setting("paper", 1.0, "center")


def test_settings_hold_the_default_and_feature_norms_of_the_papers_solver_only():
    assert DEFAULT == LBFGS
    assert DEFAULT in SETTINGS
    assert {setting.value for setting in SETTINGS if setting.solver == "lbfgs"} == {1e-4, 1e-3, 1e-2, 1e-1}
    of_paper = [setting for setting in SETTINGS if setting.solver == "paper"]
    assert len({(setting.value, setting.feature_norm) for setting in of_paper}) == len(of_paper) == 3 * 4
    assert all(setting.feature_norm == "none" for setting in SETTINGS if setting.solver == "lbfgs")


def test_every_setting_is_tried_on_every_token_under_every_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(protocol, "SETTINGS", (LBFGS, PAPER))
    tried = list(outcomes(shapes_config(tmp_path / "unused", "--rounds=2", "--seeds=2", "--seed=5")))
    assert [(o.setting, o.seed, o.token) for o in tried] == [
        (setting, seed, token) for seed in (5, 6) for token in ("k", "x2") for setting in (LBFGS, PAPER)
    ]
    assert all(0.3 < outcome.accuracy < 1 for outcome in tried)
    assert len({outcome.accuracy for outcome in tried}) == len(tried)
    assert all((outcome.unconverged == 0) == (outcome.setting == LBFGS) for outcome in tried)
    assert all(outcome.seconds > 0 for outcome in tried)
    assert not (tmp_path / "unused").exists()


def made(setting, seed, token, accuracy, **rest):
    numbers = {"f1": 0.5, "recall": 0.25, "degenerate": 0.0, "unconverged": 0.5, "seconds": 1.0} | rest
    return Outcome(setting, seed, token, accuracy, **numbers)


def test_the_table_has_means_the_best_token_and_the_order():
    tried = [
        *(made(LBFGS, 0, token, accuracy) for token, accuracy in (("k", 0.9), ("x2", 0.7), ("q", 0.6), ("k", 0.8))),
        *(made(PAPER, 0, token, accuracy, f1=0.3) for token, accuracy in (("k", 0.5), ("x2", 0.6), ("q", 0.4))),
        made(PAPER, 0, "q", 0.4, f1=0.3, seconds=100.0),
    ]
    header, _, lbfgs, paper = format_outcomes(tried).splitlines()
    assert header == (
        "| solver | penalty or rate | feature norm | accuracy | F1 | recall | degenerate | not converged | seconds "
        "| best token | order as the default's |"
    )
    assert lbfgs == "| lbfgs | 0.001 |  | **0.750** | **0.500** | 0.250 | 0.000 | 0.500 | 1.000 | k | 1.000 |"
    assert paper == "| paper | 1 | center | 0.475 | 0.300 | 0.250 | 0.000 | 0.500 | 1.000 | x2 | 0.500 |"


def test_several_seeds_have_a_deviation():
    tried = [
        made(LBFGS, seed, token, 0.5 + 0.1 * seed + 0.01 * (token == "k")) for seed in (0, 1) for token in ("k", "q")
    ]
    swapped = [dataclasses.replace(o, setting=PAPER, accuracy=1 - o.accuracy if o.seed else o.accuracy) for o in tried]
    _, _, lbfgs, paper = format_outcomes(tried + swapped).splitlines()
    assert f"0.555 ± {np.std([0.505, 0.605], ddof=1):.3f}" in lbfgs
    assert lbfgs.endswith("| k | 1.000 ± 0.000 |")
    assert paper.endswith("| 0.000 ± 1.414 |")


def test_tokens_without_an_order_have_no_correlation():
    assert format_outcomes([made(LBFGS, 0, "k", 0.5)]).endswith("| k | \N{EN DASH} |")
    assert format_outcomes([made(PAPER, 0, "k", 0.5), made(PAPER, 0, "q", 0.6)]).endswith("| q | \N{EN DASH} |")


def parse(*arguments):
    values = flags.FlagValues()
    define_sweep_flags(values)
    values(["protocol", "--dataset=shapes:4", "--backbones=untrained_dino_tiny", *arguments])
    return protocol_config(values)


@pytest.mark.parametrize("flag", ["solver=lbfgs", "penalty=0.1", "learning_rate=0.1", "feature_norm=none"])
def test_flags_that_are_tried_are_refused(flag):
    with pytest.raises(
        InputError, match=f"^--{flag.split('=')[0]}: this command tries values of its own; remove the flag$"
    ):
        parse(f"--{flag}")


def test_other_flags_of_the_sweep_are_taken():
    config = parse("--epochs=2", "--rounds=3", "--seeds=2")
    assert (config.hyperplane.epochs, config.hyperplane.rounds, config.seeds) == (2, 3, 2)
    tried = PAPER.apply(config)
    assert (tried.solver, tried.feature_norm, tried.hyperplane.learning_rate) == (("paper",), "center", 1.0)
    assert Setting("lbfgs", 0.5).apply(config).hyperplane.penalty == 0.5


def test_an_argument_is_refused():
    with pytest.raises(protocol.InputError, match="unexpected argument"):
        protocol.main(["protocol", "seg"])
