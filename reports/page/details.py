"""Details of a trial beyond results.json: raw latencies, the analysis and its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.analysis.record import (
    Analysis,
    Disagreement,
    ShownImage,
    ShownMasks,
    ShownSample,
    SideBySideFile,
    read_analysis,
)
from harness.files import read_record
from harness.rundir.results import Results
from reports.page.images import Images
from reports.page.latencies import Distribution, read_latencies


@dataclass(frozen=True)
class Detail:
    """Details of one trial. Any of them may be missing, for instance if only results.json was kept."""

    latencies: Mapping[str, Distribution]  # by scenario
    analysis: Analysis | None
    images: Mapping[str, str]  # path as in the analysis → key of `Images`; missing files are absent


def read_details(run_dir: Path, results: Results) -> tuple[list[Detail], Images]:
    """Read the details of every trial of a run, and the images that they show.

    Raises:
        UsageError: an analysis.json or a raw measurement is damaged.
    """
    images = Images()
    details = []
    for trial in results.trials:
        folder = run_dir / "trials" / trial.id
        analysis = read_analysis(folder)
        keys = {name: images.add(folder, name) for name in _names(analysis.samples if analysis else [])}
        embedded = {name: key for name, key in keys.items() if key}
        details.append(Detail(read_latencies(run_dir, trial), analysis, embedded))
    return details, images


@dataclass(frozen=True)
class SideBySide:
    """The samples of a benchmark on which its models disagree most."""

    benchmark: str
    samples: Sequence[Disagreement]
    images: Mapping[str, Mapping[str, str]]  # by variant: path as in the record → key of `Images`


def read_side_by_side(run_dir: Path, results: Results, images: Images) -> list[SideBySide]:
    """Read what a run recorded of the disagreements of its models, and add the images to `images`."""
    read = []
    for benchmark in dict.fromkeys(trial.benchmark for trial in results.trials):
        folder = run_dir / "side-by-side" / benchmark
        record = read_record(folder / "samples.json", SideBySideFile)
        if record is None or not record.samples:
            continue
        keys: dict[str, dict[str, str]] = {variant: {} for variant in record.variants}
        for sample in record.samples:
            for variant, shown in sample.shown.items():
                for name in _names([shown]):
                    if key := images.add(folder / record.variants[variant], name):
                        keys[variant][name] = key
        read.append(SideBySide(benchmark, record.samples, keys))
    return read


def _names(samples: Sequence[ShownSample]) -> list[str]:
    """Return every file to which the records of samples refer."""
    names = []
    for sample in samples:
        if isinstance(sample, ShownImage):
            names.append(sample.image)
        if isinstance(sample, ShownMasks):
            names += [sample.annotation, sample.prediction, sample.errors]
    return names
