"""Compare the models of a run in pairs: write pairs.json."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations

from harness.driver.derived import complete_trials, read_derived
from harness.identity import code_version, content_id, same_weights, without_seed
from harness.metrics.metric import METRICS
from harness.rundir.records import BenchmarkPairs, PairsFile
from harness.rundir.results import PairRecord
from harness.rundir.store import RunDirectory
from harness.stages.score import restore
from harness.statistics.holm import holm
from harness.statistics.paired import difference
from harness.trial import Trial


def score_pairs(directory: RunDirectory, trials: Sequence[Trial]) -> None:
    """Update pairs.json, which compares the models of a run directory in pairs, by their complete trials.

    Of several models with the same predictions, for example at different batch sizes, only the first is
    paired.
    """
    path = directory.path / "pairs.json"
    pairs_file = read_derived(path, PairsFile)
    before = pairs_file.root if pairs_file else {}
    after = {}
    for benchmark, complete in complete_trials(directory, trials).items():
        models = _distinct_models(directory, complete)
        if len(models) > 1:
            key = _key(directory, models)
            known = before.get(benchmark)
            pairs = known.pairs if known and known.key == key else tuple(_pairs(directory, models))
            after[benchmark] = BenchmarkPairs(key=key, pairs=pairs)
    if after != before:
        directory.write_record(path, PairsFile(after))


def _distinct_models(directory: RunDirectory, trials: Sequence[Trial]) -> list[list[Trial]]:
    """Group trials that differ only in the seed, without groups that repeat another's predictions."""
    models: defaultdict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        models[without_seed(trial.variant)].append(trial)
    distinct: dict[tuple[str, ...], list[Trial]] = {}
    for model in models.values():
        fingerprints = (directory.trial(trial.id).predictions.fingerprint() for trial in model)
        distinct.setdefault(tuple(sorted(fingerprints)), model)
    return list(distinct.values())


def _key(directory: RunDirectory, models: Sequence[Sequence[Trial]]) -> str:
    keys = []
    for trial in (trial for model in models for trial in model):
        metrics = directory.trial(trial.id).read_metrics()
        keys.append([trial.id, trial.variant, *(metrics[name].key for name in trial.metrics)])
    modules = ("harness.statistics.paired", "harness.statistics.holm", __name__)
    return content_id([*keys, *map(code_version, modules)])


def _pairs(directory: RunDirectory, models: Sequence[Sequence[Trial]]) -> Iterator[PairRecord]:
    """Yield the pairs of a benchmark by the headline figure of each metric, if it is defined."""
    for metric in models[0][0].metrics:
        headline = METRICS.get(metric).names[0]
        figures = [
            [
                restore(metric, directory.trial(trial.id).read_statistics(metric)).figures()[headline]
                for trial in model
            ]
            for model in models
        ]
        compared = []
        for (first, base), (second, head) in combinations(zip(models, figures, strict=True), 2):
            weights = ([trial.spec.checkpoint for trial in model] for model in (first, second))
            paired = difference(base, head, same_weights(*weights))
            if paired.p is not None:
                compared.append((first, second, paired.difference, paired.p))
        adjusted = holm([p for *_, p in compared])
        for (first, second, change, p), p_adjusted in zip(compared, adjusted, strict=True):
            yield PairRecord(
                benchmark=first[0].benchmark,
                metric=headline,
                first=_name(first),
                second=_name(second),
                trainings=(len(first), len(second)),
                difference=change,
                p=p,
                p_adjusted=p_adjusted,
            )


def _name(model: Sequence[Trial]) -> str:
    """Return the variant of a model, without its seed if there are several trainings."""
    return model[0].variant if len(model) == 1 else without_seed(model[0].variant)
