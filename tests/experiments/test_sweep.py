"""The sweep end to end on procedural images: complete, recomputable, resumable, reproducible."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from absl import flags, logging

from experiments import sweep as sweeps
from experiments.config import define_sweep_flags, sweep_config
from experiments.pixel_data import pixel_grid
from experiments.sweep import run_sweep
from tests.backbones.random_folder import save_random
from vitprobe_jax.backbones.loading import Backbone, load_backbone
from vitprobe_jax.data import open_dataset, shapes
from vitprobe_jax.data.labels import build_labels
from vitprobe_jax.data.shapes import LABELS
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.moments import highest_variance
from vitprobe_jax.metrics.results import FIT, METRICS, read_table
from vitprobe_jax.probes.sampling import draw_queries
from vitprobe_jax.probes.templates import load_templates
from vitprobe_jax.report.examples import read_examples

SHOTS, TRIALS, TOKENS = (1, 3), 2, ("k", "x2")
SMALL = ("--rules=hyperplane", "--tokens=k")


def make_config(out, *arguments):
    values = flags.FlagValues()
    define_sweep_flags(values)
    values(["sweep", f"--out={out}", *arguments])
    return sweep_config(values)


def shapes_config(out, *arguments):
    return make_config(
        out,
        "--dataset=shapes:64",
        "--backbones=untrained_dino_tiny",
        "--image_size=64",
        "--tokens=k,x2",
        "--rules=hyperplane,cosine,cosine_centered",
        "--shots=1,3",
        "--trials=2",
        "--categories=object,scene",
        "--pixel_level",
        *arguments,
    )


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    config = shapes_config(tmp_path_factory.mktemp("sweep") / "out")
    report = run_sweep(config)
    return config, report, read_table(config.out / "results.parquet").to_pylist()


@pytest.fixture
def without_page(monkeypatch):
    """Figures take longer than a small sweep; the sweep of this module has its page."""
    monkeypatch.setattr(sweeps, "write_report", lambda out: out / "none.html")


def labels_of(config, split):
    dataset = open_dataset(config.dataset, seed=config.seed).select(config.categories)
    transform = Transform(config.image_size, "none", 1.0, "bicubic")
    return dataset, build_labels(
        dataset.splits[split], dataset.concepts, transform=transform, patch_size=8, task="segmentation"
    )


def test_every_concept_token_and_rule_has_its_rows(sweep):
    config, _, rows = sweep
    dataset, labels = labels_of(config, "train")
    for k, concept in enumerate(dataset.concepts):
        for token in TOKENS:
            mine = [row for row in rows if (row["concept"], row["category"]) == (concept.number, concept.category)]
            mine = [row for row in mine if row["token"] == token]
            plane = [row for row in mine if row["rule"] == "hyperplane"]
            # What has no template is skipped in both evaluations.
            assert sorted(row["evaluation"] for row in plane) == ["patch", "pixel"]
            if any(row["skipped"] for row in plane):
                assert len({row["skipped"] for row in plane}) == 1
            for rule in ("cosine", "cosine_centered"):
                few_shot = [row for row in mine if row["rule"] == rule]
                assert {row["evaluation"] for row in few_shot} == {"patch"}
                if few_shot[0]["skipped"]:
                    assert [row["shots"] for row in few_shot] == list(SHOTS)
                else:
                    assert len(few_shot) == len(SHOTS) * TRIALS
            positives = int(labels.carries(k).sum())
            assert plane[0]["n_pos_train"] == positives
            if positives < config.min_positives:
                assert plane[0]["skipped"]
                assert few_shot[0]["skipped"]


def test_some_concepts_are_skipped_with_a_reason_and_no_numbers(sweep):
    skipped = [row for row in sweep[2] if row["skipped"]]
    assert {row["skipped"].split()[0] for row in skipped} & {"no"}
    assert all(row[metric] is None for row in skipped for metric in (*METRICS, *FIT, "threshold"))


def test_results_recomputed_from_saved_templates_equal_the_table(sweep):
    """Plain NumPy on tokens of single images; a row within rounding of its threshold may fall on either side."""
    config, _, rows = sweep
    dataset, labels = labels_of(config, "val")
    split, backbone = dataset.splits["val"], load_backbone("untrained_dino_tiny")
    transform = Transform(config.image_size, "none", 1.0, "bicubic")
    images = np.stack([transform.image(split.image(i)) for i in range(len(split))])
    queries = draw_queries(labels, trials=TRIALS, seed=config.seed)
    checked = 0
    for token in TOKENS:
        z = np.asarray(backbone.tokens(images, [(3, token)])[3, token], np.float64)[:, 1:]
        folder = config.out / "templates" / "untrained_dino_tiny"
        by_rule = {rule: load_templates(folder / f"3_{token}_{rule}.safetensors") for rule in config.rules}
        for row in rows:
            if row["token"] != token or row["skipped"] or row["evaluation"] == "pixel":
                continue
            templates = by_rule[row["rule"]]
            place = [(c.number, c.category) for c in templates.concepts].index((row["concept"], row["category"]))
            k = [(c.number, c.category) for c in dataset.concepts].index((row["concept"], row["category"]))
            pos = labels.carries(k)
            neg = labels.in_category(int(labels.concept_category[k])) & ~pos
            if row["rule"] == "hyperplane":
                scores = z @ templates.arrays["w"][place] - templates.arrays["b"][place]
            else:
                s, trial = SHOTS.index(row["shots"]), row["trial"]
                alpha, t = templates.arrays["alpha"][s, trial, place], templates.arrays["t"][s, trial, place]
                shifted = z - templates.arrays["shift"]
                scores = shifted @ alpha / np.linalg.norm(shifted, axis=-1) / np.linalg.norm(alpha) - t
                drawn = queries.images[k, trial, : queries.counts[k, trial]]
                scores, pos, neg = scores[drawn], pos[drawn], neg[drawn]
            assert (row["n_pos_test"], row["n_neg_test"]) == (pos.sum(), neg.sum())
            tpr = (scores[pos] >= 0).mean()
            fpr = (scores[neg] >= 0).mean()
            doubt = max((np.abs(scores[side]) < 1e-4).mean() for side in (pos, neg))
            assert row["recall"] == pytest.approx(tpr, abs=doubt + 1e-9)
            assert row["accuracy"] == pytest.approx((tpr + 1 - fpr) / 2, abs=doubt + 1e-9)
            if not row["degenerate"] and doubt == 0:
                precision = tpr / (tpr + fpr)
                assert row["precision"] == pytest.approx(precision)
                assert row["f1"] == pytest.approx(2 * precision * tpr / (precision + tpr))
            checked += 1
    assert checked > 100


def test_the_centered_rule_is_the_cosine_rule_less_the_training_mean(sweep):
    """On the same draws, and whatever the feature norm is, which here is none."""
    config, _, rows = sweep
    dataset, _ = labels_of(config, "train")
    split, transform = dataset.splits["train"], Transform(config.image_size, "none", 1.0, "bicubic")
    images = np.stack([transform.image(split.image(i)) for i in range(len(split))])
    folder = config.out / "templates" / "untrained_dino_tiny"
    for token in TOKENS:
        z = np.asarray(load_backbone("untrained_dino_tiny").tokens(images, [(3, token)])[3, token], np.float64)[:, 1:]
        plain, centered = (load_templates(folder / f"3_{token}_{rule}.safetensors") for rule in config.rules[1:])
        np.testing.assert_allclose(centered.arrays["shift"], z.mean((0, 1)), rtol=1e-4, atol=1e-5)
        assert not plain.arrays["shift"].any()
        assert (centered.arrays["scale"] == 1).all()
        # The mean of the same rows, less the mean of all.
        difference = plain.arrays["alpha"] - centered.arrays["alpha"]
        np.testing.assert_allclose(
            difference, np.broadcast_to(centered.arrays["shift"], difference.shape), rtol=1e-3, atol=1e-4
        )
    drawn = (
        "concept",
        "category",
        "token",
        "shots",
        "trial",
        "effective_shots",
        "n_pos_train",
        "n_pos_test",
        "n_neg_test",
    )
    by_rule = [[[row[name] for name in drawn] for row in rows if row["rule"] == rule] for rule in config.rules[1:]]
    assert by_rule[0] == by_rule[1]


def test_pixel_rows_recomputed_from_saved_templates_and_masks_equal_the_table(sweep):
    """PyTorch's interpolation of the margins, and masks as the data set gives them, at every second pixel."""
    config, _, rows = sweep
    dataset, _ = labels_of(config, "val")
    split, backbone = dataset.splits["val"], load_backbone("untrained_dino_tiny")
    transform = Transform(config.image_size, "none", 1.0, "bicubic")
    images = np.stack([transform.image(split.image(i)) for i in range(len(split))])
    carried = {category: [] for category in dataset.categories}
    for i in range(len(split)):
        annotation = split.annotation(i)
        layers = {category: [] for category in dataset.categories}
        for category, mask in (mask for mask in annotation.masks if mask[0] in layers):
            layers[category].append(transform.mask(mask, annotation.image_size or mask.shape)[1::2, 1::2])
        for category, label in (label for label in annotation.labels if label[0] in layers):
            layers[category].append(np.full((32, 32), label))
        for category, of_category in layers.items():
            carried[category].append(np.stack([*of_category, *[np.zeros((32, 32), int)] * (3 - len(of_category))]))
    carried = {category: np.stack(of_images) for category, of_images in carried.items()}
    planes = [row for row in rows if (row["rule"], row["evaluation"]) == ("hyperplane", "patch")]
    patch_rows = {(row["token"], row["concept"], row["category"]): row for row in planes}
    checked = 0
    for token in TOKENS:
        templates = load_templates(
            config.out / "templates" / "untrained_dino_tiny" / f"3_{token}_hyperplane.safetensors"
        )
        z = np.asarray(backbone.tokens(images, [(3, token)])[3, token], np.float64)[:, 1:]
        for place, concept in enumerate(templates.concepts):
            margins = z @ templates.arrays["w"][place] - templates.arrays["b"][place]
            grid = torch.from_numpy(margins.reshape(-1, 1, 8, 8))
            maps = torch.nn.functional.interpolate(grid, size=(32, 32), mode="bilinear", align_corners=False)[:, 0]
            pos = (carried[concept.category] == concept.number).any(1)
            neg = (carried[concept.category] > 0).any(1) & ~pos
            found, doubt = maps.numpy() >= 0, (np.abs(maps.numpy()) < 1e-4).mean()
            (row,) = [
                row
                for row in rows
                if (row["token"], row["concept"], row["category"]) == (token, concept.number, concept.category)
                and row["evaluation"] == "pixel"
            ]
            assert (row["n_pos_test"], row["n_neg_test"]) == (pos.sum(), neg.sum())
            assert row["recall"] == pytest.approx(found[pos].mean(), abs=doubt * found.size / pos.sum() + 1e-9)
            same = ("n_pos_train", "n_neg_train", "threshold", *FIT, "layer", "rule", "backbone")
            of_patches = patch_rows[token, concept.number, concept.category]
            assert [row[name] for name in same] == [of_patches[name] for name in same]
            checked += 1
    assert checked > 20


