"""Compare the models of a run in pairs: write pairs.json."""

from collections.abc import Mapping, Sequence
from itertools import combinations, groupby
from typing import TypeAlias

from harness.files import read_record
from harness.identity import code_version, content_id
from harness.rundir.records import FigureDifference, PairsFile, TrialPair
from harness.rundir.store import RunDirectory
from harness.stages.score import restore
from harness.statistics.jackknife import JackknifedFigure
from harness.statistics.paired import difference
from harness.trial import Trial

TrialFigures: TypeAlias = Mapping[str, Mapping[str, JackknifedFigure]]
"""Metric → figure → its value and replicates."""


def score_pairs(directory: RunDirectory, trials: Sequence[Trial]) -> None:
    """Update pairs.json, which compares the complete ones of all trials of a run directory in pairs.

    Of several trials with the same predictions, for example at different batch sizes, only the first is
    paired.
    """
    path = directory.path / "pairs.json"
    pairs_file = read_record(path, PairsFile)
    before = dict(pairs_file.root) if pairs_file else {}
    after = {}
    for benchmark, group in groupby(trials, key=lambda trial: trial.benchmark):
        distinct: dict[str, Trial] = {}
        for trial in group:
            trial_dir = directory.trial(trial.id)
            if trial_dir.is_scored(trial.spec.size, trial.metrics):
                distinct.setdefault(trial_dir.predictions.fingerprint(), trial)
        known = {(pair.first, pair.second): pair for pair in before.get(benchmark, ())}
        ids = [trial.id for trial in distinct.values()]
        pairs = known | _stale_pairs(directory, list(distinct.values()), known)
        if len(ids) > 1:
            after[benchmark] = tuple(pairs[first, second] for first, second in combinations(ids, 2))
    if after != before:
        directory.write_record(path, PairsFile(after))


def _stale_pairs(
    directory: RunDirectory, trials: Sequence[Trial], known: Mapping[tuple[str, str], TrialPair]
) -> dict[tuple[str, str], TrialPair]:
    """Compare the pairs that are new, or whose figures or code have changed."""
    keys = {}
    for trial in trials:
        metrics = directory.trial(trial.id).read_metrics()
        keys[trial.id] = [metrics[name].key for name in trial.metrics]
    code = code_version("harness.statistics.paired")
    stale = {}
    for first, second in combinations(trials, 2):
        key = content_id([keys[first.id], keys[second.id], code])
        pair = known.get((first.id, second.id))
        if pair is None or pair.key != key:
            stale[first.id, second.id] = key
    involved = {trial_id for ids in stale for trial_id in ids}
    figures = {
        trial.id: {
            name: restore(name, directory.trial(trial.id).read_statistics(name)).figures()
            for name in trial.metrics
        }
        for trial in trials
        if trial.id in involved
    }
    return {
        (first, second): TrialPair(
            key=key, first=first, second=second, metrics=_differences(figures[first], figures[second])
        )
        for (first, second), key in stale.items()
    }


def _differences(first: TrialFigures, second: TrialFigures) -> dict[str, dict[str, FigureDifference]]:
    """Compare two trials: metric → figure → difference."""
    differences: dict[str, dict[str, FigureDifference]] = {}
    for metric, figures in first.items():
        differences[metric] = {}
        for name, figure in figures.items():
            paired = difference([figure], [second[metric][name]])
            differences[metric][name] = FigureDifference(difference=paired.difference, p=paired.p)
    return differences
