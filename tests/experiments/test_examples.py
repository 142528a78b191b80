"""What a sweep keeps for the report, recomputed by plain loops from templates, annotations and images."""

import dataclasses
import io

import numpy as np
import pytest
from absl import flags
from PIL import Image

from experiments import examples as made
from experiments import sweep as sweeps
from experiments.config import define_sweep_flags, sweep_config
from experiments.sweep import run_sweep
from vitprobe_jax.backbones.loading import load_backbone
from vitprobe_jax.data import open_dataset
from vitprobe_jax.data.labels import build_labels
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.errors import InputError
from vitprobe_jax.metrics.results import read_table
from vitprobe_jax.probes.templates import load_templates
from vitprobe_jax.report.examples import LEFT_OUT, NEGATIVE, POSITIVE, masks_path, read_examples

pytestmark = pytest.mark.slow

RULES = ("hyperplane", "cosine", "cosine_centered")
BACKBONES = ("untrained_dino_tiny", "untrained_mae_tiny")


def make_config(out, *arguments):
    values = flags.FlagValues()
    define_sweep_flags(values)
    small = ("--dataset=shapes:96", "--image_size=64", "--tokens=v,x2", "--shots=1,3", "--trials=2")
    few = (f"--rules={','.join(RULES)}", "--categories=object,scene", f"--backbones={','.join(BACKBONES)}")
    values(["sweep", f"--out={out}", *small, *few, *arguments])
    return sweep_config(values)


@pytest.fixture(scope="module", autouse=True)
def few_candidates_and_no_page():
    """So few that of some concepts not all images are looked at. Figures take longer than a small sweep."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made, "LOOKED_AT", 7)
        patch.setattr(sweeps, "write_report", lambda out: out / "none.html")
        yield


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    config = make_config(tmp_path_factory.mktemp("examples") / "out")
    run_sweep(config)
    return config, read_examples(config.out), read_table(config.out / "results.parquet").to_pylist()


@pytest.fixture(scope="module")
def held_out(sweep):
    """The data set, its held-out images and the labels of their patches."""
    config = sweep[0]
    dataset = open_dataset(config.dataset, seed=config.seed).select(config.categories)
    split, transform = dataset.splits["val"], Transform(config.image_size, "none", 1.0, "bicubic")
    labels = build_labels(split, dataset.concepts, transform=transform, patch_size=8, task="segmentation")
    return dataset, np.stack([transform.image(split.image(i)) for i in range(len(split))]), labels


def best_cell(rows, backbone, rule):
    """(layer, token) of the highest mean F1 and every concept's F1 there, at the most shots."""
    chosen = [
        r for r in rows if (r["backbone"], r["rule"], r["evaluation"], r["skipped"]) == (backbone, rule, "patch", None)
    ]
    chosen = [r for r in chosen if r["shots"] in (None, 3)]
    by_token = {}
    for token in ("v", "x2"):
        mine = [r for r in chosen if r["token"] == token]
        concepts = list(dict.fromkeys((r["concept"], r["category"]) for r in mine))
        by_token[token] = {c: np.mean([r["f1"] for r in mine if (r["concept"], r["category"]) == c]) for c in concepts}
    token = max(by_token, key=lambda token: np.mean(list(by_token[token].values())))
    return token, by_token[token]


def sides(labels, k):
    pos = labels.carries(k)
    return pos, labels.in_category(int(labels.concept_category[k]))


def found_by(config, backbone, token, rule, images):
    """[images, R, K] of the templates of the most shots and the first trial, and the concepts' names."""
    templates = load_templates(config.out / "templates" / backbone / f"3_{token}_{rule}.safetensors")
    found = templates.predict(load_backbone(backbone), images)
    found = found.reshape(len(images), 64, *([] if rule == "hyperplane" else [2, 2]), len(templates.concepts))
    return (found if rule == "hyperplane" else found[:, :, -1, 0]), templates.concepts


