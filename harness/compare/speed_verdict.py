"""Verdict on a difference in speed, whether the versions were timed in turns or in runs made apart."""

from dataclasses import dataclass

from harness.compare.outcome import Verdict
from harness.decisions.policy import MAX_SLOWDOWN
from harness.task import Figure

# Two timings are never equal, so the question is whether they differ by a relevant amount (Kalibera & Jones
# 2013, "Rigorous benchmarking in reasonable time", §9). docs/compare.md explains these limits.
PROVEN = 0.5  # part of the limit above which the whole interval of a regression lies
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


def judge(
    slowdown: Figure,
    limit: float = MAX_SLOWDOWN,
    proven: float | None = None,
    half_width: float | None = None,
    label: str = "detectable",
) -> Judgement:
    """Judge a slowdown. It passes only if a slowdown of the limit would have been seen.

    A version that is certainly faster passes too, however wide its interval. A slowdown is a regression if
    it is proven to be above half of the limit.

    Args:
        limit: Largest slowdown that is tolerated, as a fraction.
        proven: Lower bound that decides on a regression; by default that of the interval.
        half_width: Half width that decides what is detectable; by default that of the interval.
        label: Text in front of the detectable slowdown.
    """
    low, high = slowdown.low, slowdown.high
    if low is None or high is None:
        reason = f"{slowdown.n} processes are too few for a 95% interval"
        return Judgement("inconclusive", reason, slowdown)
    proven = low if proven is None else proven
    half_width = (high - low) / 2 if half_width is None else half_width
    slower = PROVEN * limit
    detectable = slower + POWER * half_width
    verdict: Verdict = "inconclusive"
    if proven > slower:
        verdict, reason = "regression", f"slower by more than {slower:.1%}"
    elif high >= limit:
        reason = f"the slowdown may be below {slower:.1%} or above {limit:.1%}"
    elif high >= 0 and detectable > limit:
        reason = f"a slowdown of {limit:.1%} could have been missed"
    else:
        verdict, reason = "pass", f"not slower by {limit:.1%}"
    return Judgement(verdict, f"{reason}; {label}: {detectable:.1%}", slowdown, detectable)
