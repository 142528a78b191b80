import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jaxtyping
import numpy as np
import pytest

from tests.backbones.random_vit import random_params, tiny
from tests.zoo import SPECIMENS
from tests.zoo.conversion import Converted, convert_into
from vitprobe_jax.backbones.config import BackboneSpec
from vitprobe_jax.backbones.loading import load_backbone, load_decoder, read_spec
from vitprobe_jax.backbones.saving import save_backbone, streamed
from vitprobe_jax.backbones.untrained import OBJECTIVE, UNTRAINED, sincos_positions
from vitprobe_jax.errors import InputError


@pytest.fixture(scope="module")
def mae(tmp_path_factory) -> Converted:
    return convert_into(tmp_path_factory.mktemp("mae"), SPECIMENS["mae_decoder"])


@pytest.fixture
def folder(mae, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(mae.folder, tmp_path / "copy"))


@pytest.fixture
def as_installed():
    """Without the type checks that only tests run: a damaged record must meet the library's own."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def edit(folder: Path, section: str, **changes) -> None:
    record = json.loads((folder / "backbone.json").read_text())
    record[section].update(changes)
    (folder / "backbone.json").write_text(json.dumps(record))


def refusal(load, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        load(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(left, right) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, left, right))


def test_backbone_is_what_the_file_held(mae):
    spec, params = mae.backbone.spec, mae.backbone.params
    assert spec == read_spec(mae.folder)
    assert (spec.config.grid, spec.config.mlp_dim, spec.source) == ((5, 5), 72, "checkpoint.pth")
    kernel = mae.state["blocks.1.attn.qkv.weight"].numpy().T
    np.testing.assert_array_equal(params["blocks_1"]["attn"]["qkv"]["kernel"], kernel)
    assert all(leaf.dtype == np.float32 and len(leaf.devices()) == 1 for leaf in jax.tree.leaves(params))


def test_decoder_is_what_the_file_held(mae):
    config, params = load_decoder(mae.folder)
    assert (config.width, config.depth, config.num_heads) == (36, 2, 3)
    np.testing.assert_array_equal(params["mask_token"], mae.state["mask_token"].numpy())


def test_decoder_of_an_encoder_only_file(tmp_path):
    converted = convert_into(tmp_path, SPECIMENS["dino"])
    assert "checkpoint.pth had no decoder" in refusal(load_decoder, converted.folder)


def test_neither_folder_nor_bundled_name(tmp_path):
    message = refusal(load_backbone, str(tmp_path / "nowhere"))
    assert all(name in message for name in ("--backbones", "nowhere", *UNTRAINED))


def test_empty_folder(tmp_path):
    assert "backbone.json" in refusal(load_backbone, str(tmp_path))


def test_missing_parameters(folder):
    shutil.rmtree(folder / "params")
    assert "params" in refusal(load_backbone, str(folder))


def test_missing_decoder(folder):
    shutil.rmtree(folder / "decoder")
    assert "decoder" in refusal(load_decoder, folder)


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_no_damaged_file_passes_for_a_good_one(tmp_path, damage):
    """Loading ends in one line, or, where the file was of no use to anybody, in the very same parameters."""
    # Small, as every parameter has a file.
    folder, config = tmp_path / "small", tiny("dino", width=8, num_heads=2, depth=1)
    params = random_params(config)
    save_backbone(folder, BackboneSpec(name="s", family="dino", objective="", config=config), streamed(params), {})
    refused = []
    for path in [path for path in (folder / "params").rglob("*") if path.is_file()]:
        content = path.read_bytes()
        if damage == "cut":
            path.write_bytes(content[: len(content) // 2])
        else:
            path.unlink()
        try:
            loaded = load_backbone(str(folder)).params
        except InputError as error:
            refused.append(str(error))
        else:
            assert same(loaded, params), path
        path.write_bytes(content)
    assert len(refused) >= 3
    assert not [message for message in refused if "\n" in message]


def test_refusing_cut_weights_prints_nothing(folder):
    # Orbax alone prints a traceback for every array, from threads that outlive its event loop: seen in a process only.
    weights = max((folder / "params").rglob("d/*"), key=lambda path: path.stat().st_size)
    weights.write_bytes(weights.read_bytes()[:1000])
    program = f"""
from vitprobe_jax.backbones.loading import InputError, load_backbone
try:
    load_backbone({str(folder)!r})
except InputError:
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("refused\n", "")


@pytest.mark.parametrize(
    ("section", "changes", "named"),
    [
        ("config", {"width": 50}, "blocks_0"),
        ("config", {"depth": 3}, "blocks_2"),
        ("config", {"depth": 1}, "blocks_1"),
        ("config", {"mlp_dim": 96}, "mlp"),
        ("config", {"grid": [4, 4]}, "pos_embed"),
        ("config", {"num_heads": 3}, "num_heads"),
        ("config", {"num_heads": "5"}, "backbone record"),
        ("config", {"registers": 4}, "registers"),
        ("config", {"resample": "lanczos"}, "resample"),
        ("config", {"layer_norm_eps": -1.0}, "layer_norm_eps"),
        ("preprocess", {"std": [0.2, 0.0, 0.2]}, "std"),
        ("preprocess", {"mean": [0.5, 0.5]}, "mean"),
    ],
)
@pytest.mark.usefixtures("as_installed")
def test_edited_record(folder, section, changes, named):
    edit(folder, section, **changes)
    assert named in refusal(load_backbone, str(folder))


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"name": "mae", "conf', b"\xff\xfe\x00"])
@pytest.mark.usefixtures("as_installed")
def test_damaged_record(folder, content):
    (folder / "backbone.json").write_bytes(content)
    assert "backbone.json" in refusal(load_backbone, str(folder))


@pytest.mark.parametrize("name", UNTRAINED)
def test_bundled_backbones_are_deterministic_and_say_what_they_are(name):
    first, second = load_backbone(name), load_backbone(name)
    assert first.spec == second.spec
    assert same(first.params, second.params)
    assert first.spec.objective == OBJECTIVE
    assert len(first.spec.sha256) == 64


def test_bundled_backbones_start_as_the_official_codes_do():
    dino, mae = (load_backbone(f"untrained_{family}_tiny").params for family in ("dino", "mae"))
    # 110,592 draws: their deviation is known to 0.2%.
    fc1 = np.stack([dino[f"blocks_{i}"]["mlp"]["fc1"]["kernel"] for i in range(3)])
    assert np.std(fc1) == pytest.approx(0.02, rel=0.01)
    # The official code cuts its normal at 2, not at two deviations.
    assert np.abs(fc1).max() > 3 * 0.02
    limit = np.sqrt(6 / (96 + 3 * 96))
    qkv = np.abs(mae["blocks_0"]["attn"]["qkv"]["kernel"])
    assert 0.99 * limit < qkv.max() <= limit
    np.testing.assert_array_equal(mae["pos_embed"], sincos_positions(96, (16, 16)))
    for params in (dino, mae):
        # torch's start of a convolution over 8 x 8 x 3 values, in DINO for the weights too.
        assert 0.9 < np.abs(params["patch_embed"]["bias"]).max() * np.sqrt(192) <= 1
        assert not np.any(params["blocks_0"]["mlp"]["fc2"]["bias"])
    assert 0.99 < np.abs(dino["patch_embed"]["kernel"]).max() * np.sqrt(192) <= 1
