"""What the page says first, as data: `harness report --json`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from harness.results import Results
from reports.frontier import Comparison, comparisons, why_not_charted
from reports.verdict import is_clean, verdict


def to_summary(results: Results) -> dict[str, Any]:
    """The verdict, and the standing of every trial in its comparison, or why it has none."""
    return {
        "suite": results.suite,
        "run_id": results.run.id,
        "verdict": verdict(results),
        "clean": is_clean(results),
        "comparisons": [_comparison(comparison) for comparison in comparisons(results)],
        "not_compared": [
            {
                "benchmark": trial.benchmark,
                "variant": trial.variant,
                "id": trial.id,
                "reason": reason,
            }
            for trial in results.trials
            if (reason := why_not_charted(trial))
        ],
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    points = [
        {
            "variant": point.trial.variant,
            "id": point.trial.id,
            "standing": point.standing,
            "accuracy": asdict(point.accuracy),
            "throughput": asdict(point.throughput),
        }
        for point in comparison.points
    ]
    names = ("task", "benchmark", "dataset", "metric", "hardware")
    return {**{name: getattr(comparison, name) for name in names}, "points": points}
