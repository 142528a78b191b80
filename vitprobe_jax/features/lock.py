"""One writer at a time in a folder of the cache."""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator

import tensorstore as ts
from absl import logging
from etils import epath

from vitprobe_jax.atomic import is_remote, kvstore
from vitprobe_jax.errors import InputError

_NAME = "writer.lock"


@contextlib.contextmanager
def only_writer(folder: epath.Path) -> Iterator[None]:
    """Keeps other processes from writing to the folder.

    On a disk, a second process waits, and says for whom; the lock ends with the process that holds it, however that ends.
    A bucket has no such locks: there an object is made that must not exist yet, and a second process is refused.

    Args:
        folder: exists.

    Raises:
        InputError: in a bucket, another process writes there, or died without taking its mark away.
    """
    owner = json.dumps({"host": socket.gethostname(), "process": os.getpid()})
    with _marked(folder / _NAME, owner) if is_remote(folder) else _locked(folder / _NAME, owner):
        yield


@contextlib.contextmanager
def _locked(path: epath.Path, owner: str) -> Iterator[None]:
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            logging.warning("--cache_dir: waiting for another process that writes to %s: %s", path.parent, file.read())
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(owner)
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


@contextlib.contextmanager
def _marked(path: epath.Path, owner: str) -> Iterator[None]:
    store = ts.KvStore.open(kvstore(path.parent)).result()
    found = store.read(path.name).result()
    # The write takes place only if the object is still as it was read: if it is not, no generation comes back.
    if found.state == "value" or not store.write(path.name, owner, if_equal=found.stamp.generation).result().generation:
        holder = store.read(path.name).result().value.decode(errors="replace")
        raise InputError(
            f"--cache_dir: another process writes to {path.parent} ({holder}); wait for it, or delete {path} if it is dead"
        )
    try:
        yield
    finally:
        store.write(path.name, None).result()