def test_the_folder_says_what_was_done(sweep):
    config, report, _ = sweep
    assert report == config.out / "report" / "index.html"
    assert "untrained control" in report.read_text()
    record = json.loads((config.out / "config.json").read_text())
    assert record["shots"] == [1, 3]
    assert record["dataset"] == "shapes:64"
    run = json.loads((config.out / "run.json").read_text())
    assert run["versions"]["jax"]
    assert any("untrained control" in note for note in run["notes"])
    assert {stage["unit"] for stage in run["stages"]} == {"images", "concepts"}


@pytest.mark.slow
@pytest.mark.usefixtures("without_page")
def test_the_run_tells_of_the_feature_norm(tmp_path):
    config = shapes_config(
        tmp_path / "out", "--tokens=x2", "--rules=hyperplane", "--solver=paper", "--feature_norm=center"
    )
    run_sweep(config)
    notes = json.loads((config.out / "run.json").read_text())["notes"]
    assert any(note.startswith("--feature_norm=center: the training mean") for note in notes)


@pytest.mark.slow
@pytest.mark.usefixtures("without_page")
def test_without_features_of_high_variance_a_backbone_is_a_variant_of_its_own(sweep, tmp_path):
    """Under every rule the same ones are left out; on the draws of the whole backbone, beside which it can stand."""
    config = shapes_config(tmp_path / "out", "--tokens=x2", "--drop_features=10", "--nopixel_level", "--noexamples")
    run_sweep(config)
    rows = read_table(config.out / "results.parquet").to_pylist()
    assert {row["backbone"] for row in rows} == {"untrained_dino_tiny-10"}
    drawn = ("concept", "category", "rule", "shots", "trial", "n_pos_train", "n_pos_test", "n_neg_test")
    whole = [row for row in sweep[2] if row["token"] == "x2" and row["evaluation"] == "patch"]
    assert [[row[name] for name in drawn] for row in rows] == [[row[name] for name in drawn] for row in whole]
    notes = json.loads((config.out / "run.json").read_text())["notes"]
    assert any(note.startswith("--drop_features=10:") for note in notes)

    dataset, _ = labels_of(config, "train")
    split, transform = dataset.splits["train"], Transform(config.image_size, "none", 1.0, "bicubic")
    images = np.stack([transform.image(split.image(i)) for i in range(len(split))])
    backbone = load_backbone("untrained_dino_tiny")
    variance = np.asarray(backbone.tokens(images, [(3, "x2")])[3, "x2"], np.float64)[:, 1:].var((0, 1))
    keep = highest_variance(variance, 10)
    folder = config.out / "templates" / "untrained_dino_tiny-10"
    plane, plain, centered = (load_templates(folder / f"3_x2_{rule}.safetensors") for rule in config.rules)
    np.testing.assert_array_equal((plane.arrays["w"] != 0).any(0), keep)
    for few_shot in (plain, centered):
        np.testing.assert_array_equal(np.isfinite(few_shot.arrays["scale"]), keep)
        np.testing.assert_array_equal((few_shot.arrays["alpha"] != 0).any((0, 1, 2)), keep)
    # They apply to the tokens of the whole backbone.
    assert plane.predict(backbone, images[:1]).shape == (1, 8, 8, len(plane.concepts))
    with pytest.raises(InputError, match="fitted on untrained_dino_tiny-10, not on untrained_mae_tiny"):
        plane.predict(load_backbone("untrained_mae_tiny"), images[:1])


