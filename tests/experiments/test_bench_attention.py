"""The benchmark of attention's statistics at a tiny size; no timing is asserted."""

import pytest

from experiments.benchmarks import attention
from experiments.benchmarks.comparison import Comparison
from experiments.benchmarks.timing import Measurement
from tests.experiments.test_bench import compare


def test_the_last_number_is_the_least_favourable_share():
    def case(*seconds):
        return Comparison("case", [Measurement("", each, 0.0, 1.0, 1.0, None) for each in seconds], {})

    words, share = attention.headline([case(2.0, 1.9, 6.0), case(1.0, 0.9, 4.0)])
    assert share == 0.9
    assert words.startswith("timm / vitprobe_jax 3.00")


@pytest.mark.slow
def test_the_rival_has_the_same_statistics():
    (comparison,) = compare("attention", "--archs=vits16", "--batch_sizes=2", "--image_size=32")
    *none, difference = comparison.quality["difference"]
    assert none == [None, None]
    # Zero would be the library compared with itself.
    assert 0 < difference < attention.TOLERANCE
