"""The head of every report: one line, and the same with all ranks as data for `harness report --json`."""

from collections import Counter
from dataclasses import asdict

from harness.compare.frontier import CAVEAT, FrontierChart, frontier_changes, frontier_charts, why_not_charted
from harness.rundir.results import Results, Status
from reports.text import display

NAMED = 4  # measurements that the verdict names; the tables below it mark all
_INCOMPLETE: tuple[Status, ...] = ("partial", "failed", "pending")


def verdict(results: Results) -> str:
    """Return one line, such as `8 of 10 trials complete, 1 partial, 1 failed; 1 benchmark skipped`.

    Names of trials are shortened and their hidden characters shown, but not escaped.
    """
    states = Counter(trial.status for trial in results.trials)
    total = len(results.trials)
    parts = [f"{states['complete']} of {_plural(total, 'trial')} complete"]
    parts += [f"{states[state]} {state}" for state in _INCOMPLETE if states[state]]
    line = ", ".join(parts)
    if results.skipped:
        line += f"; {_plural(len(results.skipped), 'benchmark')} skipped"
    invalid = [
        display(f"{trial.benchmark}/{trial.variant} {name}")
        for trial in results.trials
        for name, scenario in trial.speed.items()
        if not scenario.valid
    ]
    if invalid:
        more = f" and {len(invalid) - NAMED} more" if len(invalid) > NAMED else ""
        line += (
            f"; {_plural(len(invalid), 'speed measurement')} not valid: {', '.join(invalid[:NAMED])}{more}"
        )
    if claims := Counter(claim.verdict for claim in results.claims):
        line += f"; claims: {', '.join(f'{n} {name}' for name, n in claims.items())}"
    records = [record for trial in results.trials for record in trial.turns.values() if record.decides]
    for (baseline, verdict), number in sorted(Counter((r.baseline, r.verdict) for r in records).items()):
        line += f"; {_plural(number, 'comparison')} in turns with {baseline[:12]}: {verdict}"
    return line


def is_clean(results: Results) -> bool:
    """Return whether all is complete and valid, no version proven slower, and no required claim refuted."""
    failed = ("refuted", "not decided")
    return not any(claim.required and claim.verdict in failed for claim in results.claims) and all(
        trial.status == "complete"
        and all(scenario.valid for scenario in trial.speed.values())
        and all(record.verdict != "regression" or not record.decides for record in trial.turns.values())
        for trial in results.trials
    )


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


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
            {"benchmark": trial.benchmark, "variant": trial.variant, "id": trial.id, "reason": reason}
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
            "probability": point.probability,
            "dominated_by": point.dominated_by or None,
            "accuracy": asdict(point.accuracy),
            "throughput": asdict(point.throughput),
        }
        for point in comparison.points
    ]
    names = ("task", "benchmark", "dataset", "metric", "hardware")
    return {**{name: getattr(comparison, name) for name in names}, "points": points}
