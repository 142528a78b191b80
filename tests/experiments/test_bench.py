"""The benchmarks at tiny sizes: contenders agree, are measured by turns and reported whole. No timing is asserted."""

import importlib.util
import json
import os

import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from experiments import bench
from experiments.benchmarks import boxes, data, growth, heads, labels, planted, probes, problem, scale
from experiments.benchmarks.comparison import Comparison, format_table
from experiments.benchmarks.config import require
from experiments.benchmarks.timing import Measurement, Work, measure
from vitprobe_jax.errors import InputError

TINY = ("--noisolate", "--repeats=1", "--rows=600", "--concepts=3", "--width=16", "--sample=2")


def make_flags(*arguments):
    values = flags.FlagValues()
    bench.define_flags(values)
    values(["bench", *arguments])
    return values


def make_config(name, *arguments):
    return bench.bench_config(make_flags(*TINY, *arguments), name)


def compare(name, *arguments):
    return bench.BENCHMARKS[name].compare(make_config(name, *arguments))


@pytest.fixture
def _probekit_if_installed(monkeypatch):
    """The extra `bench` has probekit, the extra `test` does not."""
    if importlib.util.find_spec("probekit") is None:
        monkeypatch.delitem(probes.CONTENDERS, "probekit, batched Newton")


@pytest.mark.usefixtures("_probekit_if_installed")
@pytest.mark.parametrize("sizes", ["--nospread", pytest.param("--spread", marks=pytest.mark.slow)])
def test_probes_of_all_contenders_find_the_planted_concepts(sizes):
    (comparison,) = compare("probes", "--rows=1500", sizes)
    evidence = {m.name: m.evidence for m in comparison.measurements}
    library = evidence.pop(probes.LIBRARY)
    # 300 held-out rows; chance is 0.5.
    assert library.accuracy.min() > 0.7
    assert library.excess < 1e-4
    for name, rival in evidence.items():
        if rival.excess is not None:
            # The same objective; the first round's negatives are drawn differently. A few rows apart.
            np.testing.assert_allclose(rival.accuracy, library.accuracy[: len(rival.accuracy)], atol=0.08, err_msg=name)
            assert rival.excess < 1e-3, name
    loop = {m.name: m for m in comparison.measurements}["LogisticRegression loop"]
    assert (len(loop.evidence.accuracy), loop.scale) == (2, 1.5)


def test_probes_of_isotropic_rows_suit_sgd():
    """Where every direction has the same variance, the paper's SGD finds the concepts too."""
    config = make_config("probes", "--rows=1500", "--isotropic")
    work = probes.prepare_torch_sgd(config)
    assert work.evidence(work.run()).accuracy.min() > 0.7


