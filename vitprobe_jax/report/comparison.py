"""One cell beside another: a paired test over the concepts that both have, and what may be claimed from it."""

import dataclasses

from vitprobe_jax.metrics.statistics import PairedTest
from vitprobe_jax.report.cells import CellName

LEVEL = 0.05
"""Of claims, after correction."""

FEWEST_CONCEPTS = 6
"""With fewer, the signed-rank test cannot reach p < LEVEL: its smallest p-value is 2 / 2^n."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Whether the first cell beats the second.

    Attributes:
        metric: one of `METRICS`.
        first: the cell with the higher mean; against a control, the trained one.
        second: the other.
        test: first less second, over the concepts that both have.
        p_adjusted: after Holm's correction over the family.
        num_comparisons: of the family.
        missed: how many regressions of first and of second, among the concepts that both have, did not converge: their
            scores are not those of the templates that were asked for, so no difference is claimed.
    """

    metric: str
    first: CellName
    second: CellName
    test: PairedTest
    p_adjusted: float
    num_comparisons: int
    missed: tuple[int, int] = (0, 0)

    @property
    def claimable(self) -> bool:
        """Whether every regression behind both means converged."""
        return not any(self.missed)

    @property
    def verdict(self) -> str:
        """What may be claimed, for a table."""
        if not self.claimable:
            return not_claimed(self.missed)
        return "first is ahead" if self.holds else "second is ahead" if self.reversed else "not distinguishable"

    @property
    def holds(self) -> bool:
        """Whether first beats second: all regressions converged, and the test and the interval both say so.

        Both, since the test is of ranks: a few concepts with large differences may turn the mean against it.
        """
        return self.claimable and self.p_adjusted < LEVEL and self.test.difference.low > 0 and self.test.effect_size > 0

    @property
    def reversed(self) -> bool:
        """Whether second beats first, by the same measure."""
        return (
            self.claimable and self.p_adjusted < LEVEL and self.test.difference.high < 0 and self.test.effect_size < 0
        )

    @property
    def task(self) -> str:
        """Of both cells."""
        return self.first.task

    @property
    def dataset(self) -> str:
        """Of both cells."""
        return self.first.dataset

    @property
    def backbone(self) -> str:
        """Of the first cell."""
        return self.first.backbone

    @property
    def rule(self) -> str:
        """Of the first cell."""
        return self.first.rule

    @property
    def shots(self) -> int | None:
        """Of the first cell."""
        return self.first.shots


def not_claimed(missed: tuple[int, int]) -> str:
    """Why no difference is claimed between cells with regressions that did not converge, for a table."""
    count = sum(missed)
    return f"not claimed: {count:,} fit{'' if count == 1 else 's'} did not converge"
