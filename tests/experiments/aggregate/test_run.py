"""The study end to end on small drawn trees: every part, stopped and resumed, one device or eight; bad input in one line."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from etils import epath

from experiments.aggregate import run as runs
from experiments.aggregate import training
from experiments.aggregate.config import PARTS, aggregate_config, define_aggregate_flags
from experiments.aggregate.run import run_aggregate
from experiments.aggregate.workbench import Drawn
from tests.backbones.random_folder import save_random
from tests.data.box_tree import write_objects
from tests.data.coco_tree import write_coco
from tests.data.fair1m_tree import write_fair1m
from vitprobe_jax.data import open_dataset
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.frozen import WEIGHTS
from vitprobe_jax.metrics.measurements import MEASUREMENTS
from vitprobe_jax.metrics.results import read_table
from vitprobe_jax.report.aggregation.facts import facts
from vitprobe_jax.report.settings import differing_protocol

SMALL = (
    "--backbones=untrained_dino_tiny",
    "--image_size=32",
    "--optimizer=sgd",
    "--rates=0.1,1",
    "--train_batch=12",
    "--micro_batch=8",
    "--epochs=3",
    "--probe_seeds=1",
    "--warmup_epochs=1",
    "--box_thresholds=10",
    "--batch_size=8",
    "--examples=2",
)
FLAGS = Path(runs.__file__).parents[1] / "flags" / "aggregate.flags"
FEW = ("--parts=probing", "--representations=mean,abmilp_1")


def make_config(*arguments):
    values = flags.FlagValues()
    define_aggregate_flags(values)
    values(["aggregate", *SMALL, *arguments])
    return aggregate_config(values)


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    return write_objects(tmp_path_factory.mktemp("data") / "objects", seed=0, size=(40, 48))


@pytest.fixture
def without_page(monkeypatch):
    """Figures take longer than a small study; `test_every_part` has its page."""
    monkeypatch.setattr(runs, "write_aggregation_report", lambda out: out / "none.html")


def rows_of(config, **equal):
    rows = read_table(config.out / "results.parquet", MEASUREMENTS).to_pylist()
    return [row for row in rows if all(row[name] == value for name, value in equal.items())]


def heads_of(config):
    (path,) = config.out.glob("heads/*/*.safetensors")
    return path.read_bytes()


@pytest.fixture(scope="module")
def whole(objects, tmp_path_factory):
    """A run of two heads that nothing disturbed."""
    config = make_config(f"--dataset=imagefolder:{objects}", *FEW, f"--out={tmp_path_factory.mktemp('whole') / 'out'}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "write_aggregation_report", lambda out: out / "none.html")
        run_aggregate(config)
    return config


def test_aggregation_entropy_is_the_mean_over_all_blocks(objects, tmp_path, without_page):
    config = make_config(f"--dataset=imagefolder:{objects}", "--parts=attention", f"--out={tmp_path / 'out'}")
    run_aggregate(config)
    (aggregated,) = rows_of(config, measure="aggregation_entropy")
    of_blocks = [row["value"] for row in rows_of(config, measure="cls_entropy", setting="all heads")]
    assert len(of_blocks) > 1
    assert (aggregated["layer"], aggregated["setting"]) == (None, "all blocks")
    assert aggregated["value"] == pytest.approx(np.mean(of_blocks), rel=1e-12)
    assert abs(aggregated["value"] - of_blocks[-1]) > 1e-6


@pytest.mark.parametrize("arguments", [(), (f"--flagfile={FLAGS}",)])
def test_defaults_are_every_setting_that_the_paper_states(tmp_path, arguments):
    """Three seeds, 2,048 images a BatchNorm and all else; SA-AbMILP alone was trained by SGD, without momentum."""
    for optimizer, methods in (("lars", {"mean", "abmilp_1", "attentive_12"}), ("sgd", {"sa_abmilp"})):
        values = flags.FlagValues()
        define_aggregate_flags(values)
        given = ["--dataset=imagefolder:x", f"--out={tmp_path}", SMALL[0], f"--optimizer={optimizer}"]
        values(["aggregate", *arguments, *given])
        resolved = json.loads(json.dumps(aggregate_config(values).resolved()))
        own = [fact for fact in facts() if fact.part in ("probing", "localisation") and fact.method in methods]
        assert {fact.method for fact in own} == methods
        for fact in own:
            assert fact.protocol.keys() <= resolved.keys()
            assert differing_protocol(resolved, fact.protocol) == []


def test_momentum_is_a_flag():
    assert make_config("--dataset=imagefolder:x", "--out=o").momentum == 0
    assert make_config("--dataset=imagefolder:x", "--out=o", "--momentum=0.9").momentum == 0.9


@pytest.mark.slow
def test_every_part_measures_and_they_share_one_training(objects, tmp_path, monkeypatch):
    trained = []
    train = training._train
    monkeypatch.setattr(training, "_train", lambda bench, *rest: (trained.append(bench), train(bench, *rest)))
    config = make_config(f"--dataset=imagefolder:{objects}", f"--boxes={objects}", f"--out={tmp_path / 'out'}")
    report = run_aggregate(config)
    assert {row["part"] for row in rows_of(config)} == set(PARTS)
    assert {row["study"] for row in rows_of(config)} == {"aggregation"}
    assert len(trained) == 1
    page = report.read_text()
    assert all(f'id="{part}"' in page for part in PARTS)
    own = {row["method"] for row in rows_of(config, part="untrained", skipped=None, measure="weights_entropy")}
    assert own == {"mean", "abmilp_1", *WEIGHTS} - {"other_cls_attention"}
    (skipped,) = rows_of(config, part="untrained", method="other_cls_attention")
    assert skipped["skipped"] == "it is the other backbone itself"
    of_two = [row["value"] for row in rows_of(config, measure="top1_best", method="abmilp_1")]
    assert len(of_two) == 2
    assert of_two[0] == of_two[1]
    divergences = rows_of(config, measure="kl")
    assert all((row["value"] == 0) == (row["method"] == row["name"]) for row in divergences)
    for method in ("cls_attention", "abmilp_1"):
        (every,), (largest,) = (rows_of(config, measure=name, method=method) for name in ("maxboxaccv2", "largest_box"))
        assert every["count"] == 12
        assert every["value"] >= largest["value"]
        of_levels = [row["value"] for row in rows_of(config, measure="maxboxacc", method=method)]
        assert every["value"] == pytest.approx(np.mean(of_levels))


def test_rates_and_losses_have_rows(whole):
    (classes,) = rows_of(whole, measure="classes")
    dataset = open_dataset(whole.dataset, seed=0)
    assert (classes["value"], classes["count"]) == (len(dataset.concepts), len(dataset.splits["train"]))
    assert len(rows_of(whole, measure="top1")) == 2 * 2
    assert len(rows_of(whole, measure="loss")) == 2 * 2 * 3
    for method in ("mean", "abmilp_1"):
        of_rates = {row["level"]: row["value"] for row in rows_of(whole, measure="top1", method=method)}
        (best,) = rows_of(whole, measure="top1_best", method=method)
        assert best["value"] == max(of_rates.values()) == of_rates[best["level"]]
    assert {row["count"] for row in rows_of(whole, measure="top1")} == {12}
    assert not list(whole.out.glob("checkpoints/*/*"))


@pytest.mark.usefixtures("without_page")
def test_a_training_that_was_stopped_ends_in_the_same_bytes(whole, tmp_path, monkeypatch):
    stopped = dataclasses.replace(whole, out=epath.Path(tmp_path / "stopped"))
    epoch = training._epoch

    def stop(bench, cell, config, state, number):
        if number == 3:
            raise KeyboardInterrupt
        return epoch(bench, cell, config, state, number)

    monkeypatch.setattr(training, "_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        run_aggregate(stopped)
    done = []
    monkeypatch.setattr(training, "_epoch", lambda *given: (done.append(given[-1]), epoch(*given))[1])
    run_aggregate(dataclasses.replace(stopped, resume=True))
    assert done == [3]
    assert (stopped.out / "results.parquet").read_bytes() == (whole.out / "results.parquet").read_bytes()
    assert heads_of(stopped) == heads_of(whole)


@pytest.mark.usefixtures("without_page")
def test_damaged_heads_are_told(whole, tmp_path):
    (path,) = whole.out.glob("heads/*/*.safetensors")
    (cell,) = whole.out.glob("cells/*/*.parquet")
    kept, rows = path.read_bytes(), cell.read_bytes()
    cell.unlink()
    path.write_bytes(kept[:-7] + b"nothing")
    try:
        with pytest.raises(InputError, match="no readable file of heads"):
            run_aggregate(dataclasses.replace(whole, resume=True))
    finally:
        path.write_bytes(kept)
        cell.write_bytes(rows)


@pytest.mark.slow
@pytest.mark.usefixtures("without_page")
def test_one_device_gives_what_eight_give(objects, tmp_path):
    tables = []
    for mesh in (1, 8):
        arguments = (f"--boxes={objects}", "--representations=mean,cls,abmilp_2_gelu,sa_abmilp,attentive_12")
        out = f"--out={tmp_path / str(mesh)}"
        config = make_config(f"--dataset=imagefolder:{objects}", *arguments, f"--mesh={mesh}", out)
        run_aggregate(config)
        tables.append(rows_of(config))
    for one, eight in zip(*tables, strict=True):
        for numbers in (one, eight):
            numbers["rounded"] = [numbers.pop("value"), numbers.pop("deviation")]
        np.testing.assert_allclose(*[np.array(row.pop("rounded"), float) for row in (one, eight)], rtol=1e-4, atol=1e-6)
        assert one == eight


@pytest.mark.usefixtures("without_page")
def test_several_labels_an_image_are_scored_by_precision(tmp_path):
    things = write_coco(tmp_path / "things", seed=0)
    config = make_config(f"--dataset=coco:{things}", *FEW, f"--out={tmp_path / 'out'}", "--epochs=1")
    run_aggregate(config)
    assert {row["measure"] for row in rows_of(config)} == {"classes", "map", "map_best", "loss"}
    assert all(0 <= row["value"] <= 1 for row in rows_of(config, measure="map"))


@pytest.mark.slow
@pytest.mark.usefixtures("without_page")
def test_a_model_without_cls_has_what_needs_none(objects, tmp_path):
    folder = save_random(tmp_path, "capi")
    config = make_config(
        f"--dataset=imagefolder:{objects}",
        f"--boxes={objects}",
        f"--backbones={folder}",
        "--other_backbone=untrained_dino_tiny",
        "--representations=mean,cls,attentive_5",
        f"--out={tmp_path / 'out'}",
    )
    run_aggregate(config)
    skipped = {
        (row["part"], row["method"] or row["measure"]): row["skipped"] for row in rows_of(config) if row["skipped"]
    }
    no_cls = {place for place, reason in skipped.items() if reason == "it has no [CLS]"}
    assert no_cls == {
        ("attention", "cls_to_cls"),
        ("attention", "cls_entropy"),
        ("probing", "cls"),
        ("untrained", "cls_attention"),
        ("untrained", "lowest_entropy_cls"),
        ("localisation", "cls_attention"),
    }
    assert "5 heads do not divide" in skipped["probing", "attentive_5"]
    (aggregated,) = rows_of(config, measure="aggregation_entropy")
    (bound,) = rows_of(config, measure="entropy_bound")
    assert aggregated["setting"] == "no [CLS]"
    assert aggregated["value"] == bound["value"]
    assert rows_of(config, part="untrained", method="other_cls_attention", measure="top1")


@pytest.mark.usefixtures("without_page")
def test_what_cannot_be_decoded_is_left_out_and_told(tmp_path):
    objects = write_objects(tmp_path / "objects", seed=0, size=(40, 48))
    for path in (*sorted(objects.glob("train/*/*"))[:2], sorted(objects.glob("val/*/*"))[0]):
        path.write_bytes(path.read_bytes()[:40])
    config = make_config(f"--dataset=imagefolder:{objects}", *FEW, f"--out={tmp_path / 'out'}", "--epochs=1")
    run_aggregate(config)
    assert {row["count"] for row in rows_of(config, measure="top1")} == {11}
    notes = " ".join(json.loads((config.out / "run.json").read_text())["notes"])
    assert "1 held-out images cannot be decoded" in notes
    assert "2 training images cannot be decoded" in notes


def test_a_share_or_a_list_of_the_training_images_is_taken(objects, tmp_path):
    names = sorted(path.name for path in objects.glob("train/*/*"))
    (tmp_path / "few.txt").write_text("\n".join(names[3:5]) + "\n")
    dataset = open_dataset(f"imagefolder:{objects}", seed=0)
    lengths = {}
    for flag in ("--train_share=0.01", "--train_share=0.5", f"--train_list={tmp_path / 'few.txt'}"):
        config = make_config("--dataset=any", f"--out={tmp_path}", flag)
        drawn = Drawn.of(config, dataset, None)
        lengths[flag.partition("=")[2]] = len(drawn.splits["train"])
        assert len(drawn.splits["val"]) == 12
    # Of three classes of eight images.
    assert list(lengths.values()) == [3, 12, 2]


@pytest.mark.usefixtures("without_page")
def test_held_out_images_that_are_all_damaged_are_reasons_not_errors(tmp_path):
    objects = write_objects(tmp_path / "objects", seed=0, size=(40, 48))
    for path in objects.glob("val/*/*"):
        path.write_bytes(b"nothing")
    parts = ("--representations=mean", "--epochs=1", f"--boxes={objects}")
    config = make_config(f"--dataset=imagefolder:{objects}", *parts, f"--out={tmp_path / 'out'}")
    run_aggregate(config)
    reasons = {row["part"] for row in rows_of(config, skipped="no held-out image can be decoded")}
    assert reasons == set(PARTS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--parts=probing,linear",), "--parts: 'linear' unknown; choose from attention, probing"),
        (("--representations=mean,abmil",), "--representations: there is no 'abmil'"),
        (("--representations=mean,mean",), "--representations: one stands twice"),
        (("--representations=cls_attention",), "--representations: cls_attention belongs to --parts=untrained"),
        (("--rates=0.1,fast",), "--rates: 'fast' is no learning rate"),
        (("--rates=0",), "--rates: must be numbers above 0"),
        (("--epochs=-1",), "--epochs: must be 0 or more"),
        (("--micro_batch=0",), "--micro_batch: must be at least 1"),
        (("--momentum=1",), "--momentum: must be at least 0 and below 1"),
        (("--train_share=0",), "--train_share: must be above 0"),
        (("--train_share=0.5", "--train_list=one.txt"), "--train_list: names the images"),
        (("--train_list=nowhere.txt",), "nowhere.txt"),
        (("--cache_dir=cache",), "--cache_dir: this study keeps no features"),
        (("--host_memory=100",), "--host_memory: this study keeps no features"),
        (("--patches_per_image=3",), "--patches_per_image: aggregation needs every patch"),
        (("--boxes=nowhere",), "--boxes: nowhere is not a folder"),
        (("--parts=localisation",), "--parts: localisation finds nothing to measure on"),
        (("--other_backbone=nobody",), "--other_backbone: 'nobody' is neither a converted folder nor a bundled name"),
        (("--image_size=30",), "--image_size: 30x30 is no multiple of the patch size"),
        (("--layers=40",), "--layers: no block 40"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(objects, tmp_path, arguments, words):
    with pytest.raises(InputError) as refused:
        run_aggregate(make_config(f"--dataset=imagefolder:{objects}", f"--out={tmp_path / 'out'}", *arguments))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_data_set_without_held_out_images_is_refused(tmp_path):
    folder = write_fair1m(tmp_path / "aerial", seed=0, num_images=1, size=(64, 64))
    shutil.rmtree(folder / "validation")
    with pytest.raises(InputError, match="fair1m:aerial has no val images, only train,"):
        run_aggregate(make_config(f"--dataset=fair1m:{folder}", f"--out={tmp_path / 'out'}"))
    assert not (tmp_path / "out").exists()


def test_boxes_of_other_images_are_nothing_to_measure_on(objects, tmp_path):
    other = tmp_path / "boxes"
    other.mkdir()
    (other / "unknown.xml").write_bytes(next(objects.glob("Annotations/**/*.xml")).read_bytes())
    config = make_config(
        f"--dataset=imagefolder:{objects}", f"--boxes={other}", "--parts=localisation", f"--out={tmp_path / 'out'}"
    )
    with pytest.raises(
        InputError, match="localisation finds nothing to measure on in imagefolder:objects; add --boxes=DIR"
    ):
        run_aggregate(config)


@pytest.mark.usefixtures("without_page")
def test_a_dry_run_tells_what_there_is_to_do(objects, tmp_path, capsys):
    config = make_config(f"--dataset=imagefolder:{objects}", f"--out={tmp_path / 'out'}", "--dry_run", *FEW)
    assert run_aggregate(config) is None
    told = capsys.readouterr().out
    assert "probing, untrained_dino_tiny on imagefolder:objects: 1 of 1" in told
    assert "2 representations x 2 rates x 1 seeds, 3 epochs of 24 images in 2 steps of 12" in told
    assert not (tmp_path / "out").exists()
