"""Every layout in which people have the weights, with and without --family: read right, or refused with the candidates."""

import dataclasses
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoints_convert import convert
from checkpoints_convert.matching import match
from checkpoints_convert.sources import open_source
from checkpoints_convert.wrappers import CONTAINERS, WORDS
from tests.checkpoints_convert import __main__ as table
from tests.checkpoints_convert import official_files
from tests.checkpoints_convert.conversions import TINY, failure
from tests.checkpoints_convert.official import lazy
from tests.checkpoints_convert.official_layouts import LAYOUTS, under
from vitprobe_jax.backbones.families import FAMILIES


def saved(name, official, tmp_path):
    """A layout's file, and the arguments that read it."""
    layout = LAYOUTS[name]
    file = official(layout.specimen)
    path = tmp_path / f"file{'.pth' if file.path.suffix == '.safetensors' else file.path.suffix}"
    torch.save(layout.contents(file), path)
    return path, file.options | {"family": layout.family} | layout.options


@pytest.mark.parametrize("name", LAYOUTS)
def test_family_given(name, official, unwritten, tmp_path):
    """The parameters are those of the specimen's own file."""
    layout = LAYOUTS[name]
    file = official(layout.specimen)
    convert(file.path, tmp_path / "first", **file.options)
    expected = dict(unwritten["params"])
    path, options = saved(name, official, tmp_path)
    spec = convert(path, tmp_path / "out", **options)
    assert spec.family == layout.family
    assert unwritten["params"].keys() == expected.keys()
    for key, value in unwritten["params"].items():
        np.testing.assert_array_equal(value, expected[key])


@pytest.mark.parametrize("name", LAYOUTS)
def test_family_recognised_or_candidates_named(name, official, unwritten, tmp_path):
    path, options = saved(name, official, tmp_path)
    options |= {"family": "auto"}
    families = LAYOUTS[name].auto
    assert LAYOUTS[name].family in families
    if len(families) == 1:
        assert convert(path, tmp_path / "out", **options).family == families[0]
    else:
        message = failure(path, tmp_path / "out", **options)
        assert message.startswith(f"{path}: {' and '.join(families)} call all tensors alike")
        assert f"give {' or '.join(f'--family={family}' for family in families)}" in message


@pytest.mark.parametrize("name", LAYOUTS)
def test_other_families_fit_only_where_all_keys_and_shapes_are_theirs(name, official, tmp_path):
    path, options = saved(name, official, tmp_path)
    with open_source(path) as source:
        found = {
            family: match(source.contents, record, options.get("container")) for family, record in FAMILIES.items()
        }
        fitting = {family for family, candidate in found.items() if candidate is not None and candidate.fits}
    assert fitting == set(LAYOUTS[name].auto) | _SAME_KEYS.get(name, set())


_PLAIN = frozenset({"dino", "ibot", "msn", "mae", "mocov3", "deit", "augreg", "mae_finetuned", "scalemae"})
_SAME_KEYS = {
    # Positions, and what a person knows, are all that tells these apart.
    **dict.fromkeys(["dino, DistributedDataParallel", "ibot, teacher", "msn without head"], _PLAIN),
    **dict.fromkeys(["mocov3, convert_to_deit.py", "mae, DistributedDataParallel"], _PLAIN),
    "mocov3, main_lincls.py": {"deit", "augreg", "mae_finetuned", "scalemae"},
    "dino, training": {"ibot"},
    "mae, fine-tuned on [CLS]": {"mocov3", "scalemae"},
    "scalemae, fine-tuned on [CLS]": {"mocov3", "deit", "augreg"},
    **dict.fromkeys(["deit, training", "deit, moving average", "timm, training"], frozenset({"mocov3", "scalemae"})),
}


def test_the_global_representation_follows_the_layout(official, unwritten, tmp_path):
    """Fine-tuned on [CLS], or on the mean of the patches."""
    pools = {}
    for name in ("mae, fine-tuned on [CLS]", "scalemae, fine-tuned", "scalemae, fine-tuned on [CLS]"):
        path, options = saved(name, official, tmp_path)
        config = convert(path, tmp_path / "out" / str(len(pools)), name="mine", **options).config
        pools[name] = (config.positions, config.pool)
    plain = FAMILIES["mae"].architectures[0]
    assert pools == {
        "mae, fine-tuned on [CLS]": ("learned", plain.pool),
        "scalemae, fine-tuned": ("gsd", "patches_then_norm"),
        "scalemae, fine-tuned on [CLS]": ("gsd", plain.pool),
    }


def test_beit_v1_has_its_own_mean_and_deviation(official, unwritten, tmp_path):
    """microsoft/unilm, beit/README.md: 0.5; v2 has ImageNet's."""
    file = official("beit")
    half = {family: convert(file.path, tmp_path / family, family=family).preprocess for family in ("beit", "beitv2")}
    assert half["beit"].mean == half["beit"].std == (0.5, 0.5, 0.5)
    assert half["beitv2"].mean == (0.485, 0.456, 0.406)
    assert convert(official("beitv2").path, tmp_path / "auto", family="auto").family == "beitv2"


