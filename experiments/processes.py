"""Several processes as one run: how they find each other, what only the first does, what happens when one dies.

The distribution itself is JAX's: `jax.distributed` starts it, meshes span all devices, arrays are sharded by NamedSharding.
"""

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVar

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Int, Shaped

from experiments.config import LaunchConfig
from vitprobe_jax.cli import StopError
from vitprobe_jax.errors import InputError
from vitprobe_jax.features.table import make_mesh

T = TypeVar("T")
Config = TypeVar("Config", bound=LaunchConfig)

HEARTBEAT_SECONDS = 20
"""A process that is silent for so long is taken for dead; one that closes its connections is seen at once."""
PIECE_BYTES = 64 << 20
"""Of each process, that travel at a time."""
INTERRUPTED = "interrupted; what was finished is kept: go on with the same command and --resume"
PEER_LOST = "another process of this run ended; what was finished is kept: start all of them again with --resume"
_GUARDED = "VITPROBE_GUARDED"
_RUNTIME_LOG = re.compile(
    r"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ |\[Gloo\]|\*\*\* Check failure|    @ +0x|Additional GRPC|:UNKNOWN:"
)
_PEER_ERRORS = re.compile(
    r"gloo|nccl|coordination service|heartbeat|connection (closed|reset)|socket closed|barrier", re.I
)


def carry_out(
    argv: Sequence[str],
    make_config: Callable[[flags.FlagValues], Config],
    run: Callable[[Config], os.PathLike | None],
    made: str = "report",
) -> None:
    """What every long command does once its flags are parsed: alone or as one of several processes, to what it made.

    Args:
        argv: the command's name; it takes no arguments beside flags.
        make_config: of the flags.
        run: the work; gives the path of what it made, None where there is nothing to tell.
        made: what to call it.

    Raises:
        InputError: bad input of any kind.
    """
    if len(argv) > 1:
        raise InputError(f"unexpected argument {argv[1]!r}; every option is a flag (--help lists them)")
    config = make_config(flags.FLAGS)
    guard(config)
    connect(config)
    with watched():
        path = run(config)
    if path:
        print(f"{made}: {path}")


def guard(config: LaunchConfig) -> None:
    """Runs this command once more as a child and ends as it ends; returns at once in that child, or in a run of one process.

    JAX's runtime ends a process from within, by abort and with a stack trace, as soon as the first process of a run is
    gone. No handler in that process can turn this into one line, so another one, which holds no connection, does.
    """
    if not config.coordinator or os.environ.get(_GUARDED):
        return
    child = subprocess.Popen(
        sys.orig_argv, env=os.environ | {_GUARDED: "1"}, stderr=subprocess.PIPE, text=True, preexec_fn=_die_with_parent
    )
    # The child ends in order, and this one after it.
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: child.send_signal(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    held = []
    for line in child.stderr:
        if held or _RUNTIME_LOG.match(line):
            held.append(line)
            if line.startswith("error: "):
                print(line, end="", file=sys.stderr, flush=True)
        else:
            print(line, end="", file=sys.stderr, flush=True)
    code = child.wait()
    # The runtime aborts, and may crash in doing so while another thread still computes, before it has said why.
    crashed = code in (-signal.SIGABRT, -signal.SIGSEGV)
    if crashed and (any(map(_PEER_ERRORS.search, held)) or _is_gone(config.coordinator)):
        print(f"error: {PEER_LOST}", file=sys.stderr)
        sys.exit(1)
    if code not in (0, 1, 2, 130, 143):
        sys.stderr.writelines(held)
    sys.exit(code if code >= 0 else 128 - code)


def connect(config: LaunchConfig) -> None:
    """Joins the other processes, where `--coordinator` says that there are some; before anything else is asked of JAX.

    Raises:
        InputError: they cannot be found.
    """
    if not config.coordinator:
        return
    # Processes of CPUs speak through gloo; on other devices the setting is of no account.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would take SIGTERM for itself, and a run would go on.
    jax.config.update("jax_enable_preemption_service", False)
    where = {}
    if config.coordinator != "auto":
        where = {
            "coordinator_address": config.coordinator,
            "num_processes": config.num_processes,
            "process_id": config.process_id,
        }
    try:
        jax.distributed.initialize(**where, heartbeat_timeout_seconds=HEARTBEAT_SECONDS, initialization_timeout=120)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"--coordinator={config.coordinator}: the processes of this run did not find each other ({reason}); start as "
            "many as --num_processes says, each with its own --process_id"
        ) from error


