"""The head of every report: one line, and the same with all ranks as data for `harness report --json`."""

from collections import Counter

from harness.compare.frontier import CAVEAT, points, why_not_charted
from harness.rundir.results import Results, ScenarioRecord, Status, TrialRecord
from reports.text import display

NAMED = 2  # invalid timings that the verdict names; of more, it has the number, and the tables mark all
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
    if invalid := invalid_timings(results):
        names = (display(f"{trial.benchmark}/{trial.variant} {name}") for _, trial, name, _ in invalid)
        line += f"; {_plural(len(invalid), 'speed measurement')} not valid"
        line += f": {', '.join(names)}" if len(invalid) <= NAMED else ""
    if claims := Counter(claim.verdict for claim in results.claims):
        line += f"; claims: {', '.join(f'{n} {name}' for name, n in claims.items())}"
    records = [record for trial in results.trials for record in trial.turns.values() if record.decides]
    for (baseline, verdict), number in sorted(Counter((r.baseline, r.verdict) for r in records).items()):
        line += f"; {_plural(number, 'comparison')} in turns with {baseline[:12]}: {verdict}"
    return line


def invalid_timings(results: Results) -> list[tuple[int, TrialRecord, str, ScenarioRecord]]:
    """Return index, trial, scenario and record of each timing that is not valid."""
    return [
        (index, trial, name, record)
        for index, trial in enumerate(results.trials)
        for name, record in trial.speed.items()
        if not record.valid
    ]


def is_clean(results: Results) -> bool:
    """Return whether all is complete and valid, no version proven slower, and no required claim refuted."""
    failed = ("refuted", "not decided")
    required = [claim for claim in results.claims if claim.required]
    if invalid_timings(results) or any(claim.verdict in failed for claim in required):
        return False
    return all(
        trial.status == "complete"
        and all(record.verdict != "regression" or not record.decides for record in trial.turns.values())
        for trial in results.trials
    )


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def to_summary(results: Results) -> dict[str, object]:
    """Return the verdict, and each trial's rank or why it has none."""
    charted = points(results)
    ranks = []
    for index, trial in enumerate(results.trials):
        point = charted.get(index)
        rank = {
            "rank": point.rank if point else None,
            "probability": point.probability if point else None,
            "dominated_by": (point.dominated_by or None) if point else None,
            "reason": why_not_charted(trial) or None,
        }
        ranks.append(trial.model_dump(include={"id", "benchmark", "variant"}) | rank)
    return {
        "suite": results.suite,
        "run_id": results.run.id,
        "verdict": verdict(results),
        "clean": is_clean(results),
        "ranked": CAVEAT,
        "trials": ranks,
    }
