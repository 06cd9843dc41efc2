"""Where it is decided whether a run is slower: the one place that a gate on interleaved pairs replaces.

The two runs were made one after the other, so whatever drifts slowly on the machine (temperature, a
neighbour) stands in the difference and not in its interval.
"""

from __future__ import annotations

from harness.compare.outcome import Verdict
from harness.suite.profiles import GATING
from harness.task import Figure

# Two timings are never equal, so what is decided is whether they differ by more than matters (Kalibera &
# Jones 2013, "Rigorous benchmarking in reasonable time", §9); docs/compare.md says what these two mean.
SLOWER = 0.025  # surely more than this is a regression
TOLERATED = 0.05  # surely less than this passes
DRIFT = "The runs were made at different times: slow drift of the machine is not in the interval."
LEAST_PROCESSES = 2  # one process says nothing of how much the next one differs


def decide(profile: str, processes: int, slowdown: Figure) -> tuple[Verdict, str]:
    """The verdict on one scenario and why.

    Args:
        profile: of both runs.
        processes: timed on the side that has fewer.
        slowdown: extra time a sample as a fraction of the baseline's, with its 95% interval.
    """
    if profile not in GATING:
        return "not decided", f"{profile} never gates"
    if processes < LEAST_PROCESSES or slowdown.low is None or slowdown.high is None:
        return "inconclusive", "one process cannot say how much the next one differs"
    if slowdown.low > SLOWER:
        return "regression", f"slower by more than {SLOWER:.1%}"
    if slowdown.high < TOLERATED:
        return "pass", f"not slower by {TOLERATED:.0%}"
    return "inconclusive", f"neither surely slower by {SLOWER:.1%} nor surely not by {TOLERATED:.0%}"
