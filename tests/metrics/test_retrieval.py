import numpy as np
import pytest

from vitprobe_jax.metrics.retrieval import OUTCOMES, retrieval_bound, retrieval_shares

SUPERS = np.array([0, 1, 1, 2, 0])
"""Two concepts of one super category, one of another, and one that is background."""


def outcome(concept, counterpart, found, concepts):
    """One query at a time, in words."""
    if found == counterpart:
        return "same_patch"
    there = concepts[found]
    if SUPERS[there] == 0:
        return "background"
    if there == concept:
        return "same_fine"
    return "same_super" if SUPERS[there] == SUPERS[concept] else "other_object"


def test_every_query_has_the_outcome_that_its_words_say():
    rng = np.random.default_rng(0)
    concepts = rng.integers(0, 5, 60)
    concept = rng.integers(1, 4, 400)
    # Most have a counterpart, which may show something else, as patches on the edge of an object do.
    counterpart = np.where(rng.random(400) < 0.2, -1, rng.integers(0, 60, 400))
    found = np.where((rng.random(400) < 0.2) & (counterpart >= 0), counterpart, rng.integers(0, 60, 400))
    shares = retrieval_shares(concept, counterpart, found, concepts, SUPERS)
    named = [outcome(*of, concepts) for of in zip(concept, counterpart, found, strict=True)]
    assert set(named) == set(OUTCOMES) == set(shares)
    assert shares == pytest.approx({name: named.count(name) / 400 for name in OUTCOMES})
    assert sum(shares.values()) == pytest.approx(1)


def test_another_patch_of_the_concept_is_not_the_same_patch():
    concepts = np.array([1, 1, 3])
    shares = retrieval_shares(np.array([1, 1]), np.array([0, 1]), np.array([0, 0]), concepts, SUPERS)
    assert (shares["same_patch"], shares["same_fine"]) == (0.5, 0.5)


def test_without_a_counterpart_a_query_still_counts_among_concepts_and_background():
    concepts = np.array([1, 2, 3, 0])
    shares = retrieval_shares(np.full(4, 1), np.full(4, -1), np.arange(4), concepts, SUPERS)
    assert shares == {"same_patch": 0, "same_fine": 0.25, "same_super": 0.25, "other_object": 0.25, "background": 0.25}


def test_the_bound_is_the_share_with_a_counterpart():
    # Two patches of an enlarged image may share their counterpart: both can find it.
    assert retrieval_bound(np.array([4, 4, 7, -1, -1])) == pytest.approx(3 / 5)
    assert retrieval_bound(np.array([-1])) == 0
    with pytest.raises(ValueError, match="at least one query"):
        retrieval_bound(np.zeros(0, int))


@pytest.mark.parametrize(
    ("concept", "found"), [([], []), ([0], [1]), ([1, 4], [1, 1]), ([1], [-1])], ids=["none", "nothing", "sky", "lost"]
)
def test_only_objects_that_found_a_patch_are_counted(concept, found):
    concept, found = np.array(concept, int), np.array(found, int)
    with pytest.raises(ValueError, match="has to show an object"):
        retrieval_shares(concept, np.zeros(len(concept), int), found, np.array([1, 0, 2, 4]), SUPERS)
