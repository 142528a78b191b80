"""Which concepts a sweep probes of labels that have several categories, and what a reader must know of that."""

import hashlib
from collections import Counter

import numpy as np
from jaxtyping import Bool

from experiments.config import SweepConfig
from vitprobe_jax.data.dataset import Dataset


def probed_concepts(config: SweepConfig, dataset: Dataset) -> Bool[np.ndarray, " K"]:
    """The concepts of the data set that get templates under `--label_categories`.

    Raises:
        InputError: the data set does not know the primary category of a label.
    """
    if config.label_categories == "all":
        return np.ones(len(dataset.concepts), bool)
    return dataset.primary_concepts()


def label_note(config: SweepConfig, dataset: Dataset) -> str | None:
    """How labels are counted, with both counts; None where each has one category."""
    categories = Counter(concept.number for concept in dataset.concepts)
    several = sum(count > 1 for count in categories.values())
    if not (dataset.coverage and several):
        return None
    counted = (
        f"--label_categories={config.label_categories}: {len(categories):,} labels, {several:,} of them in more than one "
        "category"
    )
    if config.label_categories == "all":
        return f"{counted}; each category is a concept of its own, {len(dataset.concepts):,} concepts in all"
    return f"{counted}; these are counted once, in the category that they cover most of"


def label_digests(config: SweepConfig, dataset: Dataset) -> dict[str, str]:
    """A digest of which categories are primary, by what a user would call it; {} where nothing depends on that."""
    if config.label_categories == "all" or not dataset.coverage:
        return {}
    return {"the primary category of labels": hashlib.sha256(dataset.primary_concepts().tobytes()).hexdigest()}
