"""Score the slices of each benchmark from stored sample statistics: write slices.json."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from harness.analysis.slices import NOT_SLICED, Column, align, cut
from harness.checkpoint import sha256
from harness.driver.derived import complete_trials, read_derived
from harness.identity import code_version, content_id
from harness.metrics.average_precision import COCO_AREAS
from harness.rundir.records import BenchmarkSlices, SlicesFile
from harness.rundir.results import SliceRecord
from harness.rundir.store import RunDirectory
from harness.stages.score import StoredMetric, restore
from harness.statistics.jackknife import JackknifedFigure
from harness.statistics.paired import difference
from harness.trial import Trial


def score_slices(directory: RunDirectory, trials: Sequence[Trial]) -> None:
    """Update slices.json: the headline figures of all complete trials of a run on parts of the samples."""
    path = directory.path / "slices.json"
    slices_file = read_derived(path, SlicesFile)
    before = slices_file.root if slices_file else {}
    after = {}
    for benchmark, group in complete_trials(directory, trials).items():
        key = content_id([[trial.variant, _key(directory, trial)] for trial in group])
        known = before.get(benchmark)
        variants = {trial.variant: trial for trial in group}
        slices = known.slices if known and known.key == key else tuple(_slices(directory, variants))
        after[benchmark] = BenchmarkSlices(key=key, slices=slices)
    if after != before:
        directory.write_record(path, SlicesFile(after))


def _key(directory: RunDirectory, trial: Trial) -> str:
    metrics = directory.trial(trial.id).read_metrics()
    table = sha256(trial.slices) if trial.slices else None
    code = [code_version(f"harness.{name}") for name in ("analysis.slices", "statistics.paired")]
    return content_id([trial.id, [metrics[name].key for name in trial.metrics], table, code])


def _slices(directory: RunDirectory, trials: Mapping[str, Trial]) -> Iterator[SliceRecord]:
    """Yield the slices of a benchmark's trials, given by variant."""
    parts = [part for name, values in sample_columns(directory, trials).items() for part in cut(name, values)]
    first = next(iter(trials.values()))
    for name in first.metrics:
        stored = {
            variant: restore(name, directory.trial(trial.id).read_statistics(name))
            for variant, trial in trials.items()
        }
        yield from _by_object_size(first, stored)
        for part in parts:
            figures = {variant: metric.figures(part.members) for variant, metric in stored.items()}
            headline = next(iter(stored.values())).metric.names[0]
            chosen = {variant: by_name[headline] for variant, by_name in figures.items()}
            yield _record(first.benchmark, part.column, part.name, headline, chosen)


def _by_object_size(trial: Trial, stored: Mapping[str, StoredMetric]) -> Iterator[SliceRecord]:
    """Yield COCO's AP by object size: a slice of the objects of all images, not of the images."""
    if any(f"ap_{size}" not in metric.metric.names for metric in stored.values() for size in COCO_AREAS):
        return
    figures = {variant: metric.figures() for variant, metric in stored.items()}
    for size in COCO_AREAS:
        chosen = {variant: by_name[f"ap_{size}"] for variant, by_name in figures.items()}
        yield _record(trial.benchmark, "object size", size, f"ap_{size}", chosen)


def _record(
    benchmark: str, column: str, name: str, metric: str, figures: Mapping[str, JackknifedFigure]
) -> SliceRecord:
    base = next(iter(figures.values()))
    return SliceRecord(
        benchmark=benchmark,
        column=column,
        slice=name,
        n=base.figure.n,
        metric=metric,
        figures={variant: figure.figure for variant, figure in figures.items()},
        differences={
            variant: difference([base], [figure]).difference for variant, figure in list(figures.items())[1:]
        },
    )


def sample_columns(directory: RunDirectory, trials: Mapping[str, Trial]) -> dict[str, Column]:
    """Return the properties of the samples, then the columns of the suite's table, which take precedence."""
    columns: dict[str, Column] = {}
    for trial in trials.values():
        stored = directory.trial(trial.id).read_statistics("samples")  # empty if the analysis failed
        columns = columns or {
            name: values.astype(np.float64) for name, values in stored.items() if name not in NOT_SLICED
        }
    trial = next(iter(trials.values()))
    if trial.slices:
        dataset = trial.dataset.open()
        columns |= align(trial.slices, [dataset.sample_id(index) for index in range(trial.spec.size)])
    return columns
