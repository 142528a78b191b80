"""One sweep over backbones as unlike as families get: registers without [CLS], relative bias, positions by scale."""

import dataclasses
import json

import numpy as np
import pytest
from absl import flags

from experiments import sweep as sweeps
from experiments.backbones import load_backbones
from experiments.config import SweepConfig, define_sweep_flags, sweep_config
from experiments.sweep import run_sweep
from tests.backbones.random_folder import save_random
from vitprobe_jax.backbones.loading import load_backbone
from vitprobe_jax.data import open_dataset
from vitprobe_jax.data.labels import build_labels
from vitprobe_jax.data.transforms import Transform
from vitprobe_jax.errors import InputError
from vitprobe_jax.metrics.results import read_table
from vitprobe_jax.probes.templates import load_templates

pytestmark = pytest.mark.slow

FAMILIES = ("beitv2", "capi", "scalemae")
SIZE, PATCHES, GSD = (32, 48), 4 * 6, 3.0


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """The folders, and beside them what a pattern must pass over."""
    folder = tmp_path_factory.mktemp("zoo")
    for family in FAMILIES:
        save_random(folder, family)
    (folder / "official.pth").write_bytes(b"")
    (folder / "half").mkdir()
    (folder / ".mae.partial-1").mkdir()
    (folder / ".mae.partial-1" / "backbone.json").write_text("{}")
    return folder


def make_config(out, backbones, *arguments) -> SweepConfig:
    values = flags.FlagValues()
    define_sweep_flags(values)
    values(["sweep", f"--out={out}", "--dataset=shapes:24", f"--backbones={backbones}", *arguments])
    return sweep_config(values)


@pytest.fixture(scope="module")
def sweep(zoo, tmp_path_factory):
    config = make_config(
        tmp_path_factory.mktemp("sweep") / "out",
        f"{zoo}/*",
        "--image_size=32x48",
        f"--gsd={GSD}",
        "--tokens=k_rotated",
        "--rules=hyperplane",
        "--categories=object,material",
        "--feature_norm=standardize",
        "--learning_rate=0.1",
        "--noexamples",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeps, "write_report", lambda out: out / "none.html")
        run_sweep(config)
    return config, read_table(config.out / "results.parquet").to_pylist()


def _identity(concept) -> tuple[int, str]:
    return concept.number, concept.category


def test_a_pattern_names_the_converted_folders_in_order(zoo, sweep):
    assert sweep[0].backbones == tuple(str(zoo / family) for family in FAMILIES)
    assert json.loads((sweep[0].out / "config.json").read_text())["backbones"] == list(sweep[0].backbones)
    with pytest.raises(InputError, match=r"--backbones: .*/ca\[x\]\*' matches no converted folder"):
        make_config("out", f"{zoo}/ca[x]*")


def test_every_backbone_has_every_row_and_counts_patches_alone(sweep):
    """Rows as many as patches: prefix tokens, of which there are one, sixteen and one, are none of them."""
    config, rows = sweep
    dataset = open_dataset(config.dataset, seed=config.seed).select(config.categories)
    split = dataset.splits["val"]
    labels = build_labels(
        split, dataset.concepts, transform=Transform(SIZE, "none", 1.0, "bicubic"), patch_size=8, task="segmentation"
    )
    assert labels.slots.shape[:2] == (len(split), PATCHES)
    positives = {_identity(concept): int(labels.carries(k).sum()) for k, concept in enumerate(dataset.concepts)}
    for family in FAMILIES:
        own = [row for row in rows if row["backbone"] == row["family"] == family]
        assert {(row["concept"], row["category"]): row["n_pos_test"] for row in own} == positives
        assert len(own) == len(positives)
        assert {(row["layer"], row["token"]) for row in own} == {(1, "k_rotated")}
    assert sum(row["skipped"] is None for row in rows) >= 5 * len(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_templates_find_on_images_what_the_sweep_counted(sweep, family):
    """A patch map that is shifted by a register, or made at another scale, would give another recall."""
    config, rows = sweep
    dataset = open_dataset(config.dataset, seed=config.seed).select(config.categories)
    split, transform = dataset.splits["val"], Transform(SIZE, "none", 1.0, "bicubic")
    images = np.stack([transform.image(split.image(i)) for i in range(len(split))])
    labels = build_labels(split, dataset.concepts, transform=transform, patch_size=8, task="segmentation")
    (name,) = [name for name in config.backbones if name.endswith(family)]
    templates = load_templates(config.out / "templates" / family / "1_k_rotated_hyperplane.safetensors")
    found = templates.predict(load_backbone(name), images, gsd=np.full(len(split), GSD, np.float32))
    assert found.shape == (len(split), 4, 6, len(templates.concepts))
    recalls = {(row["concept"], row["category"]): row["recall"] for row in rows if row["backbone"] == family}
    for place, concept in enumerate(templates.concepts):
        pos = labels.carries(dataset.concepts.index(concept))
        recall = found.reshape(len(split), PATCHES, -1)[..., place][pos].mean()
        # A row within rounding of its threshold may fall on either side.
        assert recalls[_identity(concept)] == pytest.approx(recall, abs=1.5 / pos.sum())


def test_the_scale_belongs_to_the_run_and_to_what_knows_it(zoo, sweep):
    config, _ = sweep
    assert [backbone.spec.config.gsd for backbone in load_backbones(config)] == [1.0, 1.0, GSD]
    notes = json.loads((config.out / "run.json").read_text())["notes"]
    assert [note for note in notes if "a pixel" in note] == [
        "scalemae: its positions are those of images of 3 m a pixel (--gsd)"
    ]
    with pytest.raises(InputError, match=r"--gsd was 3\.0, is 2\.0"):
        run_sweep(dataclasses.replace(config, gsd=2.0, resume=True))
    with pytest.raises(InputError, match=r"--gsd: the positions of no backbone"):
        load_backbones(dataclasses.replace(config, backbones=config.backbones[:2]))
    for gsd in ("0", "-1", "nan", "inf"):
        with pytest.raises(InputError, match=r"--gsd: must be"):
            make_config("out", "untrained_dino_tiny", f"--gsd={gsd}")


def test_a_size_that_one_patch_does_not_divide_is_refused_with_one_that_all_do(sweep):
    config = dataclasses.replace(sweep[0], image_size=(36, 36))
    with pytest.raises(InputError, match=r"--image_size: 36x36 .*patch size 8 of beitv2; .*multiples of 8 suit every"):
        load_backbones(config)