@pytest.mark.parametrize("precondition", [False, True])
def test_torch_lbfgs_reaches_the_minimum_of_scikit_learn(precondition):
    torch = pytest.importorskip("torch")
    linear_model = pytest.importorskip("sklearn.linear_model")
    torch_lbfgs = importlib.import_module("experiments.benchmarks.torch_lbfgs")
    rng = np.random.default_rng(5)
    sizes, width = (90, 60), 8
    # The gradient is a hundred times too long a step along the first feature.
    x = rng.standard_normal((2, 90, width)) * np.geomspace(10, 1, width) + 0.5
    y = x[..., 0] + 5 * rng.standard_normal((2, 90)) > 7
    real = np.arange(90) < np.array(sizes)[:, None]
    basis = np.linalg.inv(np.linalg.cholesky(0.1 * np.cov(x.reshape(-1, width).T) + 1e-3 * np.eye(width))).T
    x_, y_, share, basis = (
        torch.tensor(leaf, dtype=torch.float32) for leaf in (x, y, real / real.sum(1)[:, None], basis)
    )
    problems = torch_lbfgs.Regressions(x_, y_, share, problem.PROTOCOL.penalty)
    start = torch.zeros(2, width), torch.zeros(2)
    w, b = torch_lbfgs.minimise(problems, *start, basis, precondition=precondition, tolerance=1e-9, max_steps=300)
    for k, n in enumerate(sizes):
        model = linear_model.LogisticRegression(C=1 / (problem.PROTOCOL.penalty * n), tol=1e-10, max_iter=10_000)
        model.fit(x[k, :n], y[k, :n])
        # Both end near the minimum, which is flat: at 1e-9 of the loss, weights are apart by about its root.
        np.testing.assert_allclose(w[k], model.coef_[0], rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(b[k], -model.intercept_[0], rtol=2e-3, atol=2e-3)
        assert abs(problem.excess_loss(x[k, :n], y[k, :n], w[k].double().numpy(), float(b[k]))) < 1e-6


def _probes(seconds, accuracy):
    measured = [
        Measurement(name, number, 0.0, 1.0, 1.0, problem.Evidence(np.full(3, accuracy[name]), None))
        for name, number in seconds.items()
    ]
    return [Comparison("case", measured, {})]


@pytest.mark.parametrize(
    ("accuracies", "words", "ratio"),
    [
        ((0.9, 0.5, 0.901, 0.899), "fastest of equal accuracy, b / vitprobe_jax", 6.0),
        ((0.9, 0.9, 0.9, 0.9), "fastest of equal accuracy, --solver=paper / vitprobe_jax", 0.5),
        ((0.9, 0.5, 0.91, 0.5), "is more than 0.002 below the best; fastest of equal accuracy, b / vitprobe_jax", 6.0),
        ((0.9, 0.5, 0.89, np.nan), "no rival has an accuracy within 0.002 of the best", np.nan),
    ],
)
def test_probes_end_in_the_fastest_rival_of_equal_accuracy(accuracies, words, ratio):
    names = (probes.LIBRARY, probes.PAPER, "b", "c")
    seconds = dict(zip(names, (2.0, 1.0, 12.0, 16.0), strict=True))
    said, number = probes.headline(_probes(seconds, dict(zip(names, accuracies, strict=True))))
    assert said.startswith("--solver=paper / vitprobe_jax 0.50; ")
    assert said.endswith(words)
    assert number == pytest.approx(ratio, nan_ok=True)


@pytest.mark.parametrize(("patches", "shapes"), [(1, [(3, 2, 2), (1, 2, 1)]), (4, [(3, 2, 2)])])
def test_cosine_thresholds_equal_the_curves(patches, shapes):
    """By default, images of 784 rows make a second case: the largest shot count, one concept sampled."""
    comparisons = compare("cosine", f"--patches={patches}", "--shots=1,5,20", "--trials=2")
    assert [comparison.measurements[0].evidence.shape for comparison in comparisons] == shapes
    for comparison in comparisons:
        assert comparison.quality["equal thresholds"] == [1.0, 1.0]


def test_metrics_counts_are_exact():
    (comparison,) = compare("metrics")
    # No score lies within float32 rounding of its threshold at this seed.
    assert comparison.quality["largest error of a rate"] == [0.0, None, None]


def test_knn_finds_what_its_rivals_find():
    comparisons = bench.BENCHMARKS["knn"].compare_case(make_config("knn", "--queries=40"), 5)
    beside_rivals, _ = comparisons
    # No two neighbours are nearly as near as each other at this seed. Squares of differences up to 10, 16 of them.
    assert beside_rivals.quality["equal neighbours"] == beside_rivals.quality["in common"] == [None, 1.0, 1.0]
    assert max(beside_rivals.quality["distances apart"][1:]) < 1e-5
    words, ratio = bench.BENCHMARKS["knn"].headline(comparisons)
    library, faiss, *_ = beside_rivals.measurements
    assert (words, ratio) == ("faiss IndexFlatL2 / vitprobe_jax", faiss.seconds / library.seconds)


@pytest.mark.slow
def test_knn_measures_every_case():
    comparisons = compare("knn", "--queries=12", "--neighbours=3,1", "--rows=200")
    titles = [comparison.title for comparison in comparisons[::2]]
    assert [title.split(": ")[1] for title in titles] == [
        f"12 queries x {rows} rows x {width}, {k} neighbours"
        for k, rows, width in [(3, 20, 16), (3, 20, 32), (3, 200, 16), (3, 200, 32), (1, 20, 16)]
    ]


@pytest.mark.slow
def test_heads_of_all_contenders_have_the_same_curves():
    (comparison,) = compare("heads", "--width=24", "--patches=4")
    library = comparison.measurements[0]
    assert library.evidence.shape == (24, 2)
    # float32, two steps; the first loss is that of no step.
    assert max(comparison.quality["curves apart"][1:]) < 2e-6
    assert np.abs(np.diff(library.evidence)).min() > 1e-4


def test_heads_end_in_all_ratios():
    seconds = {"vitprobe_jax": 2.0, "one by one": 32.0, heads.TOGETHER: 8.0, "by hand": 3.0}
    measured = [Measurement(name, number, 0.0, 1.0, 1.0, None) for name, number in seconds.items()]
    words, ratio = heads.headline([Comparison("case", measured, {})])
    assert words == f"one by one / vitprobe_jax 16.00; by hand / vitprobe_jax 1.50; {heads.TOGETHER} / vitprobe_jax"
    assert ratio == 4.0


def test_heads_need_a_batch():
    with pytest.raises(InputError, match="--rows=200"):
        compare("heads", "--rows=200")


def test_boxes_are_those_of_opencv(monkeypatch):
    """Of maps that both enlarge for themselves: a few pixels may fall on the other side of a level."""
    pytest.importorskip("cv2")
    monkeypatch.setattr(boxes, "MAPS", 4)
    (comparison,) = compare("boxes", "--image_size=64")
    assert comparison.measurements[0].evidence.shape == (4, 2, 1000)
    assert comparison.quality["overlaps equal"][1] > 0.98


def test_growth_ends_in_the_worst_share_over_the_first():
    def case(library, limit):
        measured = [Measurement(name, seconds, 0.0, 1.0, 1.0, None) for name, seconds in (("a", library), ("b", limit))]
        return Comparison("case", measured, {})

    _, ratio = growth.headline([case(2.0, 1.0), case(10.0, 6.0), case(10.0, 4.0)])
    assert ratio == pytest.approx(0.4 / 0.5)


@pytest.mark.slow
def test_growth_measures_every_case_beside_its_limit():
    comparisons = compare("growth", "--width=8", "--probe_memory=20")
    assert len(comparisons) == 4
    for comparison in comparisons:
        library, limit = comparison.measurements
        assert library.evidence.accuracy.mean() > 0.7
        assert limit.evidence is None


@pytest.mark.parametrize("name", ["metrics", pytest.param("cosine", marks=pytest.mark.slow), "probes"])
def test_broden_scale_in_small(name):
    config = make_config(name, "--scale=broden", "--rows=4000", "--shots=2", "--trials=2", "--concepts=9")
    (comparison,) = scale.compare(name, config)
    words, quality = comparison.measurements[0].evidence
    assert comparison.quality == {words: [quality, None]}
    if name == "probes":
        assert quality > 0.8


def test_rows_made_on_the_device_carry_what_their_labels_say():
    table, labels = scale.plant_on_device(make_config("probes", "--scale=broden", "--rows=60000", "--width=32"))
    assert table.rows.dtype == jnp.bfloat16
    rows = np.asarray(table.rows, np.float32)
    assert (rows == 0).mean() < 1e-3  # No image was left out.
    np.testing.assert_array_equal(table.slots, labels.slots)
    for k in range(3):
        carried = labels.carries(k)
        shift = rows[carried].mean(0) - rows[~carried].mean(0)
        # Unit deviation: the mean of n rows is off by sqrt(32 / n).
        assert np.linalg.norm(shift) == pytest.approx(planted.STRENGTH, abs=6 * np.sqrt(32 / carried.sum()))


def test_a_bench_without_that_scale_says_so(monkeypatch):
    monkeypatch.setattr(flags, "FLAGS", make_flags(*TINY, "--scale=broden"))
    with pytest.raises(InputError, match="--scale=broden: growth"):
        bench.main(["bench", "growth"])


@pytest.mark.slow
def test_extract_compares_tokens():
    (comparison,) = compare("extract", "--archs=vits16", "--batch_sizes=2", "--image_size=32")
    none, *differences = comparison.quality["difference"]
    assert none is None
    # Zero would be the library compared with itself; float32 through 12 blocks gives about 1e-6.
    assert all(0 < difference < 2e-5 for difference in differences)


def test_data_feeds_the_pixels_that_torch_does(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "FILES", 3)
    data.write_photographs(tmp_path, seed=0)
    config = make_config("probes", "--rows=16", "--batch_sizes=8", "--image_size=32")
    comparison = data.compare_feeding(config, tmp_path, workers=0)
    # One of 255 steps is 0.017; the rest is rounding of numbers up to 3.
    assert comparison.quality["difference"][1] < 2e-6
    assert comparison.quality["images/s"] == [8 / measured.seconds for measured in comparison.measurements]
    library, rival = (measured.evidence for measured in comparison.measurements)
    assert library.shape == rival.shape == (8, 32, 32, 3)
    assert 0.5 < library.std() < 2  # Neither is blank.


@pytest.mark.slow
def test_data_measures_feeding_and_extraction(monkeypatch):
    monkeypatch.setattr(data, "FILES", 3)
    # Workers would be forked from this process, in which JAX has threads.
    monkeypatch.setattr(data, "WORKERS", (0,))
    sizes = ("--rows=64", "--batch_sizes=4", "--image_size=32", "--archs=vits16")
    comparisons = data.compare(make_config("probes", *sizes))
    feeding, extraction = comparisons
    whole, *parts = (measured.seconds for measured in extraction.measurements)
    assert extraction.ratio == max(parts) / whole
    assert data.headline(comparisons)[1] == feeding.ratio


@pytest.mark.slow
def test_stream_gives_the_resident_templates():
    (comparison,) = compare("stream", "--rows=8000", "--shots=2", "--trials=1")
    # Sums of 16 features in blocks of other sizes: the last bits of float32.
    for name in ("w", "b", "alpha", "t"):
        assert comparison.quality[f"largest difference of {name}"][0] < 1e-5
    streamed, resident = comparison.quality["accuracy"]
    assert streamed == pytest.approx(resident, abs=1e-3)
    assert streamed > 0.7
    ratio = bench.BENCHMARKS["stream"].headline([comparison])[1]
    added, allowed = (comparison.quality[column][0] for column in ("added MB", "may add MB"))
    assert ratio == pytest.approx(added / allowed)


def test_labels_states_its_rate(monkeypatch):
    monkeypatch.setattr(labels, "BRODEN_ROWS", 700)
    building, loading, opening = comparisons = compare("labels", "--rows=60", "--concepts=12")
    library = building.measurements[0]
    assert labels.headline(comparisons)[1] == pytest.approx(60 / library.seconds)
    assert "700 rows" in opening.title
    assert "700 images" in loading.title


@pytest.mark.parametrize("argument", ["--archs=vits99", "--image_size=30", "--rows=12"])
def test_bad_data_flags(argument):
    with pytest.raises(InputError, match=argument.partition("=")[0]):
        data.compare(make_config("probes", argument))


def test_command_ends_in_the_ratio_and_writes_json(tmp_path, capsys, monkeypatch):
    path = tmp_path / "cosine.json"
    monkeypatch.setattr(flags, "FLAGS", make_flags(*TINY, "--shots=2", "--trials=1", f"--json={path}"))
    bench.main(["bench", "cosine"])
    last = capsys.readouterr().out.splitlines()[-1]
    record = json.loads(path.read_text())
    assert float(last.split()[-1]) == pytest.approx(record["ratio"], abs=5e-4)  # Printed to three decimals.
    ratios = []
    for comparison in record["comparisons"]:
        library, rival = comparison["contenders"]
        ratios.append(rival["seconds"] / library["seconds"])
    assert record["ratio"] == min(ratios)
    assert record["config"]["rows"] == 600


def test_ratio_is_against_the_fastest_rival():
    measured = [Measurement(name, seconds, 0.0, 1.0, scale, None) for name, seconds, scale in CONTENDERS]
    comparison = Comparison("case", measured, {"accuracy": [0.5, None, 0.25]})
    assert comparison.ratio == 1.5
    lines = format_table(comparison).splitlines()
    assert [line.split()[-1] for line in lines[2:5]] == ["0.5", "-", "0.25"]
    assert "8.000*" in lines[4]
    assert lines[5].endswith("c by 4")


CONTENDERS = (("a", 2.0, 1.0), ("b", 3.0, 1.0), ("c", 8.0, 4.0))


def test_contenders_take_turns():
    calls = []

    def prepare(config, name):
        return Work(lambda: calls.append(name), lambda _: name)

    measured = measure({name: (prepare, name) for name in "ab"}, make_config("probes", "--repeats=2"))
    assert "".join(calls) == "ab" * 3
    assert [(m.name, m.evidence) for m in measured] == [("a", "a"), ("b", "b")]


@pytest.mark.slow
def test_isolated_contenders_have_processes_of_their_own():
    pids = [m.evidence for m in measure({"a": (_pid,), "b": (_pid,)}, make_config("probes", "--isolate"))]
    assert len({os.getpid(), *pids}) == 3
    with pytest.raises(InputError, match="refused"):
        measure({"a": (_refuse,)}, make_config("probes", "--isolate"))


def _pid(config):
    return Work(os.getpid, lambda pid: pid)


def _refuse(config):
    raise InputError("refused")


@pytest.mark.parametrize("sizes", ["--nospread", "--spread"])
def test_planted_sizes(sizes):
    config = make_config("probes", "--rows=1000", sizes)
    split = planted.plant(config, "train", patches=4)
    counted = np.bincount(split.concept)
    np.testing.assert_array_equal(counted, planted.sizes(config, 1000))
    np.testing.assert_array_equal(split.labels.slots.reshape(-1) - 1, split.concept)
    # Geometric from 100 to 1 over three concepts, or equal but for rounding.
    np.testing.assert_allclose(
        counted / 1000, [100 / 111, 10 / 111, 1 / 111] if sizes == "--spread" else 1 / 3, atol=1e-3
    )


def test_planted_rows_have_the_statistics_of_tokens():
    config = make_config("probes", "--rows=20000", "--width=64", "--concepts=100")
    train, val = (planted.plant(config, split).rows.astype(float) for split in ("train", "val"))
    deviation = train.std(0)
    statistics = planted.TokenStatistics.of(config)
    # Log-uniform over a factor of 1,000, seen by 64 features; rows of the mixing matrix differ in length beside that.
    assert 300 < deviation.max() / deviation.min() < 5000
    assert 1.5 < np.abs(train.mean(0) / statistics.deviation).mean() < 3.5  # 3 sqrt(2 / pi) = 2.4 of a normal.
    # Both splits share all of it: means of 20,000 rows are off by 1 / sqrt(20,000) of a deviation.
    assert np.abs((train.mean(0) - val.mean(0)) / deviation).max() < 0.05
    np.testing.assert_allclose(val.std(0), deviation, rtol=0.05)
    eigenvalues = np.linalg.eigvalsh(np.cov((train / statistics.deviation).T))[::-1]
    slope = np.polyfit(np.log(np.arange(1, 65)), np.log(eigenvalues), 1)[0]
    # 1.5 of the noise; shifts of length 3.5 along 100 directions add to all variances nearly alike.
    assert slope == pytest.approx(-planted.SPECTRUM, abs=0.1)


def test_isotropic_rows_have_unit_variance():
    config = make_config("probes", "--rows=20000", "--width=64", "--concepts=100", "--isotropic")
    rows = planted.plant(config, "train").rows
    # The shifts add 3.5^2 / 64 to the variance of 1.
    np.testing.assert_allclose(rows.var(0), 1 + planted.STRENGTH**2 / 64, rtol=0.15)


def test_absent_rival_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None if package == "torch" else object())
    with pytest.raises(InputError, match=r"need torch; install .*\[bench\]"):
        require("probes", ("torch", "sklearn"))


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--rows=11", "--rows=11"),
        ("--sample=9", "--sample=9"),
        ("--repeats=0", "--repeats"),
        ("--shots=1,x", "--shots"),
        ("--batch_sizes=0", "--batch_sizes"),
        ("--archs=", "--archs"),
        ("--neighbours=20,x", "--neighbours"),
        ("--queries=0", "--queries"),
    ],
)
def test_bad_flags(argument, words):
    with pytest.raises(InputError, match=words):
        make_config("cosine", argument)


def test_too_few_rows():
    with pytest.raises(InputError, match="--rows=2000"):
        compare("cosine", "--patches=100", "--shots=20")
    with pytest.raises(InputError, match="--rows=12"):
        compare("metrics", "--rows=12", "--spread")


@pytest.mark.parametrize("argument", ["--archs=vits99", "--image_size=30"])
def test_bad_extract_flags(argument):
    with pytest.raises(InputError, match=argument.partition("=")[0]):
        compare("extract", argument)
