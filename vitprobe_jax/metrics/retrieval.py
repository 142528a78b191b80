"""What patches of moved or spoilt images lead to, when each asks for the nearest patch of the original images."""

import numpy as np
from jaxtyping import Int

OUTCOMES = ("same_patch", "same_fine", "same_super", "other_object", "background", "left_frame")
"""What may become of a patch that is asked for, best first: it is found itself; or another patch, of the same concept, of an
object of the same super category, of any other object, of none; or it has left the frame and nothing can ask for it."""


def retrieval_shares(
    asked: Int[np.ndarray, " Q"],
    found: Int[np.ndarray, " Q"],
    concepts: Int[np.ndarray, " N"],
    supers: Int[np.ndarray, " K1"],
) -> dict[str, float]:
    """The share of the asked patches that each of `OUTCOMES` befalls; together they are 1.

    Args:
        asked: the patches that are asked for, of 0 to N - 1, each of an object.
        found: the nearest patch for each, -1 where the asked one has left the frame.
        concepts: of all N patches, from 1 on, 0 for none.
        supers: super category of each concept, from 1 on; 0 for what is no object, concept 0 included.

    Raises:
        ValueError: nothing is asked for, or something that is no object.
    """
    own = concepts[asked]
    if not len(asked) or not (supers[own] > 0).all():
        raise ValueError("shares are of patches that show an object, of one at least")
    there = concepts[np.maximum(found, 0)]
    tests = {
        "left_frame": found < 0,
        "same_patch": found == asked,
        "background": supers[there] == 0,
        "same_fine": there == own,
        "same_super": supers[there] == supers[own],
    }
    outcome = np.select(list(tests.values()), [OUTCOMES.index(name) for name in tests], OUTCOMES.index("other_object"))
    counts = np.bincount(outcome, minlength=len(OUTCOMES))
    return dict(zip(OUTCOMES, (counts / len(asked)).tolist(), strict=True))


def retrieval_bound(asked_by: Int[np.ndarray, " Q"]) -> float:
    """The share of asked patches that the best of features could lead back to.

    A patch that left the frame is lost. Where an image shrinks or turns, the centres of several may fall into one patch
    of it, which leads to one of them at most.

    Args:
        asked_by: which patch of the transformed images asks for each of them, -1 for none.

    Raises:
        ValueError: nothing is asked for.
    """
    if not len(asked_by):
        raise ValueError("the bound is of one patch at least")
    return len(np.unique(asked_by[asked_by >= 0])) / len(asked_by)
