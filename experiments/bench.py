"""Side-by-side benchmarks, rivals in the same run, on equal data: `python -m experiments.bench NAME`.

NAME is one of `probes`, `growth`, `stream`, `cosine`, `metrics`, `knn`, `heads`, `attention`, `boxes`, `extract`, `data`,
`labels`.
The last line ends in a plain number: how many times the library's time the fastest rival takes (in the worst case, where
there are several); `growth`, `stream`, `heads`, `attention`, `data`, `labels` and, on an accelerator, `knn` say their own.
"""

import dataclasses
import functools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments.benchmarks import (
    attention,
    boxes,
    cosine,
    data,
    extract,
    growth,
    heads,
    knn,
    labels,
    metrics,
    probes,
    scale,
    stream,
)
from experiments.benchmarks.comparison import Comparison, format_table, to_json
from experiments.benchmarks.config import BenchConfig, require
from vitprobe_jax import cli
from vitprobe_jax.errors import InputError
from vitprobe_jax.probes.hyperplane import DEFAULT_MEMORY_MB

BENCHMARKS = {
    "probes": probes,
    "growth": growth,
    "stream": stream,
    "cosine": cosine,
    "metrics": metrics,
    "knn": knn,
    "heads": heads,
    "attention": attention,
    "boxes": boxes,
    "extract": extract,
    "data": data,
    "labels": labels,
}

BUSY = 0.5
"""Load average from which a ratio is not to be trusted. PyTorch's two threads wait for each other by spinning: beside one
other busy process on two cores they took 20 times as long."""


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this command; sizes left out are each benchmark's own."""
    flags.DEFINE_enum(
        "scale",
        "rivals",
        ["rivals", "broden"],
        "rivals: beside the rivals, sizes for a laptop; broden: Broden's size in bfloat16, made on the device, beside the "
        "limits of the machine",
        flag_values=values,
    )
    flags.DEFINE_integer("rows", None, "rows of the training split", flag_values=values)
    flags.DEFINE_integer("concepts", None, "planted concepts", flag_values=values)
    flags.DEFINE_integer("width", None, "features of a row", flag_values=values)
    flags.DEFINE_integer("sample", 4, "concepts that a rival's loop is timed on, and scaled", flag_values=values)
    flags.DEFINE_bool("spread", False, "log-uniform sizes of concepts instead of equal ones", flag_values=values)
    flags.DEFINE_bool(
        "isotropic",
        None,
        "planted rows of mean 0 and unit variance in every direction instead of rows with the statistics of tokens; the "
        "default of all benchmarks but probes and growth",
        flag_values=values,
    )
    flags.DEFINE_list("shots", None, "shot counts of cosine", flag_values=values)
    flags.DEFINE_integer("trials", 10, "trials of cosine", flag_values=values)
    flags.DEFINE_integer(
        "patches", None, "rows of an image for cosine, 784 is 28 x 28; patches of one for heads", flag_values=values
    )
    flags.DEFINE_integer("queries", 100_000, "rows whose neighbours knn looks for", flag_values=values)
    flags.DEFINE_list("neighbours", ["20", "1", "200"], "neighbours of each in knn", flag_values=values)
    flags.DEFINE_list("archs", ["vits16", "vitb16"], "DINO archs of extract and attention", flag_values=values)
    flags.DEFINE_list("batch_sizes", ["8", "32"], "images a call of extract and attention", flag_values=values)
    flags.DEFINE_integer(
        "image_size", 224, "pixels a side of the images of extract, attention and boxes", flag_values=values
    )
    flags.DEFINE_integer(
        "probe_memory", DEFAULT_MEMORY_MB, "MiB that fitting hyperplanes may take beside the table", flag_values=values
    )
    flags.DEFINE_integer("repeats", 5, "timed calls after the first; the median counts", flag_values=values)
    flags.DEFINE_integer("seed", 0, "of all data", flag_values=values)
    flags.DEFINE_bool("isolate", True, "each contender in a process of its own", flag_values=values)
    flags.DEFINE_string("json", None, "also write the numbers to this file", flag_values=values)


def bench_config(values: flags.FlagValues, name: str) -> BenchConfig:
    """The sizes that the flags ask for, with the defaults of benchmark `name`.

    Raises:
        InputError: a flag's value cannot be used.
    """
    given = {field.name: values[field.name].value for field in dataclasses.fields(BenchConfig)}
    for flag in ("shots", "batch_sizes", "neighbours"):
        if given[flag] is not None:
            try:
                given[flag] = tuple(int(number) for number in given[flag])
            except ValueError as error:
                raise InputError(f"--{flag}: whole numbers are needed, got {','.join(given[flag])}") from error
    given["archs"] = tuple(given["archs"])
    defaults = scale.DEFAULTS if given["scale"] == "broden" else BENCHMARKS[name].DEFAULTS
    unset = [flag for flag, value in given.items() if value is None]
    return BenchConfig(**given | {flag: (DEFAULTS | defaults)[flag] for flag in unset})


DEFAULTS = {
    "rows": 100_000,
    "concepts": 200,
    "width": 384,
    "patches": 1,
    "shots": (1, 5, 10, 50, 100, 500),
    "isotropic": True,
}


def main(argv: Sequence[str]) -> None:
    """Runs the benchmark that is the only argument and prints its tables, the ratio last."""
    if len(argv) != 2 or argv[1] not in BENCHMARKS:
        raise InputError(f"one benchmark is needed, of {', '.join(BENCHMARKS)}: python -m experiments.bench probes")
    name = argv[1]
    benchmark = BENCHMARKS[name]
    config = bench_config(flags.FLAGS, name)
    compare, headline = benchmark.compare, getattr(benchmark, "headline", fastest_rival)
    if config.scale == "broden":
        if name not in scale.CASES:
            raise InputError(f"--scale=broden: {name} has no such size; {', '.join(scale.CASES)} have")
        compare, headline = functools.partial(scale.compare, name), scale.headline
    else:
        require(name, benchmark.NEEDS)
    load = os.getloadavg()[0]
    if load > BUSY:
        print(f"the machine is busy (load {load:.1f}): threaded rivals suffer most, ratios mislead", file=sys.stderr)
    comparisons = compare(config)
    words, ratio = headline(comparisons)
    for comparison in comparisons:
        print(format_table(comparison) + "\n")
    if flags.FLAGS.json:
        record = {"benchmark": name, "config": dataclasses.asdict(config), "load": load, "ratio": ratio}
        text = json.dumps(record | {"comparisons": list(map(to_json, comparisons))}, indent=2) + "\n"
        try:
            Path(flags.FLAGS.json).write_text(text)
        except OSError as error:
            raise InputError(f"--json: {flags.FLAGS.json} cannot be written ({error}); name another file") from error
    print(f"{words}: {ratio:.3f}")


def fastest_rival(comparisons: Sequence[Comparison]) -> tuple[str, float]:
    """The last line of a benchmark that has none of its own."""
    return "fastest rival / vitprobe_jax", min(comparison.ratio for comparison in comparisons)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