def test_every_template_is_shown_where_its_concept_covers_most(sweep, held_out):
    config, examples, rows = sweep
    dataset, images, labels = held_out
    names = [dataset.splits["val"].name(i) for i in range(len(images))]
    shown = [row for row in examples.rows if row.kind == "coverage"]
    expected = []
    for backbone in BACKBONES:
        for rule in RULES:
            token, _ = best_cell(rows, backbone, rule)
            found, concepts = found_by(config, backbone, token, rule, images)
            for place, concept in enumerate(concepts):
                pos, part = sides(labels, labels.concepts.index(concept))
                image = max(range(len(images)), key=lambda i: (pos[i].sum(), -i))
                truth = np.where(pos[image], POSITIVE, np.where(part[image], NEGATIVE, LEFT_OUT))
                both = (found[image, :, place] & pos[image]).sum()
                either = (pos[image] | found[image, :, place] & part[image]).sum()
                expected.append(
                    (backbone, token, rule, concept, names[image], both / either, truth, found[image, :, place])
                )
    assert len(shown) == len(expected) > 50
    doubted = 0
    for row, (backbone, token, rule, concept, image, iou, truth, found) in zip(shown, expected, strict=True):
        assert (row.backbone, row.layer, row.token, row.rule) == (backbone, 3, token, rule)
        assert row.shots == (None if rule == "hyperplane" else 3)
        assert (row.concept, row.name, row.category) == (concept.number, concept.name, concept.category)
        assert row.image == image
        np.testing.assert_array_equal(row.truth.ravel(), truth)
        # `predict` computes other batches: a patch within rounding of the threshold may fall on either side.
        differing = (row.found.ravel() != found).sum()
        doubted += differing
        assert row.iou == pytest.approx(iou) or differing
    assert doubted <= 2


def test_the_best_concepts_are_shown_on_the_images_of_highest_iou(sweep, held_out):
    config, examples, rows = sweep
    dataset, images, labels = held_out
    names = [dataset.splits["val"].name(i) for i in range(len(images))]
    shown = [row for row in examples.rows if row.kind == "iou"]
    assert len(shown) > 5 * 6
    for backbone in BACKBONES:
        for rule in RULES:
            token, f1 = best_cell(rows, backbone, rule)
            found, concepts = found_by(config, backbone, token, rule, images)
            mine = [row for row in shown if (row.backbone, row.rule) == (backbone, rule)]
            assert {row.token for row in mine} == {token}
            best = {(row.concept, row.category) for row in mine}
            assert len(best) == 5
            assert min(f1[c] for c in best) >= max(f1[c] for c in f1.keys() - best) - 1e-9
            for concept in best:
                own = [row for row in mine if (row.concept, row.category) == concept]
                k = next(k for k, c in enumerate(labels.concepts) if (c.number, c.category) == concept)
                place = concepts.index(labels.concepts[k])
                pos, part = sides(labels, k)
                coverage = pos.sum(1)
                looked_at = [i for i in np.argsort(-coverage, kind="stable")[:7] if coverage[i]]
                either = (pos | found[..., place] & part).sum(1)
                iou = (found[..., place] & pos).sum(1) / np.maximum(either, 1)
                assert len(own) == min(5, len(looked_at))
                expected = sorted((iou[i] for i in looked_at), reverse=True)[:5]
                assert [row.iou for row in own] == pytest.approx(expected, abs=0.05)
                assert {row.image for row in own} <= {names[i] for i in looked_at}
                assert [row.iou for row in own] == sorted((row.iou for row in own), reverse=True)


def test_the_papers_tokens_are_kept_where_others_are_best(tmp_path):
    """k for hyperplanes and q for cosine templates, at the last probed block."""
    config = make_config(tmp_path / "out", "--tokens=q,k,x2", "--layers=1,3")
    run_sweep(config)
    rows = read_table(config.out / "results.parquet").to_pylist()
    shown = read_examples(config.out).rows
    for backbone in BACKBONES:
        for rule, token in (("hyperplane", "k"), ("cosine", "q"), ("cosine_centered", None)):
            mine = [row for row in shown if (row.backbone, row.rule) == (backbone, rule)]
            ((layer, best),) = {(row.layer, row.token) for row in mine if row.choice == "best"}
            of_paper = [row for row in mine if row.choice == "paper"]
            if token is None or (layer, best) == (3, token):
                assert not of_paper
                continue
            assert {(row.layer, row.token) for row in of_paper} == {(3, token)}
            chosen = [
                row
                for row in rows
                if (row["backbone"], row["rule"], row["layer"], row["token"]) == (backbone, rule, 3, token)
                and row["skipped"] is None
                and row["shots"] in (None, 3)
            ]
            concepts = list(dict.fromkeys((row["concept"], row["category"]) for row in chosen))
            coverage = [row for row in of_paper if row.kind == "coverage"]
            assert [(row.concept, row.category) for row in coverage] == concepts
            f1 = {c: np.mean([r["f1"] for r in chosen if (r["concept"], r["category"]) == c]) for c in concepts}
            on_best = {(row.concept, row.category) for row in of_paper if row.kind == "iou"}
            assert len(on_best) == 5
            assert min(f1[c] for c in on_best) >= max(f1[c] for c in f1.keys() - on_best) - 1e-9
    assert any(row.choice == "paper" for row in shown)


