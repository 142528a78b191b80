"""Which weights of a file are taken, of which published checkpoint they are, and how many heads they have."""

import dataclasses

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from checkpoints_convert import convert
from tests.checkpoints_convert import official_files
from tests.checkpoints_convert.conversions import TINY, assert_trees_equal, expected_tree, failure, leaves
from vitprobe_jax.backbones.families import FAMILIES


def same_params(unwritten, weights) -> None:
    expected = dict(leaves(expected_tree(weights)))
    assert unwritten["params"].keys() == expected.keys()
    assert_trees_equal(unwritten["params"], expected)


def published(monkeypatch, family, file, **changed) -> None:
    """Gives all archs of a family the sizes of a file, which is small, and those `changed` other ones."""
    sizes = {field: getattr(file.sizes, field) for field in ("width", "depth", "num_heads", "patch_size")}
    archs = {
        name: dataclasses.replace(arch, **sizes | changed.get(name, {}))
        for name, arch in FAMILIES[family].archs.items()
    }
    monkeypatch.setitem(FAMILIES, family, dataclasses.replace(FAMILIES[family], archs=archs))


@pytest.mark.parametrize("family", ["dino", "auto"])
def test_the_student_of_dino(family, unwritten, tmp_path):
    path = tmp_path / "full.pth"
    teacher = official_files.write_dino(path, **TINY, layout="teacher")
    student = official_files.plain_state_dict(**TINY, seed=1000)
    for container, weights in ((None, teacher), ("teacher", teacher), ("student", student)):
        lines = []
        output = tmp_path / str(container)
        convert(path, output, family=family, num_heads=3, container=container, log=lines.append)
        same_params(unwritten, weights)
        other = "teacher" if container == "student" else "student"
        assert lines[-1].startswith("dropped: head (2 tensors); not read: ")
        assert other in lines[-1].split("not read: ")[1].split(", ")


def test_either_encoder_of_ijepa(official, unwritten, tmp_path):
    file, trees = official("ijepa"), {}
    for container in (None, "target_encoder", "encoder"):
        convert(file.path, tmp_path / str(container), **file.options | {"container": container})
        trees[container] = dict(unwritten["params"])
    jax.tree.map(np.testing.assert_array_equal, trees[None], trees["target_encoder"])
    assert any(np.any(trees["encoder"][path] != value) for path, value in trees[None].items())


def test_ibot_with_and_without_its_container(official, unwritten, tmp_path):
    """The released files and full checkpoints, whose students alone hold the token of masked patches."""
    file = official("ibot")
    other = {key: value + 1 for key, value in file.tensors.items()}
    head = {"head.last_layer2.weight_g": torch.ones(16, 1), "head.mlp2.0.weight": torch.ones(8, 8)}
    teacher = {f"backbone.{key}": value for key, value in file.tensors.items() if key != "masked_embed"} | head
    student = {f"module.backbone.{key}": value for key, value in other.items()}
    student |= {f"module.{key}": value for key, value in head.items()}
    files = {
        "flat": file.tensors,
        "state_dict": {"state_dict": file.tensors},
        "full": {"student": student, "teacher": teacher, "ibot_loss": {"center": torch.zeros(1, 16)}},
    }
    trees = {}
    for name, contents in files.items():
        torch.save(contents, tmp_path / f"{name}.pth")
        convert(tmp_path / f"{name}.pth", tmp_path / name, **file.options)
        trees[name] = dict(unwritten["params"])
        jax.tree.map(np.testing.assert_array_equal, trees[name], trees["flat"])
    same_params(unwritten, file.state)
    convert(tmp_path / "full.pth", tmp_path / "student", **file.options, container="student")
    same_params(unwritten, {key: value + 1 for key, value in file.state.items()})


@pytest.mark.parametrize(
    ("name", "container", "said"),
    [
        ("ibot", "ema", "--container: 'ema' is none of state_dict, teacher, student, state_dict_ema, model, "),
        ("ijepa", "predictor", "--container: 'predictor' is none of target_encoder, encoder, state_dict_ema, "),
        ("capi", "model", "no weights of capi in it under 'model' (it holds backbone."),
        ("dinov3", "student", "no weights of dinov3 in it under 'student' (it holds "),
    ],
)
@pytest.mark.parametrize("auto", [False, True])
def test_a_container_that_is_not_there(name, container, said, auto, official, tmp_path):
    file = official(name)
    options = file.options | {"container": container} | ({"family": "auto"} if auto else {})
    assert said in failure(file.path, tmp_path / "out", **options)


def test_a_prefix_alone_does_not_hide_weights(official, unwritten, tmp_path):
    file = official("mae")
    torch.save({"model": {f"module.{key}": value for key, value in file.tensors.items()}}, tmp_path / "ddp.pth")
    assert convert(tmp_path / "ddp.pth", tmp_path / "out", **file.options | {"family": "auto"}).family == "mae"
    same_params(unwritten, file.state)


