"""What patches of transformed images find among the patches of the original ones (study 2, Section 5.2)."""

import numpy as np
from jaxtyping import Int

OUTCOMES = ("same_patch", "same_fine", "same_super", "other_object", "background")
"""What the nearest patch may be, best first: the query's own patch in the original image; another one, of the same concept,
of an object of the same super category, of any other object; or one that shows no object."""


def retrieval_shares(
    concept: Int[np.ndarray, " Q"],
    counterpart: Int[np.ndarray, " Q"],
    found: Int[np.ndarray, " Q"],
    concepts: Int[np.ndarray, " N"],
    supers: Int[np.ndarray, " K1"],
) -> dict[str, float]:
    """The share of the queries that has each of `OUTCOMES`; together they are 1.

    Args:
        concept: what each query shows, from 1 on, an object.
        counterpart: each query's own patch, of 0 to N - 1, in the original images; -1 where it has none, and `same_patch` is
            out of reach.
        found: the nearest patch for each query, of 0 to N - 1.
        concepts: what each of the N patches shows, from 1 on, 0 for none.
        supers: super category of each concept, from 1 on; 0 for what is not an object, concept 0 included.

    Raises:
        ValueError: there is no query, one that does not show an object, or one that found nothing.
    """
    if not len(concept) or not (supers[concept] > 0).all() or (found < 0).any():
        raise ValueError("retrieval needs at least one query; each has to show an object and to have found a patch")
    there = concepts[found]
    tests = {
        "same_patch": found == counterpart,
        "background": supers[there] == 0,
        "same_fine": there == concept,
        "same_super": supers[there] == supers[concept],
    }
    outcome = np.select(list(tests.values()), [OUTCOMES.index(name) for name in tests], OUTCOMES.index("other_object"))
    counts = np.bincount(outcome, minlength=len(OUTCOMES))
    return dict(zip(OUTCOMES, (counts / len(concept)).tolist(), strict=True))


def retrieval_bound(counterpart: Int[np.ndarray, " Q"]) -> float:
    """The largest share of `same_patch` that any features can reach: that of the queries with a counterpart.

    Args:
        counterpart: as in `retrieval_shares`.

    Raises:
        ValueError: there is no query.
    """
    if not len(counterpart):
        raise ValueError("the bound needs at least one query")
    return float(np.mean(counterpart >= 0))
