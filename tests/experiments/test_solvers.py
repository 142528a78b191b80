"""Both solvers of hyperplanes in a sweep: rules, template files, what the results and the notes say of the fits."""

import json

import numpy as np
import pytest

from experiments.sweep import run_sweep
from tests.experiments.test_sweep import labels_of, make_config, shapes_config
from vitprobe_jax.backbones.loading import load_backbone
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.errors import InputError
from vitprobe_jax.metrics.results import FIT, read_table
from vitprobe_jax.probes import hyperplane
from vitprobe_jax.probes.templates import load_templates

BOTH = ("hyperplane", "hyperplane_paper")


def rows_of(out, **fields):
    rows = read_table(out / "results.parquet").to_pylist()
    return [row for row in rows if all(row[name] == value for name, value in fields.items())]


def notes_of(out):
    return json.loads((out / "run.json").read_text())["notes"]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    out = tmp_path_factory.mktemp("both") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.sweep.write_report", lambda out: out / "none.html")
        run_sweep(
            shapes_config(
                out, "--tokens=x2", "--rules=hyperplane,cosine", "--solver=paper,lbfgs", "--shots=1", "--trials=1"
            )
        )
    return out


def test_each_solver_has_a_rule_and_a_template_file_of_its_own(sweep):
    assert {row["rule"] for row in rows_of(sweep)} == {*BOTH, "cosine"}
    names = sorted(path.name for path in (sweep / "templates" / "untrained_dino_tiny").iterdir())
    assert names == [f"3_x2_{rule}.safetensors" for rule in ("cosine", *BOTH)]
    by_rule = {
        rule: load_templates(sweep / "templates/untrained_dino_tiny" / f"3_x2_{rule}.safetensors") for rule in BOTH
    }
    assert all(templates.rule == rule for rule, templates in by_rule.items())
    assert not by_rule["hyperplane_paper"].arrays["shift"].any()
    assert by_rule["hyperplane"].arrays["shift"].any()
    for rule in BOTH:
        assert {name: array.dtype.name for name, array in by_rule[rule].arrays.items()} == {
            "w": "float32",
            "b": "float64",
            "shift": "float32",
        }
        for evaluation in ("patch", "pixel"):
            of_rule = rows_of(sweep, rule=rule, evaluation=evaluation, skipped=None)
            assert len(of_rule) == len(by_rule[rule].concepts) > 10


def test_rows_say_how_their_hyperplane_was_fitted(sweep):
    for rule in BOTH:
        patches = rows_of(sweep, rule=rule, evaluation="patch", skipped=None)
        pixels = rows_of(sweep, rule=rule, evaluation="pixel", skipped=None)
        assert [[row[name] for name in FIT] for row in patches] == [[row[name] for name in FIT] for row in pixels]
        templates = load_templates(sweep / "templates/untrained_dino_tiny" / f"3_x2_{rule}.safetensors")
        assert [row["threshold"] for row in patches] == templates.arrays["b"].tolist()
    assert all(row["converged"] for row in rows_of(sweep, rule="hyperplane", skipped=None))
    assert not all(row["converged"] for row in rows_of(sweep, rule="hyperplane_paper", skipped=None))
    assert all(row[name] is None for row in rows_of(sweep, rule="cosine") for name in FIT)
    by_rule = {rule: rows_of(sweep, rule=rule, evaluation="patch", skipped=None) for rule in BOTH}
    assert np.mean([row["loss"] for row in by_rule["hyperplane"]]) < np.mean(
        [r["loss"] for r in by_rule["hyperplane_paper"]]
    )


def test_the_scales_are_those_of_the_features_over_the_training_rows(sweep):
    config = shapes_config(sweep)
    dataset, _ = labels_of(config, "train")
    split, transform = dataset.splits["train"], Transform(config.image_size, "none", 1.0, "bicubic")
    images = np.stack([transform.image(split.image(i)) for i in range(len(split))])
    tokens = load_backbone("untrained_dino_tiny").tokens(images, [(3, "x2")])[3, "x2"]
    deviation = np.asarray(tokens, np.float64)[:, 1:].std((0, 1))
    for row in rows_of(sweep, skipped=None):
        if row["rule"] in BOTH:
            assert row["scale_low"] == pytest.approx(deviation.min(), rel=1e-4)
            assert row["scale_high"] == pytest.approx(deviation.max(), rel=1e-4)


