"""Random permutations by arithmetic: any place of a shuffle can be asked for on its own, nothing is sorted or stored.

A Feistel network over Z_a x Z_b with a * b just above n is a bijection whatever its round functions are; places that land
on n or beyond go through it again until they land below (cycle walking), which leaves a bijection of 0..n-1. Concepts of
all sizes share one program; on a CPU a sort of as many packed integers takes twice as long, an argsort ten times.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key, UInt32

HALF_ROUNDS = 8
"""Of the network; each adds a hash of one half to the other."""


def permutation_words(key: Key[Array, ""]) -> UInt32[Array, " words"]:
    """What defines one permutation."""
    return jax.random.bits(key, (HALF_ROUNDS,))


def permute(
    words: UInt32[Array, "*lead words"], place: Int[Array, "*lead m"], n: Int[Array, "*lead"]
) -> Int[Array, "*lead m"]:
    """Where a random permutation of 0..n-1 takes each place.

    Args:
        words: one permutation for each leading index (`permutation_words`).
        place: numbers in 0..n-1; others come back as 0.
        n: how many are permuted, below 2^31.
    """
    size = n[..., None].astype(jnp.uint32)
    # Any a will do; with the root, both halves are hashed over ranges of like size, and a * b exceeds n by little.
    a = jnp.sqrt(size.astype(jnp.float32)).astype(jnp.uint32) + 1
    b = (size + a - 1) // a

    def network(x):
        left, right = x // b, x % b
        for i in range(0, HALF_ROUNDS, 2):
            left = _add(left, _hash(right ^ words[..., i, None], a), a)
            right = _add(right, _hash(left ^ words[..., i + 1, None], b), b)
        return left * b + right

    inside = (place >= 0) & (place < n[..., None])
    first = jnp.where(inside, network(place.astype(jnp.uint32)), 0)
    outside = lambda x: inside & (x >= size)  # noqa: E731
    found = jax.lax.while_loop(lambda x: jnp.any(outside(x)), lambda x: jnp.where(outside(x), network(x), x), first)
    return found.astype(jnp.int32)


def _add(x, y, modulus):
    total = x + y
    return jnp.where(total >= modulus, total - modulus, total)


def _hash(x, modulus):
    """A number below `modulus` (at most 2^16), by two rounds of multiply and shift."""
    x = (x ^ x >> 15) * jnp.uint32(0x85EBCA77)
    x = (x ^ x >> 13) * jnp.uint32(0xC2B2AE3D)
    return (x >> 16) * modulus >> 16
