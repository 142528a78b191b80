"""The study end to end on small drawn trees: every part, resumed, on one device or eight; bad input in one line."""

import dataclasses
import json
import shutil

import pytest
from absl import flags

from experiments.local import run as runs
from experiments.local.config import PARTS, define_local_flags, local_config
from experiments.local.run import run_local
from experiments.local.workbench import draw_sizes, held_out_size
from tests.data.cityscapes_tree import write_cityscapes
from tests.data.class_tree import write_classes
from tests.data.fair1m_tree import write_fair1m
from tests.data.mot_tree import write_mot
from vitprobe_jax.data.dataset import Dataset, FewShotDraw
from vitprobe_jax.errors import InputError
from vitprobe_jax.metrics.measurements import MEASUREMENTS
from vitprobe_jax.metrics.results import read_table

SMALL = (
    "--backbones=untrained_dino_tiny",
    "--image_size=32",
    "--tile=64",
    "--drop_features=0,8",
    "--images_per_group=1,2",
    "--val_images_per_group=2",
    "--corruptions=noise",
    "--transformations=shift",
    "--methods=knn",
    "--gaps=1,2",
)


def make_config(*arguments):
    values = flags.FlagValues()
    define_local_flags(values)
    values(["local", *SMALL, *arguments])
    return local_config(values)


@pytest.fixture(scope="module")
def streets(tmp_path_factory):
    return write_cityscapes(tmp_path_factory.mktemp("data") / "streets")


@pytest.fixture(scope="module")
def trees(streets):
    people = write_mot(streets.parent / "people", seed=0)
    scenes = write_classes(streets.parent / "scenes", seed=0, train=2, val=1, size=32)
    return f"--dataset=cityscapes:{streets},mot17:{people},imagefolder:{scenes}"


@pytest.fixture
def without_page(monkeypatch):
    """Figures take longer than a small study; `test_every_part` has its page."""
    monkeypatch.setattr(runs, "write_local_report", lambda out: out / "none.html")


def rows_of(config):
    return read_table(config.out / "results.parquet", MEASUREMENTS).to_pylist()


@pytest.mark.slow
def test_every_part_measures_or_says_why_not(trees, tmp_path):
    config = make_config(trees, f"--out={tmp_path / 'out'}")
    report = run_local(config)
    rows = rows_of(config)
    assert {row["part"] for row in rows} == set(PARTS)
    assert {row["study"] for row in rows} == {"local"}
    measured = {row["part"] for row in rows if row["skipped"] is None}
    assert measured == set(PARTS) - {"reconstruction"}
    reasons = {row["skipped"] for row in rows if row["part"] == "reconstruction"}
    assert all("no decoder" in reason for reason in reasons)
    page = report.read_text()
    for part in ("patches", "retrieval", "tracking"):
        assert f'id="{part}"' in page


@pytest.mark.slow
def test_what_was_stopped_ends_in_the_same_bytes(streets, tmp_path, monkeypatch, without_page):
    arguments = (f"--dataset=cityscapes:{streets}", "--parts=patches,layers")
    whole = make_config(*arguments, f"--out={tmp_path / 'whole'}")
    run_local(whole)
    stopped = make_config(*arguments, f"--out={tmp_path / 'stopped'}")
    layers = runs.PARTS["layers"]

    def stop(bench, cell, cells):
        raise KeyboardInterrupt

    monkeypatch.setitem(runs.PARTS, "layers", dataclasses.replace(layers, measure=stop))
    with pytest.raises(KeyboardInterrupt):
        run_local(stopped)
    assert len(list(stopped.out.glob("cells/*/*_patches_*.parquet"))) == 1
    with pytest.raises(InputError, match="add --resume"):
        run_local(stopped)
    monkeypatch.setitem(runs.PARTS, "layers", layers)
    monkeypatch.setitem(runs.PARTS, "patches", dataclasses.replace(runs.PARTS["patches"], measure=stop))
    run_local(dataclasses.replace(stopped, resume=True))
    assert (stopped.out / "results.parquet").read_bytes() == (whole.out / "results.parquet").read_bytes()


@pytest.mark.slow
def test_one_device_gives_what_eight_give(streets, tmp_path, without_page):
    arguments = (f"--dataset=cityscapes:{streets}", "--parts=patches", "--methods=knn,linear")
    tables = []
    for mesh in (1, 8):
        config = make_config(*arguments, f"--mesh={mesh}", f"--out={tmp_path / str(mesh)}")
        run_local(config)
        tables.append((config.out / "results.parquet").read_bytes())
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--drop_features=0,500",), "--drop_features: 500 features cannot be left out: untrained_dino_tiny has"),
        (("--parts=patches,track",), "--parts: 'track' unknown; choose from patches, variance"),
        (("--parts=tracking",), "--parts: tracking finds nothing to measure on in cityscapes:streets; add"),
        (("--patches_per_image=4",), "--patches_per_image: the local study needs every patch"),
        (("--neighbours=201",), "--neighbours: must be at most 200"),
        (("--gsds=near",), "--gsds: 'near' is no number of metres"),
        (
            ("--whole_size=30x40", "--tiling=whole", "--parts=layers"),
            "--image_size: 30x40 is no multiple of the patch size",
        ),
        (("--dataset=cityscapes:nowhere",), "nowhere is not a folder"),
        (("--images_per_group=2,2",), "--images_per_group: a number stands twice"),
    ],
)
def test_bad_input_ends_in_one_line(streets, tmp_path, without_page, arguments, words):
    with pytest.raises(InputError) as refused:
        run_local(make_config(f"--dataset=cityscapes:{streets}", f"--out={tmp_path / 'out'}", *arguments))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_groups_with_too_few_images_are_told(streets, tmp_path, without_page):
    config = make_config(
        f"--dataset=cityscapes:{streets}", "--parts=layers", "--images_per_group=50", f"--out={tmp_path / 'out'}"
    )
    run_local(config)
    notes = json.loads((config.out / "run.json").read_text())["notes"]
    assert [note for note in notes if "fewer images" in note] == [
        "cityscapes:streets, train: fewer images than --images_per_group asks for: aachen has 3; bochum has 3; all of them "
        "are used"
    ]


