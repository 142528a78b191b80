"""Votes of nearest neighbours: the class that most of them are of, each counted alike or by its similarity."""

import numpy as np
from jaxtyping import Float, Int

TEMPERATURE = 0.07
"""Of weighted votes in Scale-MAE's code (bair-climate-initiative/scale-mae, mae/eval/knn.py, `sigma`)."""


def classify(neighbour_labels: Int[np.ndarray, "Q k"], num_classes: int) -> Int[np.ndarray, " Q"]:
    """The class that most neighbours are of; of equally many votes, that whose nearest neighbour is nearest.

    Args:
        neighbour_labels: of the k neighbours of each query, nearest first.
        num_classes: labels are from 0 to this number less one.
    """
    return _most_votes(neighbour_labels, num_classes, None)


def classify_weighted(
    neighbour_labels: Int[np.ndarray, "Q k"],
    similarities: Float[np.ndarray, "Q k"],
    num_classes: int,
    *,
    temperature: float = TEMPERATURE,
) -> Int[np.ndarray, " Q"]:
    """The class with the largest sum of exp(similarity / temperature) over its neighbours, as Scale-MAE evaluates k-NN.

    Of equal sums, that whose nearest neighbour is nearest. Sums are in float64, relative to the nearest neighbour's.

    Args:
        neighbour_labels: of the k neighbours of each query, nearest first.
        similarities: of each neighbour, descending: cosines, from -1 to 1, in Scale-MAE's code.
        num_classes: labels are from 0 to this number less one.
        temperature: above 0; the smaller, the more the nearest neighbours count.
    """
    from_nearest = similarities.astype(np.float64) - similarities[:, :1].astype(np.float64)
    return _most_votes(neighbour_labels, num_classes, np.exp(from_nearest / temperature))


def _most_votes(
    neighbour_labels: Int[np.ndarray, "Q k"], num_classes: int, weights: Float[np.ndarray, "Q k"] | None
) -> Int[np.ndarray, " Q"]:
    num_queries = len(neighbour_labels)
    cells = np.arange(num_queries)[:, None] * num_classes + neighbour_labels
    flat = None if weights is None else weights.ravel()
    votes = np.bincount(cells.ravel(), flat, minlength=num_queries * num_classes)[cells]
    # The votes of each neighbour's own class; argmax takes the first of equals, the nearest.
    return np.take_along_axis(neighbour_labels, np.argmax(votes, axis=1)[:, None], axis=1)[:, 0]
