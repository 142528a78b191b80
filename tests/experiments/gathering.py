"""One process of a run that gathers arrays of several types, for `test_processes`: prints what each process has then."""

import argparse
import hashlib

import jax
import numpy as np

from experiments import processes

LENGTHS = (3, 0, 5, 1)
"""Of the arrays of the first processes."""


def arrays(process: int) -> list[np.ndarray]:
    """What a process has: random bits of every type, of its own length, NaNs of all kinds and the largest integers too."""
    rng, length = np.random.default_rng(process), LENGTHS[process]
    kinds = ((np.float32, (2,)), (np.float64, (2, 3)), (np.int64, ()), (np.uint16, (7,)), (np.int32, (0,)), (bool, ()))
    made = [
        np.frombuffer(rng.bytes(length * int(np.prod(shape)) * np.dtype(kind).itemsize), np.uint8)
        .reshape(length, *shape, np.dtype(kind).itemsize)
        .copy()
        for kind, shape in kinds
    ]
    made[-1] %= 2
    return [leaf.view(kind).reshape(length, *shape) for leaf, (kind, shape) in zip(made, kinds, strict=True)]


def digest(leaves: list[np.ndarray]) -> str:
    """Of types, shapes and bytes."""
    text = b"".join(f"{leaf.dtype} {leaf.shape} ".encode() + leaf.tobytes() for leaf in leaves)
    return hashlib.sha256(text).hexdigest()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--coordinator")
    parser.add_argument("--num_processes", type=int)
    parser.add_argument("--process_id", type=int)
    processes.connect(parser.parse_args())
    processes.PIECE_BYTES = 16
    own = arrays(jax.process_index())
    turns = [number for number in range(7) if processes.has_turn(number)]
    print(digest([processes.gathered(leaf) for leaf in own]), digest([processes.gathered(np.array(turns))]))
