"""Match the trials of two runs and compare each with its counterpart."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TypeAlias

from harness.checkpoint import sha256
from harness.compare.accuracy import RunPair, RunSide, accuracy_changes, find_flips
from harness.compare.correction import correct_verdicts
from harness.compare.cost import cost_changes
from harness.compare.frontier import frontier_changes
from harness.compare.outcome import SHOWN_IDS, Change, Comparison, State, TrialComparison
from harness.compare.speed import speed_changes
from harness.decisions.policy import GatePolicy
from harness.errors import UsageError
from harness.identity import same_weights, without_seed
from harness.rundir.results import Results, TrialRecord
from harness.rundir.store import RunDirectory, read_run
from harness.suite.loading import recorded_gate
from harness.task import TaskName

Sides: TypeAlias = dict[str, RunSide]  # by variant


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
    gate = recorded_gate(run / "suite.yaml") if gate is None else gate
    models: dict[tuple[str, str], tuple[Sides, Sides]] = defaultdict(lambda: ({}, {}))
    figures: dict[str, tuple[str, TaskName, set[str]]] = {}
    for position, path, results in ((1, run, head), (0, baseline, base)):
        for trial in results.trials:
            sides = models[trial.benchmark, without_seed(trial.variant)][position]
            sides[trial.variant] = RunSide(trial, RunDirectory(path).trial(trial.id))
            full_name = f"{trial.benchmark}/{trial.variant}"
            figures.setdefault(full_name, (full_name, trial.task, {*trial.metrics, *trial.speed}))
    if not any(
        bases.keys() & heads.keys() or (bases and heads and len(bases) + len(heads) > 2)
        for bases, heads in models.values()
    ):
        raise UsageError(f"{run} and {baseline} have no trial (benchmark and variant) in common")
    trials: list[TrialComparison] = []
    for (benchmark, name), (bases, heads) in models.items():
        single = [
            _compare_trial(bases.get(variant), heads.get(variant), base, head, gate)
            for variant in dict.fromkeys([*heads, *bases])
        ]
        several = max(len(bases), len(heads)) > 1
        trials += _compare_trainings(benchmark, name, bases, heads, single, gate) if several else single
    return Comparison(
        head.suite,
        head.run.id,
        head.run.git_revision,
        base.run.id,
        base.run.git_revision,
        tuple(correct_verdicts(trials)),
        _software_differences(base, head),
        frontier_changes(base, head),
        sha256(run / "results.json"),
        notes=gate.idle(figures.values()),
    )


def _compare_trial(
    old: RunSide | None, new: RunSide | None, base: Results, head: Results, gate: GatePolicy
) -> TrialComparison:
    """Compare a trial with its counterpart; one of the runs may lack it."""
    if new is None:
        assert old is not None
        return _entry(old.record, "missing", "not in the run")
    pair, record = RunPair(old or new, new), new.record
    if problem := _problem(*pair):
        return problem
    rules = gate.of(record.task, f"{record.benchmark}/{record.variant}")
    if old is None:
        return replace(_entry(record, "new", "not in the baseline"), changes=_floors([new], rules))
    flips = find_flips(*pair)
    return replace(
        _entry(record, "compared"),
        samples=record.dataset.size,
        flipped=len(flips),
        flipped_ids=flips[:SHOWN_IDS],
        changes=(
            *accuracy_changes([old], [new], bool(flips), rules),
            *speed_changes(pair, base.environments, head.environments, rules),
            *cost_changes(pair, base.environments, head.environments, rules),
        ),
    )


def _compare_trainings(
    benchmark: str,
    model: str,
    before: Sides,
    after: Sides,
    trials: Sequence[TrialComparison],
    gate: GatePolicy,
) -> Iterator[TrialComparison]:
    """Yield a model's mean over its trainings, then its trials, whose own accuracy does not decide.

    A training that only the baseline has is missing if the run has fewer of them. Otherwise other seeds of
    the run stand for it, and it has no entry.
    """
    bases, heads = list(before.values()), list(after.values())
    if heads:
        differ = any(trial.flipped != 0 for trial in trials)
        entry = _mean_comparison(f"{benchmark}/", bases, heads, differ, gate)
        yield replace(entry, variant=model, trainings=(len(bases), len(heads)))
    for trial in trials:
        if trial.state != "missing" or len(heads) < len(bases):
            yield _undecided(trial, model)


def _mean_comparison(
    prefix: str, bases: Sequence[RunSide], heads: Sequence[RunSide], differ: bool, gate: GatePolicy
) -> TrialComparison:
    for pair in product(bases or heads, heads):
        if problem := _problem(*pair):
            return replace(problem, reason=f"{problem.variant}: {problem.reason}")
    record = heads[0].record
    rules = gate.of(record.task, *(prefix + side.record.variant for side in (*bases, *heads)))
    if not bases:
        return replace(_entry(record, "new", "not in the baseline"), changes=_floors(heads, rules))
    hashes = (
        [side.record.checkpoint.sha256 if side.record.checkpoint else None for side in sides]
        for sides in (bases, heads)
    )
    changes = tuple(accuracy_changes(bases, heads, differ, rules, same_weights(*hashes)))
    return replace(_entry(record, "compared"), samples=record.dataset.size, changes=changes)


def _undecided(trial: TrialComparison, model: str) -> TrialComparison:
    """Return the entry of one of several trainings of a model, whose accuracy does not decide."""
    reason = f"decided over all trainings of {model}"
    changes = (
        replace(change, decides=False, verdict="not decided", reason=reason, p_value=None, test=None)
        if change.figure_kind == "accuracy" and change.verdict not in ("unchanged", "incomparable")
        else replace(change, decides=change.decides and change.figure_kind != "accuracy")
        for change in trial.changes
        if not change.is_floor
    )
    return replace(trial, changes=tuple(changes))


def _floors(sides: Sequence[RunSide], rules: GatePolicy) -> tuple[Change, ...]:
    """Hold a model that the baseline lacks against the floors of the gate."""
    changes = accuracy_changes(sides, sides, False, rules)
    return tuple(replace(change, base=None) for change in changes if change.is_floor)


def _entry(trial: TrialRecord, state: State, reason: str = "") -> TrialComparison:
    return TrialComparison(trial.benchmark, trial.variant, trial.task, state, reason)


def _problem(old: RunSide, new: RunSide) -> TrialComparison | None:
    """Return the entry of a pair that cannot be compared, with the variant at fault; None if it can."""
    base, head = old.record, new.record
    if head.status != "complete":
        return _entry(head, "incomplete", head.reason or head.status)
    if base.status != "complete":
        return _entry(base, "incomparable", f"{base.status} in the baseline: {base.reason or ''}")
    for field in ("split", "size", "fingerprint"):
        before, after = getattr(base.dataset, field), getattr(head.dataset, field)
        if before != after:
            return _entry(head, "incomparable", f"data set {field} differs: {before} → {after}")
    if gap := _missing_predictions(new):
        return _entry(head, "incomplete", gap)
    if gap := _missing_predictions(old):
        return _entry(base, "incomparable", f"baseline: {gap}")
    return None


def _missing_predictions(side: RunSide) -> str:
    """Return which predictions the directory of a complete trial lacks, or an empty string if none."""
    size = side.record.dataset.size
    missing = side.directory.predictions.count_missing(size)
    if not missing:
        return ""
    return f"incomplete run directory: {missing} of {size} predictions are not in {side.directory.path}"


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
