"""Rows of many concepts gathered side by side: the unit in which logistic regressions are solved.

A bundle holds `TILES` tiles of `TILE_ROWS` rows, each tile of one concept, and `SLOTS` concepts at most. Its rows are
fetched and standardised once a round; the passes of the solver then read them in order. All bundles have one shape, so that
one program serves concepts of all sizes, and so that a concept is computed alike in any of them.

A concept whose members do not fit a bundle is represented there by a sample of them, spread evenly over its positives and
negatives: enough to choose the next round's negatives. After the last round it is solved on all its members, whose rows
are fetched anew for every pass.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vitprobe_jax.features.streaming import StreamedRows, take_rows
from vitprobe_jax.probes.layout import Layout
from vitprobe_jax.probes.lbfgs import Problems
from vitprobe_jax.probes.standardize import Coordinates, spread_out

TILE_ROWS = 128
"""Rows of a tile. The last tile of a concept is padded."""
TILES = 192
"""Tiles of a bundle: 24,576 rows, 38 MB of 384 features."""
SLOTS = 32
"""Concepts of a bundle at most."""
SAMPLE = TILES * TILE_ROWS
"""Members up to which a concept is solved on all of them in every round."""


class Bundles(NamedTuple):
    """The bundles of a device, and where each concept's regression is among them.

    Attributes:
        first_concept: first concept of every bundle; its concepts are consecutive.
        first_tile: tile of each concept in its bundle, [bundles, SLOTS]; `TILES` where a slot is empty.
        place: bundle * SLOTS + slot of every concept of the layout.
        large: concepts with more than `SAMPLE` members, padded by C.
    """

    first_concept: Int[np.ndarray, " bundles"]
    first_tile: Int[np.ndarray, "bundles SLOTS"]
    place: Int[np.ndarray, " C"]
    large: Int[np.ndarray, " L"]


def plan_bundles(layouts: Sequence[Layout]) -> list[Bundles]:
    """The bundles of every layout, all of one shape."""
    planned = [_pack(layout) for layout in layouts]
    num_bundles = max(len(first) for first, _, _ in planned)
    large = [np.flatnonzero(layout.n_pos + layout.n_neg > SAMPLE) for layout in layouts]
    num_large = max(map(len, large))
    bundles = []
    for layout, (first, tiles, place), large_ones in zip(layouts, planned, large, strict=True):
        missing = num_bundles - len(first)
        bundles.append(
            Bundles(
                np.pad(np.array(first, np.int32), (0, missing)),
                np.pad(np.array(tiles, np.int32), ((0, missing), (0, 0)), constant_values=TILES),
                place.astype(np.int32),
                np.pad(large_ones, (0, num_large - len(large_ones)), constant_values=len(layout.n_pos)).astype(
                    np.int32
                ),
            )
        )
    return bundles


def _pack(layout: Layout) -> tuple[list[int], list[np.ndarray], Int[np.ndarray, " C"]]:
    """Concepts in order, as many to a bundle as it has room for."""
    sizes = -(-np.minimum(layout.n_pos + layout.n_neg, SAMPLE) // TILE_ROWS)
    first, tiles, place = [], [], np.zeros(len(sizes), int)
    used, slots = TILES, SLOTS
    for concept, size in enumerate(sizes):
        if used + size > TILES or slots == SLOTS:
            first.append(concept)
            tiles.append(np.full(SLOTS, TILES))
            used, slots = 0, 0
        tiles[-1][slots] = used
        place[concept] = (len(first) - 1) * SLOTS + slots
        used, slots = used + size, slots + 1
    return first, tiles, place


def bundle_problems(
    rows: Float[Array, "I R D"] | StreamedRows,
    coordinates: Coordinates,
    members: Int[Array, "batches batch"],
    layout: Layout,
    first_concept: Int[Array, ""],
    first_tile: Int[Array, " SLOTS"],
) -> Problems:
    """The regressions of one bundle, its rows fetched."""
    tile = jnp.arange(TILES)
    slot = jnp.maximum(jnp.searchsorted(first_tile, tile, side="right").astype(jnp.int32) - 1, 0)
    concept = jnp.minimum(first_concept + slot, len(layout.n_pos) - 1)
    n = (layout.n_pos + layout.n_neg)[concept][:, None]
    taken = jnp.minimum(n, SAMPLE)
    nth = (tile - first_tile[slot])[:, None] * TILE_ROWS + jnp.arange(TILE_ROWS)[None]
    real = nth < taken
    nth = jnp.where(real, nth, 0)
    number = jnp.where(n > SAMPLE, spread_out(nth, jnp.maximum(taken, 1), n), nth)
    code = _member(members, layout, concept[:, None], number)
    x = coordinates(_take_tiles(rows, code))

    def scores(w):
        return jnp.einsum("tnd,td->tn", x, w[slot], precision=jax.lax.Precision.HIGHEST)

    def pull(r):
        sums = jnp.einsum("tn,tnd->td", r, x, precision=jax.lax.Precision.HIGHEST)
        return jax.ops.segment_sum(sums, slot, SLOTS, indices_are_sorted=True)

    return Problems(slot, (code >= 0).astype(jnp.float32), real.astype(jnp.float32), scores, pull)


def large_problem(
    rows: Float[Array, "I R D"] | StreamedRows,
    coordinates: Coordinates,
    members: Int[Array, "batches batch"],
    layout: Layout,
    concept: Int[Array, ""],
    num_chunks: int,
) -> Problems:
    """The regression of one concept on all its members, which are fetched chunk after chunk in every pass.

    Args:
        rows: rows of the table, raw.
        coordinates: coordinates of the regression.
        members: coded rows of the round.
        layout: the device's concepts.
        concept: which; C for none, a regression without rows.
        num_chunks: chunks of `SAMPLE` members of the largest concept.
    """
    n = (layout.n_pos + layout.n_neg).at[concept].get(mode="fill", fill_value=0)
    concept = jnp.minimum(concept, len(layout.n_pos) - 1)
    used_chunks = -(-n // SAMPLE)

    def chunk(number):
        nth = number * SAMPLE + jnp.arange(SAMPLE).reshape(TILES, TILE_ROWS)
        code = _member(members, layout, concept, jnp.minimum(nth, jnp.maximum(n - 1, 0)))
        return code, nth < n

    def fetch(number):
        code, real = chunk(number)
        return coordinates(_take_tiles(rows, code)), real

    def scores(w):
        def write(number, u):
            x, _ = fetch(number)
            of_chunk = jnp.einsum("tnd,d->tn", x, w[0], precision=jax.lax.Precision.HIGHEST)
            return jax.lax.dynamic_update_slice_in_dim(u, of_chunk, number * TILES, 0)

        return jax.lax.fori_loop(0, used_chunks, write, jnp.zeros((num_chunks * TILES, TILE_ROWS)))

    def pull(r):
        def add(number, sums):
            x, _ = fetch(number)
            of_chunk = jax.lax.dynamic_slice_in_dim(r, number * TILES, TILES)
            return sums + jnp.sum(jnp.einsum("tn,tnd->td", of_chunk, x, precision=jax.lax.Precision.HIGHEST), axis=0)

        return jax.lax.fori_loop(0, used_chunks, add, jnp.zeros(rows.shape[-1]))[None]

    codes, real = jax.vmap(chunk)(jnp.arange(num_chunks))
    flat = lambda leaf: leaf.reshape(-1, TILE_ROWS).astype(jnp.float32)  # noqa: E731
    slot = jnp.zeros(num_chunks * TILES, jnp.int32)
    return Problems(slot, flat(codes >= 0), flat(real), scores, pull)


def _member(members, layout: Layout, concept, number):
    """Row of a concept's member of this number; the complement for a negative."""
    return members.reshape(-1)[layout.first_batch[concept] * members.shape[1] + number]


def _take_tiles(rows, code: Int[Array, "tiles n"]) -> Float[Array, "tiles n D"]:
    """The rows of coded members; streamed rows are fetched no more at a time than a window holds."""
    index = jnp.where(code < 0, ~code, code)
    if not isinstance(rows, StreamedRows):
        return take_rows(rows, index)
    together = max(1, min(TILES, rows.rows_together // TILE_ROWS))
    pieces = -(-TILES // together)
    padded = jnp.pad(index, ((0, pieces * together - TILES), (0, 0))).reshape(pieces, together, TILE_ROWS)
    taken = jax.lax.map(lambda piece: take_rows(rows, piece), padded)
    return taken.reshape(-1, TILE_ROWS, rows.shape[-1])[:TILES]