@contextmanager
def watched() -> Iterator[None]:
    """Turns what a lost process does to a computation into a `StopError`."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if isinstance(error, InputError) or jax.process_count() == 1 or not _PEER_ERRORS.search(str(error)):
            raise
        raise StopError(PEER_LOST) from error


def is_first() -> bool:
    """Whether this process is the one that writes results and speaks."""
    return jax.process_index() == 0


def on_first(act: Callable[[], T]) -> T | None:
    """Has the first process act when all have come so far, while the others wait; they get None.

    Raises:
        InputError: the first one's; the others are told that there was one.
    """
    if jax.process_count() == 1:
        return act()
    multihost_utils.sync_global_devices("on_first")
    result, failure = None, None
    if is_first():
        try:
            result = act()
        except InputError as error:
            failure = error
    refused = multihost_utils.broadcast_one_to_all(np.array(failure is not None))
    if failure is not None:
        raise failure
    if refused:
        raise InputError("the first process of this run was given bad input; its own message says which")
    return result


def from_first(flags: np.ndarray) -> np.ndarray:
    """The first process' array, on all of them."""
    return flags if jax.process_count() == 1 else np.asarray(multihost_utils.broadcast_one_to_all(flags))


def total(counts: Int[np.ndarray, "*shape"]) -> Int[np.ndarray, "*shape"]:
    """The sum of what all processes counted, in int64."""
    if jax.process_count() == 1:
        return counts.astype(np.int64)
    # As pairs of 32 bits: JAX would cut 64 of them.
    halves = np.ascontiguousarray(counts, np.int64)[..., None].view(np.int32)
    return np.asarray(multihost_utils.process_allgather(halves)).view(np.int64)[..., 0].sum(axis=0)


def gathered(own: Shaped[np.ndarray, "n *rest"]) -> Shaped[np.ndarray, "all *rest"]:
    """What all processes have, one after the other along the first axis, to the last bit.

    Args:
        own: of this process; all have the same type and the same further axes, and any number of entries, none too.

    Returns:
        The same array in every process. It travels as bytes, in pieces of `PIECE_BYTES` of each process, so that JAX neither
        cuts 64-bit numbers nor holds it several times.
    """
    if jax.process_count() == 1:
        return own
    own = np.ascontiguousarray(own)
    lengths = np.asarray(multihost_utils.process_allgather(np.array(own.nbytes, np.int64).view(np.int32).reshape(2)))
    lengths = np.ascontiguousarray(lengths).view(np.int64).ravel()
    flat = own.reshape(-1).view(np.uint8)
    parts = [np.empty(length, np.uint8) for length in lengths]
    for start in range(0, int(lengths.max()), PIECE_BYTES):
        size = min(PIECE_BYTES, int(lengths.max()) - start)
        piece = np.zeros(size, np.uint8)
        mine = flat[start : start + size]
        piece[: len(mine)] = mine
        for part, other in zip(parts, np.asarray(multihost_utils.process_allgather(piece)), strict=True):
            part[start : start + size] = other[: max(0, len(part) - start)]
    return np.concatenate(parts).view(own.dtype).reshape(-1, *own.shape[1:])


def share(count: int) -> range:
    """This process' part of `count` consecutive things."""
    ends = [count * p // jax.process_count() for p in (jax.process_index(), jax.process_index() + 1)]
    return range(*ends)


def has_turn(number: int) -> bool:
    """Whether the thing of this number is this process' own, where things are dealt to all processes in turn."""
    return number % jax.process_count() == jax.process_index()


def make_meshes(num_devices: int) -> tuple[Mesh, Mesh]:
    """The devices of all processes along one data axis, and those of this process alone.

    Args:
        num_devices: of each process; 0 takes all.

    Raises:
        InputError: a process has fewer.
    """
    fewest = min(sum(d.process_index == p for d in jax.devices()) for p in range(jax.process_count()))
    if num_devices > fewest:
        raise InputError(
            f"--mesh: {num_devices} devices are asked for, a process here has {fewest}; give at most so many"
        )
    by_process = [
        [d for d in jax.devices() if d.process_index == p][: num_devices or None] for p in range(jax.process_count())
    ]
    everywhere = [device for devices in by_process for device in devices]
    return make_mesh(everywhere), make_mesh(by_process[jax.process_index()])


def _is_gone(coordinator: str) -> bool:
    """Whether nobody answers where the first process of a run should be."""
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdecimal()):
        return False
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return True
    return False


def _die_with_parent() -> None:
    """The kernel ends this process when the one that started it ends (Linux; elsewhere nothing happens)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
