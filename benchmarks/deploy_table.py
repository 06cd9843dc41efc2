"""Print, as Markdown, what `harness run deploy` decided: the fastest variant of each model that is not worse.

    python benchmarks/deploy_table.py RUN

A variant is not worse if the suite's claim against eager fp32 is supported. A timing that is not valid is
marked.
"""

from __future__ import annotations

import sys
from pathlib import Path

from harness.decisions.claims import parse_claim
from harness.rundir.results import TrialRecord, read_results
from reports.figures import printed


def row(trial: TrialRecord, reference: TrialRecord, verdict: str) -> list[str]:
    metric, figure = next(iter(trial.metrics.items()))
    rate = printed(trial.offline.throughput) if trial.offline and trial.offline.throughput else None
    invalid = "" if trial.offline and trial.offline.valid else " (not valid)"
    memory, size = trial.cost.peak_memory_bytes, trial.cost.artefact_bytes
    return [
        trial.variant,
        f"{metric} {printed(figure).value} {printed(figure).interval}",
        verdict,
        f"{rate.value} {rate.interval}" + invalid if rate else "–",
        f"{throughput(trial) / throughput(reference):.2f}×",
        f"{memory / 1e6:.0f} MB" if memory else "–",
        f"{size / 1e6:.1f} MB" if size else "–",
    ]


def throughput(trial: TrialRecord) -> float:
    if trial.offline is None or trial.offline.throughput is None:
        return float("nan")
    return trial.offline.throughput.value or float("nan")


def main() -> None:
    results = read_results(Path(sys.argv[1]))
    trials = {(trial.benchmark, trial.variant): trial for trial in results.trials}
    print("| variant | accuracy | not worse | samples/s | speed | memory | artefacts |")
    print("|---|---|---|---|---|---|---|")
    fastest: dict[str, TrialRecord] = {}
    for claim in results.claims:
        statement = parse_claim(claim.claim)
        assert statement.object is not None
        reference = trials[claim.benchmark, statement.object.adapter]
        if reference.variant not in fastest:
            fastest[reference.variant] = reference
            print("| " + " | ".join(row(reference, reference, "reference")) + " |")
        trial = trials.get((claim.benchmark, statement.subject.adapter))
        if trial is None or trial.status != "complete":
            continue
        print("| " + " | ".join(row(trial, reference, claim.verdict)) + " |")
        if claim.verdict == "supported" and throughput(trial) > throughput(fastest[reference.variant]):
            fastest[reference.variant] = trial
    print("\n| model | fastest that is not worse | speed |\n|---|---|---|")
    for name, trial in fastest.items():
        reference = trials[trial.benchmark, name]
        print(f"| {name} | {trial.variant} | {throughput(trial) / throughput(reference):.2f}× |")


if __name__ == "__main__":
    main()
