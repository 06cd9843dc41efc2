"""Claims that a quantity keeps within a bound, decided together so that errors do not add up.

Holm's correction (Holm 1979) is applied to each direction by itself. The probability that any false claim
of a family is called supported is at most `ALPHA`, and so is that of calling any true claim refuted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from harness.statistics.holm import holm
from harness.statistics.jackknife import Estimate
from harness.task import Better

ALPHA = 0.025  # per direction, so that a verdict without correction agrees with the 95% interval

Decision = Literal["supported", "refuted", "inconclusive"]


@dataclass(frozen=True)
class BoundTest:
    """The one-sided p-values of a claim that a quantity is on the better side of a bound."""

    p_if_false: float
    """Probability of such a good estimate if the quantity is at the bound; small values support the claim."""
    p_if_true: float
    """Probability of such a bad estimate if the quantity is at the bound; small values refute it."""


def bound_test(estimate: Estimate, bound: float, better: Better) -> BoundTest:
    """Test that a quantity is above a bound if higher is better, else below it."""
    above, below = estimate.p_above(bound), estimate.p_below(bound)
    return BoundTest(above, below) if better == "higher" else BoundTest(below, above)


def decide(family: Sequence[BoundTest]) -> list[Decision]:
    """Decide the claims of a family; the error rates hold for all of them together."""
    supported = holm([test.p_if_false for test in family])
    refuted = holm([test.p_if_true for test in family])
    return [
        "supported" if support <= ALPHA else "refuted" if refute <= ALPHA else "inconclusive"
        for support, refute in zip(supported, refuted, strict=True)
    ]
