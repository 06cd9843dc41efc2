"""Compare the models of a run in pairs: write pairs.json."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations, groupby
from typing import TypeAlias

from harness.files import read_record
from harness.identity import code_version, content_id, same_weights, without_seed
from harness.rundir.records import FigureDifference, PairsFile, TrialPair
from harness.rundir.store import RunDirectory
from harness.stages.score import restore
from harness.statistics.jackknife import JackknifedFigure
from harness.statistics.paired import difference
from harness.trial import Trial

TrialFigures: TypeAlias = Mapping[str, Mapping[str, JackknifedFigure]]
"""Metric → figure → its value and replicates."""
Ids: TypeAlias = tuple[str, ...]
"""Ids of the trials of a model, which differ only in the seed of their training."""


def score_pairs(directory: RunDirectory, trials: Sequence[Trial]) -> None:
    """Update pairs.json, which compares the models of a run directory in pairs, by their complete trials.

    Of several models with the same predictions, for example at different batch sizes, only the first is
    paired.
    """
    path = directory.path / "pairs.json"
    pairs_file = read_record(path, PairsFile)
    before = dict(pairs_file.root) if pairs_file else {}
    after = {}
    for benchmark, group in groupby(trials, key=lambda trial: trial.benchmark):
        models = _distinct_models(directory, list(group))
        known = {(pair.first, pair.second): pair for pair in before.get(benchmark, ())}
        pairs = known | _stale_pairs(directory, models, known)
        if len(models) > 1:
            after[benchmark] = tuple(pairs[ids] for ids in combinations(models, 2))
    if after != before:
        directory.write_record(path, PairsFile(after))


def _distinct_models(directory: RunDirectory, trials: Sequence[Trial]) -> dict[Ids, list[Trial]]:
    """Group the complete trials of a benchmark by model, without trials that repeat another's predictions."""
    models: dict[str, dict[str, Trial]] = defaultdict(dict)
    for trial in trials:
        trial_dir = directory.trial(trial.id)
        if trial_dir.is_scored(trial.spec.size, trial.metrics):
            models[without_seed(trial.variant)].setdefault(trial_dir.predictions.fingerprint(), trial)
    distinct: dict[frozenset[str], list[Trial]] = {}
    for trainings in models.values():
        distinct.setdefault(frozenset(trainings), list(trainings.values()))
    return {tuple(trial.id for trial in model): model for model in distinct.values()}


def _stale_pairs(
    directory: RunDirectory,
    models: Mapping[Ids, Sequence[Trial]],
    known: Mapping[tuple[Ids, Ids], TrialPair],
) -> dict[tuple[Ids, Ids], TrialPair]:
    """Compare the pairs that are new, or whose figures or code have changed."""
    trials = {trial.id: trial for model in models.values() for trial in model}
    keys = {}
    for trial_id, trial in trials.items():
        metrics = directory.trial(trial_id).read_metrics()
        keys[trial_id] = [metrics[name].key for name in trial.metrics]
    code = code_version("harness.statistics.paired")
    stale = {}
    for pair in combinations(models, 2):
        key = content_id([*([keys[trial_id] for trial_id in ids] for ids in pair), code])
        if pair not in known or known[pair].key != key:
            stale[pair] = key
    figures = {
        trial_id: {
            name: restore(name, directory.trial(trial_id).read_statistics(name)).figures()
            for name in trials[trial_id].metrics
        }
        for trial_id in {trial_id for pair in stale for ids in pair for trial_id in ids}
    }
    weights = {ids: [trial.spec.checkpoint for trial in model] for ids, model in models.items()}
    return {
        (first, second): TrialPair(
            key=key,
            first=first,
            second=second,
            metrics=_differences(
                [figures[trial_id] for trial_id in first],
                [figures[trial_id] for trial_id in second],
                same_weights(weights[first], weights[second]),
            ),
        )
        for (first, second), key in stale.items()
    }


def _differences(
    first: Sequence[TrialFigures], second: Sequence[TrialFigures], paired_trainings: bool
) -> dict[str, dict[str, FigureDifference]]:
    """Compare two models: metric → figure → difference."""
    differences: dict[str, dict[str, FigureDifference]] = {}
    for metric, figures in first[0].items():
        differences[metric] = {}
        for name in figures:
            base, head = ([training[metric][name] for training in side] for side in (first, second))
            paired = difference(base, head, paired_trainings)
            differences[metric][name] = FigureDifference(difference=paired.difference, p=paired.p)
    return differences