def test_the_papers_solver_has_one_note_a_backbone_and_the_default_none(sweep):
    fits = rows_of(sweep, rule="hyperplane_paper", evaluation="patch", skipped=None)
    missed = sum(not row["converged"] for row in fits)
    (note,) = [note for note in notes_of(sweep) if "--solver=paper" in note]
    assert note.startswith("untrained_dino_tiny, --solver=paper: SGD stops before the minimum by design")
    assert note.endswith(f": {missed} of {len(fits)} regressions did not converge")
    assert not any("--penalty" in note for note in notes_of(sweep))


def test_the_configuration_holds_what_the_solvers_read(sweep, tmp_path):
    record = json.loads((sweep / "config.json").read_text())
    assert record["solver"] == ["lbfgs", "paper"]
    assert record["rules"] == ["hyperplane", "cosine"]
    shared = {"rounds": 5, "pool_ratio": 20, "negative_ratio": 2}
    of_lbfgs, of_paper = {"penalty": 1e-3}, {"epochs": 3, "batch_size": 128, "learning_rate": 0.1}
    assert record["hyperplane"] == shared | of_lbfgs | of_paper
    assert shapes_config(tmp_path).resolved()["hyperplane"] == shared | of_lbfgs
    assert shapes_config(tmp_path, "--solver=paper").resolved()["hyperplane"] == shared | of_paper


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["lbfgs", "paper"])
def test_a_solver_alone_gives_the_same_rows(sweep, solver, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.sweep.write_report", lambda out: out / "none.html")
    rule = {"lbfgs": "hyperplane", "paper": "hyperplane_paper"}[solver]
    run_sweep(
        shapes_config(tmp_path / "out", "--tokens=x2", "--rules=hyperplane", f"--solver={solver}", "--noexamples")
    )
    rows = rows_of(tmp_path / "out")
    assert {row["rule"] for row in rows} == {rule}
    assert rows == rows_of(sweep, rule=rule)


def test_regressions_that_miss_their_minimum_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.sweep.write_report", lambda out: out / "none.html")
    monkeypatch.setattr(hyperplane, "MAX_STEPS", 1)
    out = tmp_path / "out"
    # No other test has this penalty: the number of steps is read when the program is traced.
    run_sweep(
        shapes_config(out, "--tokens=x2", "--rules=hyperplane", "--penalty=3e-6", "--nopixel_level", "--noexamples")
    )
    fits = rows_of(out, skipped=None)
    missed = [row for row in fits if not row["converged"]]
    assert len(missed) > 5
    (note,) = [note for note in notes_of(out) if "minimum" in note]
    named = ", ".join(f"{row['name']} ({row['category']})" for row in missed[:5])
    assert note == (
        f"untrained_dino_tiny, x2 of block 3: {len(missed)} of {len(fits)} hyperplane regressions did not reach their "
        f"minimum, those of {named} and {len(missed) - 5} more, which the report lists; raise --penalty (now 3e-06)"
    )


def test_flags_that_a_solver_does_not_read_are_refused_only_where_given(tmp_path):
    def config(*arguments):
        return make_config(tmp_path, "--dataset=shapes:4", "--backbones=untrained_dino_tiny", *arguments)

    assert config("--solver=lbfgs,paper", "--penalty=1e-2", "--learning_rate=1").solver == ("lbfgs", "paper")
    assert config("--rules=hyperplane,cosine", "--feature_norm=center").fitted_rules == ("hyperplane", "cosine")
    assert config("--rules=cosine", "--solver=lbfgs,paper").fitted_rules == ("cosine",)
    assert config("--rules=hyperplane", "--feature_norm=none").feature_norm == "none"
    for arguments, flag in (
        (["--learning_rate=0.1"], "learning_rate"),
        (["--solver=paper", "--penalty=0.001"], "penalty"),
        (["--rules=hyperplane", "--feature_norm=l2"], "feature_norm"),
        (["--rules=hyperplane,cosine_centered", "--feature_norm=l2"], "feature_norm"),
    ):
        with pytest.raises(InputError, match=f"--{flag}: applies to .* only; add .* or remove the flag"):
            config(*arguments)
