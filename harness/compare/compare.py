"""Match the trials of two runs and compare each with its counterpart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.checkpoint import sha256
from harness.compare.accuracy import Pair, Side, accuracy_changes, flips
from harness.compare.correction import corrected, least_resamples
from harness.compare.frontier import frontier_changes
from harness.compare.outcome import SHOWN_IDS, Comparison, State, TrialComparison
from harness.compare.speed import speed_changes
from harness.errors import UsageError
from harness.rundir.results import Results, TrialRecord, read_results
from harness.rundir.store import RunDirectory

Key = tuple[str, str]
"""(benchmark, variant)."""


def compare(run: Path, baseline: Path) -> Comparison:
    """Compare two run directories.

    Raises:
        UsageError: one is not a run directory, or they have no trial in common.
        InfrastructureError: a file of stored predictions is damaged.
    """
    for path in (run, baseline):
        if not path.is_dir():
            raise UsageError(f"{path}: not a run directory")
    head, base = read_results(run), read_results(baseline)
    before = {_key(trial): trial for trial in base.trials}
    after = {_key(trial): trial for trial in head.trials}
    if not before.keys() & after.keys():
        raise UsageError(f"{run} and {baseline} have no trial (benchmark and variant) in common")
    pairs = {
        key: Pair(
            Side(before[key], RunDirectory(baseline).trial(before[key].id)),
            Side(trial, RunDirectory(run).trial(trial.id)),
        )
        for key, trial in after.items()
        if key in before
    }
    found = dict(_compared(pairs, base, head))
    found |= {key: _alone(trial, "new") for key, trial in after.items() if key not in before}
    found |= {key: _alone(trial, "missing") for key, trial in before.items() if key not in after}
    order = dict.fromkeys([*after, *before])
    return Comparison(
        head.suite,
        head.run.id,
        head.run.git_revision,
        base.run.id,
        base.run.git_revision,
        tuple(found[key] for key in order),
        _software(base, head),
        frontier_changes(base, head),
        sha256(run / "results.json"),
    )


def _key(trial: TrialRecord) -> Key:
    return trial.benchmark, trial.variant


def _alone(trial: TrialRecord, state: State) -> TrialComparison:
    if state == "new" and trial.status != "complete":
        return _without(trial, "incomplete", trial.reason or trial.status)
    reason = "not in the baseline" if state == "new" else "not in the run"
    return _without(trial, state, reason)


def _without(trial: TrialRecord, state: State, reason: str) -> TrialComparison:
    return TrialComparison(trial.benchmark, trial.variant, trial.task, state, reason)


def _set_apart(pair: Pair) -> TrialComparison | None:
    """A pair that cannot be compared, and why; None if it can."""
    base, head = pair.base.record, pair.head.record
    if head.status != "complete":
        return _without(head, "incomplete", head.reason or head.status)
    if base.status != "complete":
        return _without(head, "incomparable", f"{base.status} in the baseline: {base.reason or ''}")
    for field in ("split", "size", "fingerprint"):
        before, after = getattr(base.dataset, field), getattr(head.dataset, field)
        if before != after:
            return _without(head, "incomparable", f"data set {field} differs: {before} → {after}")
    if gap := _gap(pair.head):
        return _without(head, "incomplete", gap)
    if gap := _gap(pair.base):
        return _without(head, "incomparable", f"the baseline's is an {gap}")
    return None


def _gap(side: Side) -> str:
    """What a directory lacks of a trial that its results call complete; empty if nothing."""
    size = side.record.dataset.size
    missing = sum(stop - start for start, stop in side.place.todo(size))
    if not missing:
        return ""
    return f"incomplete run directory: {missing} of {size} predictions are not in {side.place.path}"


def _compared(
    pairs: Mapping[Key, Pair], base: Results, head: Results
) -> Iterator[tuple[Key, TrialComparison]]:
    """Of each pair what changed, or why it cannot be compared."""
    apart = {key: _set_apart(pair) for key, pair in pairs.items()}
    flipped = {key: flips(pair) for key, pair in pairs.items() if apart[key] is None}
    resamples = least_resamples(sum(1 for each in flipped.values() if each.ids))
    found = []
    for key, pair in pairs.items():
        record = pair.head.record
        found.append(
            apart[key]
            or TrialComparison(
                *key,
                record.task,
                "compared",
                samples=record.dataset.size,
                flipped=len(flipped[key].ids),
                flipped_ids=flipped[key].ids[:SHOWN_IDS],
                changes=(
                    *accuracy_changes(flipped[key], resamples),
                    *speed_changes(pair, base.environments, head.environments),
                ),
            )
        )
    return zip(pairs, corrected(found), strict=True)


def _software(base: Results, head: Results) -> tuple[str, ...]:
    """What else differs, as text.

    Such runs are compared all the same: what an update of a library costs is what users want to know.
    """
    before, after = (_versions(run.environments.get(run.run.environment, {})) for run in (base, head))
    return tuple(
        f"{name} {before.get(name, 'none')} → {after.get(name, 'none')}"
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    )


def _versions(machine: dict[str, Any]) -> dict[str, Any]:
    return {"python": machine.get("python"), "os": machine.get("os"), **machine.get("packages", {})}