def same_results(out, reference):
    """The bytes of everything that a sweep comes to."""
    for path in [
        reference / "results.parquet",
        *(reference / "templates").rglob("*.*"),
        *(reference / "cells").rglob("*.*"),
        *(reference / "examples").iterdir(),
    ]:
        assert (out / path.relative_to(reference)).read_bytes() == path.read_bytes(), path
    return True


@pytest.mark.usefixtures("without_page")
def test_a_resumed_sweep_ends_in_the_same_bytes(sweep, tmp_path):
    """A stop is a folder in which some cells are missing; here also the features come from a cache the second time."""
    arguments = (f"--cache_dir={tmp_path / 'cache'}",)
    config = shapes_config(tmp_path / "out", *arguments)
    run_sweep(config)
    assert same_results(Path(config.out), Path(sweep[0].out))
    lost = [config.out / "cells" / "untrained_dino_tiny" / name for name in ("3_k_cosine", "3_x2_hyperplane")]
    for path in lost:
        path.with_suffix(".parquet").unlink()
    (config.out / "results.parquet").unlink()
    stages = len(json.loads((config.out / "run.json").read_text())["stages"])
    run_sweep(dataclasses.replace(config, resume=True))
    assert same_results(Path(config.out), Path(sweep[0].out))
    # What the stopped run did is not forgotten.
    assert len(json.loads((config.out / "run.json").read_text())["stages"]) > stages


