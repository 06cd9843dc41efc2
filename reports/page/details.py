"""Details of a trial beyond results.json: raw latencies, the analysis and its images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.analysis.record import Analysis, ShownImage, ShownMasks, read_analysis
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
        keys = {name: images.add(folder, name) for name in _names(analysis)}
        embedded = {name: key for name, key in keys.items() if key}
        details.append(Detail(read_latencies(run_dir, trial), analysis, embedded))
    return details, images


def _names(analysis: Analysis | None) -> list[str]:
    """Return every file to which an analysis refers."""
    names = []
    for sample in analysis.samples if analysis else []:
        if isinstance(sample, ShownImage):
            names.append(sample.image)
        if isinstance(sample, ShownMasks):
            names += [sample.annotation, sample.prediction, sample.errors]
    return names
