"""Verdict on the speed of two runs; the only module that a gate on interleaved pairs would replace.

The two runs are made one after the other, so slow drift of the machine (temperature, a neighbour) is part of
the difference but not of its interval.
"""

from harness.compare.outcome import Verdict
from harness.scenarios.settings import GATING
from harness.task import Figure

# Two timings are never equal, so the question is whether they differ by a relevant amount (Kalibera & Jones
# 2013, "Rigorous benchmarking in reasonable time", §9). docs/compare.md explains these limits.
SLOWER = 0.025  # an interval above this is a regression
TOLERATED = 0.05  # an interval below this passes
DRIFT = "The runs were made at different times: slow drift of the machine is not in the interval."
LEAST_PROCESSES = 2  # one process does not show how much processes vary


def decide(profile: str, processes: int, slowdown: Figure) -> tuple[Verdict, str]:
    """Return the verdict on one scenario and its reason.

    Args:
        processes: Number of timed processes, on the side that has fewer.
        slowdown: Additional time per sample as a fraction of the baseline's, with its 95% interval.
    """
    if profile not in GATING:
        return "not decided", f"{profile} never gates"
    if processes < LEAST_PROCESSES or slowdown.low is None or slowdown.high is None:
        return "inconclusive", "one process does not show how much processes vary"
    if slowdown.low > SLOWER:
        return "regression", f"slower by more than {SLOWER:.1%}"
    if slowdown.high < TOLERATED:
        return "pass", f"not slower by {TOLERATED:.0%}"
    return "inconclusive", f"the slowdown may be below {SLOWER:.1%} or above {TOLERATED:.0%}"
