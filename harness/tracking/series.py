"""Raw timings as curves by step, which show warm-up and disturbances of a process in MLflow."""

from __future__ import annotations

from pathlib import Path

from harness.rundir.speed import read_timings
from harness.scenarios.scenario import SCENARIOS

MOST = 1000  # points per curve: the limit of one request, and more than the pixels of its chart
Curve = list[tuple[int, float]]
"""(step, value)."""


def series(trial_dir: Path) -> dict[str, Curve]:
    """Return one curve per scenario of a trial, its processes one after another.

    Longer curves are thinned: every k-th point is kept, with its original step.
    """
    curves = {}
    for scenario in SCENARIOS.entries():
        timings = read_timings(trial_dir, scenario)
        if timings is not None and timings.processes:
            name, values = timings.curve()
            curves[f"series/{name}"] = _thinned(values)
    return curves


def _thinned(values: list[float]) -> Curve:
    stride = -(-len(values) // MOST)
    return list(enumerate(values))[::stride]
