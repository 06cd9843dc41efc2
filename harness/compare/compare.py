"""Match the trials of two runs and compare each with its counterpart."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
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

Key: TypeAlias = tuple[str, str]  # (benchmark, variant)
Models: TypeAlias = Mapping[Key, tuple[list[RunSide], list[RunSide]]]  # trainings in the baseline, in the run


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
    before, after = (
        {
            (trial.benchmark, trial.variant): RunSide(trial, RunDirectory(path).trial(trial.id))
            for trial in results.trials
        }
        for path, results in ((baseline, base), (run, head))
    )
    models = _models(before, after)
    if not before.keys() & after.keys() and not any(all(sides) for sides in models.values()):
        raise UsageError(f"{run} and {baseline} have no trial (benchmark and variant) in common")
    pairs = {key: RunPair(before[key], side) for key, side in after.items() if key in before}
    gate = recorded_gate(run / "suite.yaml") if gate is None else gate
    compared = dict(_compare_pairs(pairs, base, head, gate))
    figures = (
        ("/".join(key), side.record.task, {*side.record.metrics, *side.record.speed})
        for key, side in {**before, **after}.items()
    )
    for key, side in after.items():
        if key not in before:
            compared[key] = replace(_unpaired(side.record, "new"), changes=_floors([side], gate))
    compared |= {key: _unpaired(side.record, "missing") for key, side in before.items() if key not in after}
    shown = {**compared, **_compare_models(models, compared, gate)}
    order = dict.fromkeys(known for key in [*after, *before] for known in (_model(key), key))
    return Comparison(
        head.suite,
        head.run.id,
        head.run.git_revision,
        base.run.id,
        base.run.git_revision,
        tuple(correct_verdicts([trial for key in order if (trial := shown.get(key))])),
        _software_differences(base, head),
        frontier_changes(base, head),
        sha256(run / "results.json"),
        notes=gate.idle(figures),
    )


def _model(key: Key) -> Key:
    return key[0], without_seed(key[1])


def _models(before: Mapping[Key, RunSide], after: Mapping[Key, RunSide]) -> Models:
    """Return the models of which one of the runs has several trainings."""
    models: dict[Key, tuple[list[RunSide], list[RunSide]]] = defaultdict(lambda: ([], []))
    for position, sides in enumerate((before, after)):
        for key, side in sides.items():
            models[_model(key)][position].append(side)
    return {key: sides for key, sides in models.items() if max(map(len, sides)) > 1}


def _compare_models(
    models: Models, trials: Mapping[Key, TrialComparison], gate: GatePolicy
) -> dict[Key, TrialComparison | None]:
    """Compare the models with several trainings, and leave the accuracy of each training undecided.

    A training that only the baseline has is missing if the run has fewer of them. Otherwise other seeds of
    the run stand for it, and it has no entry.
    """
    compared: dict[Key, TrialComparison | None] = {}
    for model, (bases, heads) in models.items():
        keys = {(model[0], side.record.variant) for side in (*bases, *heads)}
        for key in keys:
            trial = trials[key]
            replaced = trial.state == "missing" and len(heads) >= len(bases)
            compared[key] = None if replaced else _undecided(trial, model[1])
        if heads:
            differ = any(trials[key].flipped != 0 for key in keys)
            compared[model] = _compare_trainings(model, bases, heads, differ, gate)
    return compared


def _compare_trainings(
    model: Key, bases: Sequence[RunSide], heads: Sequence[RunSide], differ: bool, gate: GatePolicy
) -> TrialComparison:
    """Compare the mean over all trainings of a model; the baseline may have none."""
    problems = (_check(RunPair(*sides)) for sides in product(bases or heads, heads))
    trainings = len(bases), len(heads)
    if problem := next(filter(None, problems), None):
        return replace(problem, variant=model[1], trainings=trainings)
    record = heads[0].record
    names = ("/".join((model[0], side.record.variant)) for side in (*bases, *heads))
    weights = (
        [side.record.checkpoint.sha256 if side.record.checkpoint else None for side in sides]
        for sides in (bases, heads)
    )
    rules = gate.of(record.task, *names)
    if not bases:
        entry = replace(_unpaired(record, "new"), changes=_floors(heads, rules))
        return replace(entry, variant=model[1], trainings=trainings)
    changes = tuple(accuracy_changes(bases, heads, differ, rules, same_weights(*weights)))
    entry = TrialComparison(*model, record.task, "compared", samples=record.dataset.size, changes=changes)
    return replace(entry, trainings=trainings)


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


def _floors(sides: Sequence[RunSide], gate: GatePolicy) -> tuple[Change, ...]:
    """Hold a model that the baseline lacks against the floors of the gate."""
    if not all(side.metrics for side in sides):
        return ()
    names = ("/".join((side.record.benchmark, side.record.variant)) for side in sides)
    changes = accuracy_changes(sides, sides, False, gate.of(sides[0].record.task, *names))
    return tuple(replace(change, base=None) for change in changes if change.is_floor)


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
        rules = gate.of(record.task, "/".join(key))
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
                    *accuracy_changes([pair.base], [pair.head], bool(flips[key]), rules),
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
