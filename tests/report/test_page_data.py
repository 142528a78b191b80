"""What the page's script reads: exact decimals, and nothing lost on the way."""

import base64
import json
import zlib

import numpy as np

from vitprobe_jax.metrics.results import make_table
from vitprobe_jax.report.page_data import ABSENT, SweepScores, pack, thousandths
from vitprobe_jax.report.tables import concept_scores, skipped_concepts


def test_thousandths_are_those_of_python():
    """Ties and their neighbours too, where rounding the product with 1000 would differ."""
    rng = np.random.default_rng(0)
    ties = (np.arange(1000) + 0.5) / 1000
    scores = np.concatenate([rng.uniform(size=10_000), ties, np.nextafter(ties, 0), np.nextafter(ties, 1), [0.0, 1.0]])
    assert thousandths(scores).tolist() == [round(1000 * float(f"{score:.3f}")) for score in scores]
    assert any(np.rint(1000 * ties) != thousandths(ties))  # the ties are worth the care
    assert thousandths(np.array([[np.nan, 0.25]])).tolist() == [[ABSENT, 250]]


def unpack(text):
    return zlib.decompress(base64.b64decode(text))


def test_two_sweeps_share_concepts_and_keep_their_own_cells(results_rows):
    skip = {"skip": lambda row: "rare" if row["name"] == "wheel" else None}
    sweeps = []
    for label, options in (("a", {"tokens": ("q",)}), ("b", {"tokens": ("k", "q"), **skip})):
        table = make_table(results_rows(rules=("hyperplane",), **options))
        sweeps.append(SweepScores(label, concept_scores(table), skipped_concepts(table), None))
    packed = pack(sweeps)
    record = json.loads(unpack(packed.record))
    num_concepts, num_cells = len(record["concepts"]["name"]), len(record["cells"]["token"]["codes"])
    assert (num_concepts, num_cells) == (4, 6)  # of 4 concepts in both; 2 backbones in 1 and in 2 tokens
    low, high = np.frombuffer(unpack(packed.scores), np.uint8).reshape(2, -1).astype(int)
    scores = (low + 256 * high).reshape(4, num_concepts, num_cells)
    whole = np.concatenate([thousandths(sweep.scores.scores) for sweep in sweeps], axis=2)
    np.testing.assert_array_equal(scores, whole)  # both sweeps have their concepts in the order of the page
    wheel = record["concepts"]["name"].index("wheel")
    assert (scores[:, wheel, 2:] == ABSENT).all()
    assert (scores[:, wheel, :2] != ABSENT).all()
    assert [(line["concept"], line["sweep"], line["reason"]) for line in record["skipped"]] == [(wheel, "b", "rare")]