@pytest.mark.parametrize("name", ["mae", "simmim", "mocov3", "capi", "dinov3"])
def test_official_keys_in_safetensors(name, official, unwritten, tmp_path):
    """As they are in the container, prefix, heads and buffers included."""
    file = official(name)
    convert(file.path, tmp_path / "torch", **file.options)
    first = dict(unwritten["params"])
    save_file({key: value.clone() for key, value in file.tensors.items()}, tmp_path / "model.safetensors")
    spec = convert(tmp_path / "model.safetensors", tmp_path / "out", **file.options | {"family": "auto"})
    assert spec.family == file.specimen.family
    jax.tree.map(np.testing.assert_array_equal, unwritten["params"], first)


def test_the_published_checkpoint_of_these_sizes_gives_the_heads(official, unwritten, tmp_path, monkeypatch):
    file = official("mocov3")
    published(monkeypatch, "mocov3", file, vitb16={"depth": 12, "num_heads": 2})
    for arch, name in ((None, "mine"), ("vits16", "mocov3_vits16")):
        spec = convert(file.path, tmp_path / str(arch) / "mine", family="mocov3", arch=arch)
        assert (spec.config.num_heads, spec.name) == (file.sizes.num_heads, name)
    message = failure(file.path, tmp_path / "out", family="mocov3", arch="vitb16", num_heads=None)
    assert message == f"{file.path}: no mocov3 vitb16 checkpoint: depth 2 instead of 12; give --arch=vits16"
    message = failure(file.path, tmp_path / "out", family="mocov3", arch="vits16", num_heads=1)
    assert message.startswith("--num_heads=1 contradicts --arch=vits16, which has 5")
    assert "say of which --family" in failure(file.path, tmp_path / "out", family="auto", arch="vits16", num_heads=None)


def test_checkpoints_of_the_same_sizes_leave_the_name_to_the_folder(official, unwritten, tmp_path, monkeypatch):
    file = official("capi")
    published(monkeypatch, "capi", file)
    assert convert(file.path, tmp_path / "mine", family="auto").name == "mine"
    assert convert(file.path, tmp_path / "any", family="capi", arch="vitl14_p205").name == "capi_vitl14_p205"


def test_satellite_images_have_their_own_mean(official, unwritten, tmp_path, monkeypatch):
    """DINOv3 L/16 comes in two kinds of one size, which a norm of the training tells apart."""
    satellite = official("dinov3_satellite")
    published(monkeypatch, "dinov3", satellite)
    record = FAMILIES["dinov3"]
    path = satellite.damaged({key: None for key in satellite.tensors if key.startswith("local_cls_norm.")})
    for file, arch, other, preprocess in (
        (satellite.path, "vitl16_sat", "vitl16", record.archs["vitl16_sat"].preprocess),
        (path, "vitl16", "vitl16_sat", record.preprocess),
    ):
        assert convert(file, tmp_path / f"{arch} auto", family="auto", name="mine").preprocess == preprocess
        assert convert(file, tmp_path / arch, family="dinov3", arch=arch).preprocess == preprocess
        has = "with" if arch == "vitl16_sat" else "without"
        message = failure(file, tmp_path / "out", family="dinov3", arch=other, num_heads=None)
        assert f"no dinov3 {other} checkpoint: {has} local_cls_norm; give --arch=" in message
    assert record.archs["vitl16_sat"].preprocess.mean == (0.430, 0.411, 0.296)


@pytest.mark.parametrize("name", ["simmim", "beitv2_finetuned", "capi", "dinov3"])
def test_heads_that_the_file_tells(name, official, unwritten, tmp_path, monkeypatch):
    file, heads = official(name), official(name).sizes.num_heads
    family = file.specimen.family
    assert convert(file.path, tmp_path / "out", family=family).config.num_heads == heads
    message = failure(file.path, tmp_path / "other", family=family, num_heads=2)
    assert message == f"--num_heads=2 contradicts the file, which has {heads}; leave one of them out"
    # A published size with other heads is none that this file can be.
    published(monkeypatch, family, file, **{arch: {"num_heads": 2} for arch in FAMILIES[family].archs})
    assert convert(file.path, tmp_path / "unpublished", family=family, num_heads=heads).config.num_heads == heads
    arch = next(iter(FAMILIES[family].archs))
    message = failure(file.path, tmp_path / "arch", family=family, arch=arch, num_heads=None)
    assert f"num_heads {heads} instead of 2" in message


def test_the_decoder_heads_of_a_published_size(official, unwritten, tmp_path, monkeypatch):
    file = official("mae_decoder")
    published(monkeypatch, "mae", file)
    archs = FAMILIES["mae"].archs
    decoded = {name: dataclasses.replace(arch, decoder_heads=3) for name, arch in archs.items()}
    monkeypatch.setitem(FAMILIES, "mae", dataclasses.replace(FAMILIES["mae"], archs=decoded))
    assert convert(file.path, tmp_path / "out", family="auto").decoder.num_heads == 3
    message = failure(file.path, tmp_path / "no", family="mae", arch="vitb16", num_heads=None, decoder_heads=2)
    assert message.startswith("--decoder_heads=2 contradicts --arch=vitb16, which has 3")
