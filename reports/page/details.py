"""Details of a trial beyond results.json: raw latencies, the analysis and its images."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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
from harness.rundir.results import Results, TrialRecord
from harness.rundir.speed import read_timings

BINS = 40
_SUBTYPES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp"}  # leading bytes → MIME subtype


class Images:
    """Data URIs by content hash, filled while trials are read."""

    def __init__(self) -> None:
        self.uris: dict[str, str] = {}

    def add(self, folder: Path, name: str) -> str | None:
        """Embed a PNG, JPEG or WebP file below `folder`; return its key, or None if the file is missing.

        The name may come from a record made elsewhere, so it is confined to the folder.
        """
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()) or not path.is_file():
            return None
        content = path.read_bytes()
        subtype = next((subtype for start, subtype in _SUBTYPES.items() if content.startswith(start)), None)
        if subtype is None:
            return None
        key = hashlib.sha256(content).hexdigest()[:16]
        self.uris[key] = f"data:image/{subtype};base64,{base64.b64encode(content).decode()}"
        return key


@dataclass(frozen=True)
class Distribution:
    """Histogram of the latencies of all processes, with bins of equal width on a log scale."""

    edges: tuple[float, ...]  # s, ascending; one more edge than counts
    counts: tuple[int, ...]
    queries: int
    slowest: float  # s


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


def distribution(latencies: NDArray[np.float64]) -> Distribution:
    """Compute the histogram of at least one latency in seconds; all are positive."""
    low, high = float(latencies.min()), float(latencies.max())
    low, high = (low, high) if high > low * 1.02 else (low / 1.01, high * 1.01)
    edges = np.geomspace(low, high, BINS + 1)
    # Rounding an outer edge must not exclude the fastest or slowest query.
    counts, _ = np.histogram(np.clip(latencies, edges[0], edges[-1]), edges)
    return Distribution(tuple(edges.tolist()), tuple(counts.tolist()), len(latencies), float(latencies.max()))


def read_latencies(run_dir: Path, trial: TrialRecord) -> dict[str, Distribution]:
    """Return the distribution by scenario, for those scenarios whose queries are timed one by one."""
    distributions = {}
    for scenario in trial.speed:
        timings = read_timings(run_dir / "trials" / trial.id, scenario)
        seconds = chain.from_iterable(timings.latencies()) if timings else ()
        latencies = np.array([latency for latency in seconds if latency > 0], dtype=np.float64)
        if len(latencies):
            distributions[scenario] = distribution(latencies)
    return distributions
