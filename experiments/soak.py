"""Kills a running sweep again and again and compares what it ends in: `python -m experiments.soak --kills=50`.

A small sweep runs once undisturbed. Then the same sweep runs with a cache and `--resume`; SIGKILL strikes it, and its worker
processes, after a random time; it is started again, until it has been killed so often. Whenever it gets through, its
results, templates, examples and cache are compared, file by file, with the undisturbed ones, and it begins anew.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from tqdm import tqdm

from vitprobe_jax import cli
from vitprobe_jax.errors import InputError

SWEEP = (
    "--dataset=shapes:160",
    "--backbones=untrained_dino_tiny,untrained_mae_tiny",
    "--image_size=64",
    "--layers=1,3",
    "--tokens=k,x2",
    "--shots=1,5",
    "--trials=2",
    "--num_workers=1",
    "--pixel_level",
)
UNFINISHED = (".partial", ".__lock", ".lock")
"""Endings of names of files that a killed write leaves beside the one it meant, and of locks."""


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """The flags of this command."""
    flags.DEFINE_integer("kills", 50, "How often the sweep is killed.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of the times at which it is killed.", flag_values=values)
    flags.DEFINE_string(
        "work", "", "Folder for the runs, kept afterwards; default: a temporary one.", flag_values=values
    )


def soak(work: Path, *, kills: int, seed: int) -> tuple[int, int]:
    """Kills sweeps until `kills` have died.

    Args:
        work: an empty folder.
        kills: processes that are to be killed before they end.
        seed: of the times.

    Returns:
        How many sweeps got through and were compared, and how many starts that took.

    Raises:
        InputError: the undisturbed sweep fails.
        RuntimeError: a sweep ended in other bytes, or by itself without being done; says where.
    """
    # Every start compiles the same programs; a soak is of what the sweep writes.
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(work / "compiled")}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    start = time.monotonic()
    _run(work / "undisturbed", environment, seconds=None)
    expected = contents(work / "undisturbed")
    longest = time.monotonic() - start
    start = time.monotonic()
    _run(work / "warm", environment, seconds=None)
    longest = min(longest, time.monotonic() - start)
    times, died, finished, starts = random.Random(seed), 0, 0, 0
    with tqdm(total=kills, desc="soak", unit="kill", disable=not sys.stderr.isatty()) as bar:
        while died < kills:
            folder = work / f"{finished}"
            starts += 1
            if _run(folder, environment, seconds=times.uniform(0.2, 1.0) * longest):
                differing = different(contents(folder), expected)
                if differing:
                    raise RuntimeError(
                        f"{folder}: other bytes than {work / 'undisturbed'} in {', '.join(differing[:5])}"
                    )
                finished += 1
            else:
                died += 1
                bar.update()
        # What the last kill left behind has to come to its end too.
        folder = work / f"{finished}"
        if not _run(folder, environment, seconds=None) or different(contents(folder), expected):
            raise RuntimeError(f"{folder}: other bytes than {work / 'undisturbed'}")
    return finished + 1, starts + 1


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of everything that a sweep comes to, by name."""
    paths = [folder / "out" / "results.parquet"]
    paths += [
        path for part in ("out/templates", "out/cells", "out/examples", "cache") for path in (folder / part).rglob("*")
    ]
    kept = (path for path in paths if path.is_file() and not path.name.endswith(UNFINISHED))
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


def different(found: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    """The names of files that are not the same in both."""
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


def _run(folder: Path, environment: dict[str, str], *, seconds: float | None) -> bool:
    """Whether the sweep of a folder ended by itself before it was killed."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "experiments.sweep", *SWEEP, "--resume"]
    command += [f"--out={folder / 'out'}", f"--cache_dir={folder / 'cache'}"]
    with open(folder / "log.txt", "ab") as log:
        # A session of its own, so that its workers can be killed with it.
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return False
    if code:
        lines = (folder / "log.txt").read_text(errors="replace").splitlines()
        raise RuntimeError(f"{folder}: the sweep ended with exit code {code}: {lines[-1] if lines else 'no word'}")
    return True


def main(argv: Sequence[str]) -> None:
    """Runs the soak and says how it went."""
    if len(argv) > 1:
        raise InputError(f"unexpected argument {argv[1]!r}; every option is a flag (--help lists them)")
    values = flags.FLAGS
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(values.work or temporary)
        work.mkdir(parents=True, exist_ok=True)
        if any(work.iterdir()):
            raise InputError(f"--work: {work} is not empty; name another folder")
        try:
            finished, starts = soak(work, kills=values.kills, seed=values.seed)
        except RuntimeError as error:
            raise cli.StopError(str(error)) from error
    print(f"{values.kills} kills in {starts} starts; {finished} sweeps got through, each with the same bytes")


if __name__ == "__main__":
    define_flags()
    cli.run(main)
