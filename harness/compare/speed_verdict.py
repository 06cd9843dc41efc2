"""Verdict on a difference in speed, whether the versions were timed in turns or in runs made apart."""

from dataclasses import dataclass

from harness.compare.outcome import Verdict
from harness.task import Figure

# Two timings are never equal, so the question is whether they differ by a relevant amount (Kalibera & Jones
# 2013, "Rigorous benchmarking in reasonable time", §9). docs/compare.md explains these limits.
SLOWER = 0.025  # an interval above this is a regression
TOLERATED = 0.05  # an interval below this passes
POWER = 1.65  # half widths of a 95% interval: (1.96 + 1.28) / 1.96, for a power of 90%
DRIFT = "The runs were made at different times: slow drift of the machine is not in the interval."


@dataclass(frozen=True)
class Judgement:
    """The verdict on one scenario, with what it is based on."""

    verdict: Verdict
    reason: str
    slowdown: Figure | None = None
    """Additional time per sample as a fraction of the baseline's, with its 95% interval."""
    detectable: float | None = None
    """Smallest slowdown that would have been called a regression with a probability of about 90%."""


def judge(slowdown: Figure) -> Judgement:
    """Judge a slowdown. It passes only if a slowdown of `TOLERATED` would have been seen.

    A version that is certainly faster passes too, however wide its interval.
    """
    if slowdown.low is None or slowdown.high is None:
        reason = f"{slowdown.n} processes are too few for a 95% interval"
        return Judgement("inconclusive", reason, slowdown)
    detectable = SLOWER + POWER * (slowdown.high - slowdown.low) / 2
    verdict: Verdict = "inconclusive"
    if slowdown.low > SLOWER:
        verdict, reason = "regression", f"slower by more than {SLOWER:.1%}"
    elif slowdown.high >= TOLERATED:
        reason = f"the slowdown may be below {SLOWER:.1%} or above {TOLERATED:.0%}"
    elif slowdown.high >= 0 and detectable > TOLERATED:
        reason = f"a slowdown of {TOLERATED:.0%} could have been missed"
    else:
        verdict, reason = "pass", f"not slower by {TOLERATED:.0%}"
    return Judgement(
        verdict, f"{reason}; detectable: {detectable:.1%}", slowdown, detectable
    )
