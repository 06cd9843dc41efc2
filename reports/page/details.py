"""What the page shows of a trial beyond results.json: raw latencies, the analysis and its pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.analysis.record import Analysis, ShownMasks, ShownPicture, read_analysis
from harness.rundir.results import Results
from reports.page.images import Pictures
from reports.page.latencies import Distribution, read_latencies


@dataclass(frozen=True)
class Detail:
    """One trial's; everything may be missing, as it is where only results.json was kept."""

    latencies: Mapping[str, Distribution]  # by scenario
    analysis: Analysis | None
    pictures: Mapping[str, str]  # path as in the analysis → key of `Pictures`; without those not there


def read_details(run_dir: Path, results: Results) -> tuple[list[Detail], Pictures]:
    """One a trial: two benchmarks may show the same predictions, and not the same scenarios.

    Raises:
        UsageError: an analysis.json or a raw measurement is damaged.
    """
    pictures = Pictures()
    details = []
    for trial in results.trials:
        folder = run_dir / "trials" / trial.id
        analysis = read_analysis(folder)
        keys = {name: pictures.add(folder, name) for name in _names(analysis)}
        found = {name: key for name, key in keys.items() if key}
        details.append(Detail(read_latencies(run_dir, trial), analysis, found))
    return details, pictures


def _names(analysis: Analysis | None) -> list[str]:
    """Every file that an analysis refers to."""
    names = []
    for sample in analysis.samples if analysis else []:
        if isinstance(sample, ShownPicture):
            names.append(sample.image)
        if isinstance(sample, ShownMasks):
            names += [sample.annotation, sample.prediction, sample.errors]
    return names