def test_without_flags_each_part_has_the_papers_draw(streets, tmp_path, without_page):
    """4 images a city, and in the figure over sizes 2, 4 and 8 (Section 3)."""
    values = flags.FlagValues()
    define_local_flags(values)
    arguments = (
        "--parts=patches,layers",
        "--backbones=untrained_dino_tiny",
        "--layers=3",
        "--methods=knn",
        "--image_size=32",
        "--drop_features=0",
    )
    values(["local", f"--dataset=cityscapes:{streets}", "--tile=64", f"--out={tmp_path / 'out'}", *arguments])
    config = local_config(values)
    run_local(config)
    rows = read_table(config.out / "results.parquet", MEASUREMENTS).to_pylist()
    shots = {part: {row["shots"] for row in rows if row["part"] == part} for part in ("patches", "layers")}
    assert shots == {"patches": {2, 4, 8}, "layers": {4}}


def test_fair1m_without_validation_is_searched_and_other_parts_say_why_not(tmp_path, without_page):
    folder = write_fair1m(tmp_path / "aerial", seed=0, num_images=2, size=(224, 224), cell=112)
    shutil.rmtree(folder / "validation")
    parts = ("retrieval", "variance", "patches", "layers", "reconstruction")
    flags = (f"--parts={','.join(parts)}", "--transformations=noise", "--layers=3", "--image_size=64")
    config = make_config(f"--dataset=fair1m:{folder}", f"--out={tmp_path / 'out'}", *flags)
    run_local(config)
    rows = rows_of(config)
    reasons = {part: {row["skipped"] for row in rows if row["part"] == part} - {None} for part in parts}
    reason = "the data set has no held-out images"
    assert reasons == {part: {reason} for part in parts} | {"retrieval": set()}
    measured = {row["measure"] for row in rows if row["skipped"] is None and row["part"] == "variance"}
    assert measured == {"variance", "overlap"}
    (patches,) = (row for row in rows if row["part"] == "patches")
    assert (patches["measure"], patches["count"], patches["token"]) == ("all", 0, "x2")
    found = [row for row in rows if row["part"] == "retrieval"]
    assert {row["shots"] for row in found} == {2}
    # Patches of 8 pixels: both images are drawn, each a tile of its own.
    assert sum(row["value"] for row in found if row["measure"] == "patches") == 2 * 64


@pytest.mark.parametrize(
    ("dataset", "part", "sizes"),
    [
        (Dataset("a", (), {}, True, ""), "patches", (2, 4, 8)),
        (Dataset("a", (), {}, True, ""), "context", (4,)),
        (Dataset("a", (), {}, True, "", draw=FewShotDraw(8, 10, ())), "patches", (8,)),
        (Dataset("a", (), {}, True, ""), "scale", (0,)),
    ],
)
def test_sizes_of_the_draw_are_the_data_sets_or_those_of_the_flag(tmp_path, dataset, part, sizes):
    values = flags.FlagValues()
    define_local_flags(values)
    values(["local", "--dataset=shapes:4", "--backbones=untrained_dino_tiny", f"--out={tmp_path}"])
    config = local_config(values)
    assert draw_sizes(config, dataset, part) == sizes
    assert draw_sizes(dataclasses.replace(config, images_per_group=(1, 3)), dataset, part) == (1, 3)
    assert held_out_size(config, dataset, part) == (0 if part == "scale" else 10)
    assert held_out_size(dataclasses.replace(config, val_images_per_group=5), dataset, part) == 5


def test_layers_may_name_the_last_block_beside_others(tmp_path):
    """One command probes SimMIM's 8th block and the last one of backbones of any depth."""
    values = flags.FlagValues()
    define_local_flags(values)
    values(["local", "--dataset=shapes:4", "--backbones=a", f"--out={tmp_path}", "--layers=7, last,0"])
    config = local_config(values)
    assert [config.blocks(depth) for depth in (24, 12, 8)] == [(0, 7, 23), (0, 7, 11), (0, 7)]


@pytest.mark.parametrize(
    ("lacking", "words"),
    [
        ({"a": 1, "b": 0}, "a has 1; 1 has none"),
        (
            {name: 1 for name in "abcdefg"} | {"h": 0},
            "a has 1; b has 1; c has 1; d has 1; e has 1; 2 others have some; 1 has none",
        ),
        ({name: 1 for name in "abcdef"}, "a has 1; b has 1; c has 1; d has 1; e has 1; 1 other has some"),
        ({"a": 0, "b": 0}, "2 have none"),
    ],
)
def test_a_note_on_groups_is_a_sentence(lacking, words):
    told = runs.few_images("streets", "val", lacking)
    assert told == f"streets, val: fewer images than --val_images_per_group asks for: {words}; all of them are used"
