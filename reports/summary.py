"""The head of the page as data, for `harness report --json`."""

from __future__ import annotations

from dataclasses import asdict

from harness.compare.frontier import CAVEAT, FrontierChart, frontier_changes, frontier_charts, why_not_charted
from harness.rundir.results import Results
from reports.verdict import is_clean, verdict


def to_summary(results: Results, baseline: Results | None = None) -> dict[str, object]:
    """Return the verdict, each trial's rank or why it has none, and the changes since the baseline."""
    return {
        "suite": results.suite,
        "run_id": results.run.id,
        "verdict": verdict(results),
        "clean": is_clean(results),
        "ranked": CAVEAT,
        "comparisons": [_comparison(comparison) for comparison in frontier_charts(results)],
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
        "since_baseline": baseline
        and {
            "run_id": baseline.run.id,
            "frontier": [
                {"changed": chart.changed, **asdict(chart)} for chart in frontier_changes(baseline, results)
            ],
        },
    }


def _comparison(comparison: FrontierChart) -> dict[str, object]:
    points = [
        {
            "variant": point.trial.variant,
            "id": point.trial.id,
            "rank": point.rank,
            "dominated_by": point.dominated_by or None,
            "accuracy": asdict(point.accuracy),
            "throughput": asdict(point.throughput),
        }
        for point in comparison.points
    ]
    names = ("task", "benchmark", "dataset", "metric", "hardware")
    return {**{name: getattr(comparison, name) for name in names}, "points": points}