def test_images_are_those_that_are_shown_small_and_as_the_backbone_saw_them(sweep, held_out):
    _, examples, _ = sweep
    dataset, images, _ = held_out
    assert set(examples.images) == {row.image for row in examples.rows}
    names = [dataset.splits["val"].name(i) for i in range(len(images))]
    for name, jpeg in examples.images.items():
        picture = Image.open(io.BytesIO(jpeg))
        assert picture.format == "JPEG"
        assert max(picture.size) == 64  # Small ones are not enlarged.
        difference = np.abs(images.astype(float) - np.asarray(picture, float)).mean((1, 2, 3))
        assert names[difference.argmin()] == name
        assert difference.min() < 16
    large = np.asarray(Image.open(io.BytesIO(made._jpeg(np.zeros((224, 448, 3), np.uint8)))))
    assert large.shape == (80, 160, 3)


@pytest.mark.slow
def test_resuming_keeps_what_is_whole_and_makes_what_is_missing_again(sweep):
    config = dataclasses.replace(sweep[0], resume=True)
    path = masks_path(config.out)
    content, time = path.read_bytes(), path.stat().mtime
    run_sweep(config)
    assert path.stat().mtime == time
    path.unlink()
    run_sweep(dataclasses.replace(config, examples=False))
    assert not path.exists()
    run_sweep(dataclasses.replace(config, mesh=1))
    assert path.read_bytes() == content
    (config.out / "cells" / BACKBONES[0] / "3_v_hyperplane.parquet").unlink()
    path.write_bytes(b"of before")
    run_sweep(config)
    assert path.read_bytes() == content


class _Damaged:
    """A split some of whose images cannot be decoded."""

    def __init__(self, split, damaged):
        self._split, self._damaged = split, damaged

    def __len__(self):
        return len(self._split)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._split, name)

    def image(self, index):
        if index in self._damaged:
            raise InputError(f"{self._split.name(index)}: cannot be decoded")
        return self._split.image(index)


@pytest.mark.slow
def test_images_that_cannot_be_decoded_are_passed_over_and_counted_nowhere(sweep, held_out, tmp_path, monkeypatch):
    """Those that cover most: the next ones take their place, in a fresh sweep and in one that is resumed alike."""
    dataset, images, labels = held_out
    names = [dataset.splits["val"].name(i) for i in range(len(images))]
    damaged = sorted({names.index(row.image) for row in sweep[1].rows if row.kind == "coverage"})[::2]

    def opened(*args, **options):
        dataset = open_dataset(*args, **options)
        splits = dataset.splits | {"val": _Damaged(dataset.splits["val"], damaged)}
        return dataclasses.replace(dataset, splits=splits, skip_corrupt=True)

    monkeypatch.setattr(sweeps, "open_dataset", opened)
    config = make_config(
        tmp_path / "out", f"--backbones={BACKBONES[0]}", "--rules=hyperplane", "--tokens=v", "--pixel_level"
    )
    run_sweep(config)
    content = masks_path(config.out).read_bytes()
    shown = [row for row in read_examples(config.out).rows if row.kind == "coverage"]
    coverage = np.stack([labels.carries(k).sum(1) for k in range(len(labels.concepts))], 1)
    coverage[damaged] = 0
    assert shown
    for row in shown:
        k = next(k for k, c in enumerate(labels.concepts) if (c.number, c.category) == (row.concept, row.category))
        assert row.image == names[coverage[:, k].argmax()]
    masks_path(config.out).unlink()
    run_sweep(dataclasses.replace(config, resume=True))
    assert masks_path(config.out).read_bytes() == content
    # A scene holds for the 32 x 32 pixels of its image.
    rows = read_table(config.out / "results.parquet").to_pylist()
    scenes = [r for r in rows if (r["category"], r["evaluation"], r["skipped"]) == ("scene", "pixel", None)]
    assert scenes
    with_scene = labels.in_category(labels.categories.index("scene")).any(1)
    with_scene[damaged] = False
    assert {row["n_pos_test"] + row["n_neg_test"] for row in scenes} == {with_scene.sum() * 32 * 32}
