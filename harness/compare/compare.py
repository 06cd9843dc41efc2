"""Match the trials of two runs and compare each with its counterpart."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from harness.checkpoint import sha256
from harness.compare.accuracy import RunPair, RunSide, accuracy_changes, find_flips
from harness.compare.correction import correct_verdicts
from harness.compare.cost import cost_changes
from harness.compare.frontier import frontier_changes
from harness.compare.outcome import SHOWN_IDS, Comparison, State, TrialComparison
from harness.compare.speed import speed_changes
from harness.decisions.policy import GatePolicy
from harness.errors import UsageError
from harness.rundir.results import Results, TrialRecord
from harness.rundir.store import RunDirectory, read_run
from harness.suite.loading import read_gate

Key: TypeAlias = tuple[str, str]  # (benchmark, variant)


def compare(run: Path, baseline: Path, gate: GatePolicy | None = None) -> Comparison:
    """Compare a run directory with a baseline's.

    Args:
        gate: The limits of losses; default: those of the run's suite.

    Raises:
        UsageError: one of them is not a run directory, or they have no trial in common.
        InfrastructureError: a file of stored predictions is damaged.
    """
    for path in (run, baseline):
        if not path.is_dir():
            raise UsageError(f"{path}: not a run directory")
    head, base = read_run(run), read_run(baseline)
    before = {_key(trial): trial for trial in base.trials}
    after = {_key(trial): trial for trial in head.trials}
    if not before.keys() & after.keys():
        raise UsageError(f"{run} and {baseline} have no trial (benchmark and variant) in common")
    pairs = {
        key: RunPair(
            RunSide(before[key], RunDirectory(baseline).trial(before[key].id)),
            RunSide(trial, RunDirectory(run).trial(trial.id)),
        )
        for key, trial in after.items()
        if key in before
    }
    gate = read_gate(run / "suite.yaml") if gate is None else gate
    compared = dict(_compare_pairs(pairs, base, head, gate))
    figures = (
        ("/".join(key), trial.task, {*trial.metrics, *trial.speed})
        for key, trial in {**before, **after}.items()
    )
    for key, trial in after.items():
        if key not in before:
            side = RunSide(trial, RunDirectory(run).trial(trial.id))
            changes = accuracy_changes(side, side, (), gate.of("/".join(key), trial.task))
            floors = tuple(replace(floor, base=None) for floor in changes if floor.name.endswith(" floor"))
            compared[key] = replace(_unpaired(trial, "new"), changes=floors)
    compared |= {key: _unpaired(trial, "missing") for key, trial in before.items() if key not in after}
    order = dict.fromkeys([*after, *before])
    return Comparison(
        head.suite,
        head.run.id,
        head.run.git_revision,
        base.run.id,
        base.run.git_revision,
        tuple(correct_verdicts([compared[key] for key in order])),
        _software_differences(base, head),
        frontier_changes(base, head),
        sha256(run / "results.json"),
        notes=gate.idle(figures),
    )


def _key(trial: TrialRecord) -> Key:
    return trial.benchmark, trial.variant


def _unpaired(trial: TrialRecord, state: State) -> TrialComparison:
    """Return the entry of a trial that only one of the runs has."""
    if state == "new" and trial.status != "complete":
        return _not_compared(trial, "incomplete", trial.reason or trial.status)
    reason = "not in the baseline" if state == "new" else "not in the run"
    return _not_compared(trial, state, reason)


def _not_compared(trial: TrialRecord, state: State, reason: str) -> TrialComparison:
    return TrialComparison(trial.benchmark, trial.variant, trial.task, state, reason)


def _check(pair: RunPair) -> TrialComparison | None:
    """Return the entry of a pair that cannot be compared, with the reason; None if it can."""
    base, head = pair.base.record, pair.head.record
    if head.status != "complete":
        return _not_compared(head, "incomplete", head.reason or head.status)
    if base.status != "complete":
        return _not_compared(head, "incomparable", f"{base.status} in the baseline: {base.reason or ''}")
    for field in ("split", "size", "fingerprint"):
        before, after = getattr(base.dataset, field), getattr(head.dataset, field)
        if before != after:
            return _not_compared(head, "incomparable", f"data set {field} differs: {before} → {after}")
    if gap := _missing_predictions(pair.head):
        return _not_compared(head, "incomplete", gap)
    if gap := _missing_predictions(pair.base):
        return _not_compared(head, "incomparable", f"baseline: {gap}")
    return None


def _missing_predictions(side: RunSide) -> str:
    """Return which predictions the directory of a complete trial lacks, or an empty string if none."""
    size = side.record.dataset.size
    missing = side.directory.predictions.count_missing(size)
    if not missing:
        return ""
    return f"incomplete run directory: {missing} of {size} predictions are not in {side.directory.path}"


def _compare_pairs(
    pairs: Mapping[Key, RunPair], base: Results, head: Results, gate: GatePolicy
) -> Iterator[tuple[Key, TrialComparison]]:
    """Yield the changes of each pair, or why it cannot be compared."""
    not_compared = {key: _check(pair) for key, pair in pairs.items()}
    flips = {key: find_flips(*pair) for key, pair in pairs.items() if not_compared[key] is None}
    for key, pair in pairs.items():
        record = pair.head.record
        rules = gate.of("/".join(key), record.task)
        yield (
            key,
            not_compared[key]
            or TrialComparison(
                *key,
                record.task,
                "compared",
                samples=record.dataset.size,
                flipped=len(flips[key]),
                flipped_ids=flips[key][:SHOWN_IDS],
                changes=(
                    *accuracy_changes(*pair, flips[key], rules),
                    *speed_changes(pair, base.environments, head.environments, rules),
                    *cost_changes(pair, base.environments, head.environments, rules),
                ),
            ),
        )


def _software_differences(base: Results, head: Results) -> tuple[str, ...]:
    """Return the differences in software between the drivers' machines, as text.

    Runs with different software are compared, because users want to know the cost of a library's update.
    """
    machines = (run.environments.get(run.run.environment) for run in (base, head))
    before, after = ({"python": m.python, "os": m.os, **m.packages} if m else {} for m in machines)
    return tuple(
        f"{name} {before.get(name, 'none')} → {after.get(name, 'none')}"
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    )
