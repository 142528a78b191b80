import numpy as np
import pytest

from vitprobe_jax.metrics.retrieval import OUTCOMES, retrieval_bound, retrieval_shares

SUPERS = np.array([0, 1, 1, 2, 0])
"""Two concepts of one super category, one of another, and one that is background."""


def outcome(asked, found, concepts):
    """One patch at a time, in words."""
    if found == -1:
        return "left_frame"
    if found == asked:
        return "same_patch"
    own, there = concepts[asked], concepts[found]
    if SUPERS[there] == 0:
        return "background"
    if there == own:
        return "same_fine"
    return "same_super" if SUPERS[there] == SUPERS[own] else "other_object"


def test_every_patch_has_the_outcome_that_its_words_say():
    rng = np.random.default_rng(0)
    concepts = rng.integers(0, 5, 60)
    asked = rng.choice(np.flatnonzero(SUPERS[concepts] > 0), 400)
    found = np.where(rng.random(400) < 0.2, asked, rng.integers(-1, 60, 400))
    shares = retrieval_shares(asked, found, concepts, SUPERS)
    named = [outcome(a, f, concepts) for a, f in zip(asked, found, strict=True)]
    assert set(named) == set(OUTCOMES) == set(shares)
    assert shares == pytest.approx({name: named.count(name) / 400 for name in OUTCOMES})
    assert sum(shares.values()) == pytest.approx(1)


def test_another_patch_of_an_own_concept_is_not_the_same_patch():
    concepts = np.array([1, 1, 3])
    shares = retrieval_shares(np.array([0, 1]), np.array([0, 0]), concepts, SUPERS)
    assert (shares["same_patch"], shares["same_fine"]) == (0.5, 0.5)


def test_patches_that_one_asks_for_are_bounded_together():
    assert retrieval_bound(np.array([4, 4, 7, -1, -1])) == pytest.approx(2 / 5)
    assert retrieval_bound(np.arange(3)) == 1
    assert retrieval_bound(np.array([-1])) == 0


@pytest.mark.parametrize("asked", [[], [1], [0, 3]], ids=["none", "no concept", "background"])
def test_only_objects_are_asked_for(asked):
    with pytest.raises(ValueError, match="show an object"):
        retrieval_shares(np.array(asked, int), np.zeros(len(asked), int), np.array([1, 0, 2, 4]), SUPERS)