@pytest.mark.slow
@pytest.mark.usefixtures("without_page")
def test_memory_bounds_and_devices_change_no_byte(sweep, tmp_path):
    """One cell a pass over the images, the training table streamed in blocks: 48 images x 64 x 96 are 1.1 MiB.

    On one device of the eight, too.
    """
    config = shapes_config(tmp_path / "out", "--host_memory=2", "--device_memory=1", "--mesh=1")
    run_sweep(config)
    extractions = [s for s in json.loads((config.out / "run.json").read_text())["stages"] if "extract" in s["stage"]]
    assert len(extractions) == 2 * len(TOKENS)
    assert same_results(Path(config.out), Path(sweep[0].out))


@pytest.mark.slow
@pytest.mark.usefixtures("without_page")
def test_fewer_patches_an_image_are_a_sample_of_the_same(sweep, tmp_path):
    config = shapes_config(tmp_path / "out", "--patches_per_image=8", "--nopixel_level", *SMALL)
    run_sweep(config)
    rows = {(row["name"], row["category"]): row for row in read_table(config.out / "results.parquet").to_pylist()}
    wanted = ("k", "hyperplane", "patch")
    whole = [row for row in sweep[2] if (row["token"], row["rule"], row["evaluation"]) == wanted]
    for row in whole:
        sampled = rows[row["name"], row["category"]]
        assert sampled["n_pos_train"] <= row["n_pos_train"]
        assert sampled["n_pos_train"] + sampled["n_neg_train"] <= 48 * 8
    shares = [
        rows[row["name"], row["category"]]["n_pos_train"] / row["n_pos_train"]
        for row in whole
        if row["n_pos_train"] > 99
    ]
    # Of 64 patches 8 are kept, of which in an annotated image all carry some label.
    assert np.mean(shares) == pytest.approx(8 / 64, rel=0.5)
    notes = json.loads((config.out / "run.json").read_text())["notes"]
    assert any("--patches_per_image=8" in note for note in notes)
    # The report shows all patches all the same.
    assert {row.found.shape for row in read_examples(config.out).rows} == {(8, 8)}