@pytest.mark.parametrize(("kind", "right"), [("random", "dino"), ("sincos", "mae")])
def test_the_kind_of_positions(kind, right, unwritten, tmp_path):
    """A fixed sine-cosine is recognised; --family decides where it is given, and a line says what does not fit."""
    path = tmp_path / "flat.pth"
    torch.save(official_files.plain_state_dict(**TINY, positions=kind), path)
    for family in ("dino", "mae"):
        lines = []
        convert(path, tmp_path / family, family=family, num_heads=3, log=lines.append)
        assert any("is not of a kind" in line for line in lines) == (family != right)
    if kind == "sincos":
        assert convert(path, tmp_path / "auto", family="auto", num_heads=3).family == "mae"
    else:
        assert "mae" not in failure(path, tmp_path / "auto", family="auto").split("give")[0]


def test_a_published_hash_tells_families_apart(official, unwritten, tmp_path, monkeypatch):
    """DeiT's own files, which have a classifier as those of others do, have digits of their hash in their names."""
    file = official("deit")
    options = file.options | {"family": "auto"}
    assert failure(file.path, tmp_path / "unknown", **options).startswith(
        f"{file.path}: mae_finetuned and deit and augreg"
    )
    digits = hashlib.sha256(file.path.read_bytes()).hexdigest()[:8]
    archs = FAMILIES["deit"].archs
    archs = archs | {"vits16": dataclasses.replace(archs["vits16"], sha256=digits)}
    monkeypatch.setitem(FAMILIES, "deit", dataclasses.replace(FAMILIES["deit"], archs=archs))
    assert convert(file.path, tmp_path / "out", **options).family == "deit"


def test_stored_positions_that_are_not_used_may_have_any_shape(official, unwritten, tmp_path):
    """Scale-MAE computes its own; only what they are tells its fine-tuned files from MAE's."""
    file = official("scalemae")
    path = file.damaged({"pos_embed": torch.ones(5)})
    for family in ("scalemae", "auto"):
        assert convert(path, tmp_path / family, **file.options | {"family": family}).family == "scalemae"


def test_a_prefix_that_nothing_takes_off_is_shown(tmp_path):
    path = tmp_path / "clip.pth"
    torch.save({"state_dict": under("visual.trunk.", official_files.plain_state_dict(**TINY))}, path)
    for family in ("auto", "dino"):
        message = failure(path, tmp_path / "out", family=family)
        assert "under 'state_dict' visual.trunk.cls_token, visual.trunk.pos_embed, " in message
        assert "its keys begin with 'visual.trunk.'" in message


@settings(max_examples=25, deadline=None)
@given(
    words=st.lists(st.sampled_from((*WORDS, "_orig_mod", "_fsdp_wrapped_module")), max_size=5),
    place=st.sampled_from((None, *CONTAINERS)),
)
def test_wrappers_in_any_order_and_depth_under_any_container(words, place, official):
    """CAPI's own keys begin with `encoder.`, torchvision's too: no more is taken off than wrappers added."""
    prefix = "".join(f"{word}." for word in words)
    for name in ("dinov2", "capi", "torchvision", "beitv2", "mocov3"):
        file = official(name)
        tensors = lazy(under(prefix, {key.removeprefix("backbone."): value for key, value in file.tensors.items()}))
        found = match(tensors if place is None else {place: tensors, "epoch": 3}, FAMILIES[file.specimen.family])
        assert found.fits, found.problems
        assert found.container == place


def test_keys_that_chunks_would_make_equal_stay(tmp_path):
    """Block numbers that start anew in each chunk are not DINOv2's."""
    state = official_files.plain_state_dict(**TINY)
    state = {re.sub(r"^blocks\.(\d)\.", r"blocks.\1.0.", key): value for key, value in state.items()}
    torch.save(state, tmp_path / "file.pth")
    assert "blocks.0.0.norm1.weight, ..." in failure(tmp_path / "file.pth", tmp_path / "out", family="dino")


def test_the_table_is_what_happens(tmp_path):
    names = ["dinov2, chunks", "ibot, teacher"]
    known = {row.layout: row for row in table.expected()}
    assert list(table.outcomes(tmp_path, names)) == [known[name] for name in names]


def test_the_page_has_the_table():
    page = (Path(__file__).parents[2] / "docs" / "zoo.md").read_text()
    made = "write what `python -m tests.checkpoints_convert` prints"
    assert page.split("<!-- layouts -->\n\n")[1].split("\n\n<!-- /layouts -->")[0] == table.markdown(
        table.expected()
    ), made