def test_a_dry_run_tells_the_plan_and_touches_nothing(sweep, tmp_path, capsys):
    config = shapes_config(tmp_path / "out", "--dry_run", f"--cache_dir={tmp_path / 'cache'}")
    assert run_sweep(config) is None
    text = capsys.readouterr().out
    assert "2 (block, token) pairs, 0 cells finished" in text
    assert "on disk, 0% there" in text
    assert "images/s" in text
    # Which patches are kept hangs on the labels, which a run that is no dry one would keep in the cache.
    run_sweep(dataclasses.replace(config, patches_per_image=4, pixel_level=False))
    assert list(tmp_path.iterdir()) == []
    capsys.readouterr()
    run_sweep(dataclasses.replace(sweep[0], dry_run=True, resume=True))
    assert "all 6 cells are finished" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("without_page")
def test_other_weights_in_the_same_cache_are_told_apart(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(logging, "warning", lambda text, *arguments: told.append(text % arguments))
    small = ("--tokens=k", "--rules=hyperplane", f"--cache_dir={tmp_path / 'cache'}")
    run_sweep(shapes_config(tmp_path / "a", *small))
    assert not told
    run_sweep(shapes_config(tmp_path / "b", *small, "--dtype=bfloat16"))
    assert any("dtype is 'float32' there, 'bfloat16' here" in text for text in told)


def test_a_folder_of_another_configuration_is_refused_and_stays(sweep):
    config, report, _ = sweep
    before = {path: path.stat().st_mtime_ns for path in Path(config.out).rglob("*")}
    with pytest.raises(InputError, match=r"--trials was 2, is 3"):
        run_sweep(dataclasses.replace(config, trials=3, resume=True))
    with pytest.raises(InputError, match="add --resume"):
        run_sweep(config)
    assert {path: path.stat().st_mtime_ns for path in Path(config.out).rglob("*")} == before
    assert report.exists()


@pytest.mark.parametrize("other", ["--patches_per_image=8", "--task=classification"])
def test_pixels_of_what_has_no_score_maps_are_refused(tmp_path, other):
    with pytest.raises(InputError, match=rf"--pixel_level.*{other.partition('=')[0]}"):
        shapes_config(tmp_path / "out", other)


def test_an_odd_image_size_has_no_every_second_pixel(tmp_path):
    """No bundled backbone has an odd patch, so one is made."""
    spec = load_backbone("untrained_dino_tiny").spec
    odd = dataclasses.replace(spec, config=dataclasses.replace(spec.config, patch_size=7))
    config = shapes_config(tmp_path / "out", "--image_size=49")
    with pytest.raises(InputError, match=r"--pixel_level.*49x49.*even"):
        pixel_grid(config, Backbone(odd, {}))
    assert pixel_grid(dataclasses.replace(config, image_size=(56, 28)), Backbone(odd, {})) == (28, 14)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="holds no run"):
        run_sweep(shapes_config(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.slow
@pytest.mark.usefixtures("without_page")
def test_classification_of_class_folders(tmp_path):
    """Two classes of plain colours: separable by any token. A file that is no image is left out and counted.

    One of the backbones has no [CLS]: the mean of its patches takes part, and the run says so.
    """
    from PIL import Image

    for split, count in (("train", 12), ("val", 8)):
        for name, colour in (("blue", (30, 40, 200)), ("red", (200, 40, 30))):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                noise = np.random.default_rng(i).integers(0, 25, (70, 90, 3))
                Image.fromarray((noise + colour).clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    (tmp_path / "images" / "train" / "red" / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    config = make_config(
        tmp_path / "out",
        "--task=classification",
        f"--dataset=imagefolder:{tmp_path / 'images'}",
        f"--backbones=untrained_dino_tiny,{save_random(tmp_path, 'ijepa', width=96)}",
        "--tokens=x2",
        "--shots=5",
        "--trials=2",
    )
    run_sweep(config)
    table = read_table(config.out / "results.parquet")
    assert pc.unique(table["backbone"]).to_pylist() == ["untrained_dino_tiny", "ijepa"]
    plane = table.filter(pc.equal(table["rule"], "hyperplane"))
    assert sorted(set(plane["n_pos_train"].to_pylist())) == [12]
    # The [CLS] of an untrained model hardly moves with the input, but what it does is enough for two plain colours.
    assert np.mean(plane["accuracy"].to_pylist()) > 0.9
    notes = json.loads((config.out / "run.json").read_text())["notes"]
    assert any("broken.jpg" in note for note in notes)
    assert [note for note in notes if "mean of its patch tokens" in note] == [
        "ijepa: the mean of its patch tokens stands for the image, as it has no [CLS]"
    ]


def test_few_positives_and_other_limits_are_skipped_rows(tmp_path):
    config = shapes_config(tmp_path / "out", "--min_positives=1000000", "--rules=hyperplane", "--tokens=k")
    run_sweep(config)
    rows = read_table(config.out / "results.parquet").to_pylist()
    assert rows
    assert all(row["skipped"] for row in rows)
    assert any("fewer than --min_positives=1000000" in row["skipped"] for row in rows)
    assert Path(config.out / "report" / "index.html").exists()


SEEDED = ("--tokens=k", "--rules=hyperplane,cosine", "--nopixel_level", "--noexamples", "--max_images=40")


@pytest.fixture(scope="module")
def of_seeds(tmp_path_factory):
    """A sweep of the seeds 3 and 4, whose images are those that 3 draws."""
    config = shapes_config(tmp_path_factory.mktemp("seeds") / "out", *SEEDED, "--seed=3", "--seeds=2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeps, "write_report", lambda out: out / "none.html")
        run_sweep(config)
    return config, read_table(config.out / "results.parquet").to_pylist()


@pytest.mark.usefixtures("without_page")
def test_each_seed_has_its_own_draws_and_fits_on_the_same_features(of_seeds, tmp_path):
    config, rows = of_seeds
    first, second = ([row for row in rows if row["seed"] == seed] for seed in (3, 4))
    assert len(first) + len(second) == len(rows)
    cell = ("layer", "token", "rule", "shots", "trial", "concept", "category", "skipped")
    assert [[row[name] for name in cell] for row in first] == [[row[name] for name in cell] for row in second]
    # What is no draw is the same: the rows of images that 3 drew.
    planes = [[row for row in own if row["rule"] == "hyperplane"] for own in (first, second)]
    counts = ("n_pos_train", "n_neg_train", "n_pos_test", "n_neg_test")
    assert [[row[name] for name in counts] for row in planes[0]] == [
        [row[name] for name in counts] for row in planes[1]
    ]
    # Concepts with no more images than shots have one support set, whatever the seed.
    for rule, share in (("hyperplane", 0.9), ("cosine", 0.5)):
        thresholds = [
            [row["threshold"] for row in own if row["rule"] == rule and not row["skipped"]] for own in (first, second)
        ]
        assert np.mean(np.array(thresholds[0]) != np.array(thresholds[1])) > share
    # The first seed is a sweep of its own: the same rows and templates.
    alone = dataclasses.replace(config, seeds=1, out=type(config.out)(tmp_path / "alone"))
    run_sweep(alone)
    assert read_table(alone.out / "results.parquet").to_pylist() == first
    for path in (Path(alone.out) / "templates").rglob("*.*"):
        assert (config.out / path.relative_to(alone.out)).read_bytes() == path.read_bytes()
    assert len(list((Path(config.out) / "templates").rglob("*.*"))) == 2
    notes = json.loads((config.out / "run.json").read_text())["notes"]
    assert any(note.startswith("--seeds=2: draws and fits are repeated for the seeds 3 to 4") for note in notes)


@pytest.mark.usefixtures("without_page")
@pytest.mark.parametrize("rest", ["3_k_cosine_seed4", "3_k_hyperplane", None])
def test_a_resumed_sweep_of_seeds_ends_in_the_same_bytes(of_seeds, tmp_path, rest):
    """It was stopped after the draws of one seed or before the last fit, or has nothing left to do."""
    config, _ = of_seeds
    out = tmp_path / "out"
    shutil.copytree(config.out, out)
    if rest:
        (out / "cells" / "untrained_dino_tiny" / f"{rest}.parquet").unlink()
        (out / "results.parquet").unlink()
    run_sweep(dataclasses.replace(config, out=type(config.out)(out), resume=True))
    for path in [*Path(config.out).rglob("*.parquet"), *(Path(config.out) / "templates").rglob("*.*")]:
        assert (out / path.relative_to(config.out)).read_bytes() == path.read_bytes(), path


def test_a_dry_run_counts_the_fits_of_all_seeds(of_seeds, tmp_path, capsys):
    config, _ = of_seeds
    run_sweep(dataclasses.replace(config, out=type(config.out)(tmp_path / "out"), dry_run=True))
    text = capsys.readouterr().out
    # 40 images at most of each split; they are extracted once.
    assert "1 pass over the images, 56 images in all" in text
    assert "4 fits: each pair under each rule and seed" in text


@pytest.mark.parametrize(("seed", "seeds"), [(0, 0), (2**32 - 1, 2), (5, -1)])
def test_seeds_beyond_what_a_generator_takes_are_refused(tmp_path, seed, seeds):
    with pytest.raises(InputError, match="--seeds: must be at least 1"):
        shapes_config(tmp_path / "out", f"--seed={seed}", f"--seeds={seeds}")
    last = shapes_config(tmp_path / "out", f"--seed={2**32 - 2}", "--seeds=2").by_seed()
    assert [seeded.seed for seeded in last] == [2**32 - 2, 2**32 - 1]


@pytest.mark.usefixtures("without_page")
def test_a_label_of_two_categories_is_one_concept_and_its_other_rows_stay_negatives(tmp_path):
    """Whoever is probed has the same rows, templates and numbers as where all categories are; others have no row."""
    arguments = ("--tokens=k", "--rules=hyperplane,cosine", "--categories=object,part,material", "--noexamples")
    tables = {}
    for choice in ("primary", "all"):
        config = shapes_config(tmp_path / choice, *arguments, f"--label_categories={choice}")
        run_sweep(config)
        tables[choice] = read_table(config.out / "results.parquet").to_pylist()
    probed = {(row["concept"], row["category"]) for row in tables["primary"]}
    everything = {(row["concept"], row["category"]) for row in tables["all"]}
    both = [number for number, _, categories in LABELS if len(categories) == 2]
    assert len(everything) - len(probed) == len(both) == 5
    assert len({number for number, _ in probed}) == len(probed)
    # Water is an object and a material, wheels are parts of cars rather than objects.
    assert {(253, "object"), (252, "part")} <= probed
    assert tables["primary"] == [row for row in tables["all"] if (row["concept"], row["category"]) in probed]
    notes = {choice: json.loads((tmp_path / choice / "run.json").read_text())["notes"] for choice in tables}
    labels = len(probed)
    assert (
        f"--label_categories=primary: {labels} labels, 5 of them in more than one category; these are counted once, in the "
        "category that they cover most of"
    ) in notes["primary"]
    assert (
        f"--label_categories=all: {labels} labels, 5 of them in more than one category; each category is a concept of its "
        f"own, {labels + 5} concepts in all"
    ) in notes["all"]
    with pytest.raises(InputError, match="--label_categories was 'primary', is 'all'"):
        run_sweep(shapes_config(tmp_path / "primary", *arguments, "--label_categories=all", "--resume"))


def test_other_primary_categories_are_other_data(tmp_path, monkeypatch):
    """They stand in files that are in no fingerprint: the features of the images stay good."""
    arguments = (
        "--tokens=k",
        "--rules=hyperplane",
        "--categories=object,part",
        "--noexamples",
        "--min_positives=9999999",
    )
    monkeypatch.setattr(sweeps, "write_report", lambda out: out / "none.html")
    run_sweep(shapes_config(tmp_path / "out", *arguments))
    monkeypatch.setitem(shapes._COVERAGE, ("wheel", "object"), 7.0)
    with pytest.raises(InputError, match="the primary category of labels changed"):
        run_sweep(shapes_config(tmp_path / "out", *arguments, "--resume"))


@pytest.mark.slow
@pytest.mark.usefixtures("without_page")
def test_several_passes_and_a_stop_between_seeds_change_no_byte(tmp_path):
    """Cells of one pass are open under different seeds when the sweep goes on; features are released once."""
    arguments = (*SEEDED, "--tokens=k,x2", "--seeds=3")
    reference = shapes_config(tmp_path / "reference", *arguments)
    run_sweep(reference)
    config = shapes_config(tmp_path / "out", *arguments, "--host_memory=2", "--device_memory=1")
    run_sweep(config)
    for lost in ("3_k_hyperplane_seed1", "3_k_cosine", "3_x2_cosine_seed2"):
        (config.out / "cells" / "untrained_dino_tiny" / f"{lost}.parquet").unlink()
    run_sweep(dataclasses.replace(config, resume=True))
    # In one pass, too, where the seeds that are open differ from cell to cell.
    for lost in ("3_k_hyperplane_seed1", "3_x2_cosine_seed2"):
        (reference.out / "cells" / "untrained_dino_tiny" / f"{lost}.parquet").unlink()
    run_sweep(dataclasses.replace(reference, resume=True))
    assert len(list(Path(reference.out).rglob("cells/*/*.parquet"))) == 12
    for path in [*Path(reference.out).rglob("*.parquet"), *(Path(reference.out) / "templates").rglob("*.*")]:
        assert (config.out / path.relative_to(reference.out)).read_bytes() == path.read_bytes(), path
