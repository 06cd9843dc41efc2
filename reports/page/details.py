"""Details of a trial beyond results.json: raw latencies, the analysis and its images."""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
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
LEAST_SPREAD = 0.005  # of scores; a smaller one prints as 0.00
_SUBTYPES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp"}  # leading bytes → MIME subtype


@dataclass(frozen=True)
class Distribution:
    """Histogram of the latencies of all processes, with bins of equal width on a log scale."""

    edges: tuple[float, ...]  # s, ascending; one more edge than counts
    counts: tuple[int, ...]
    queries: int
    slowest: float  # s


@dataclass(frozen=True)
class Detail:
    """Details of one trial. Any may be missing, for instance if only results.json was kept."""

    latencies: Mapping[str, Distribution]  # by scenario
    analysis: Analysis | None
    images: Mapping[str, str]  # path as in the analysis → key of the image; missing files are absent


def read_details(run_dir: Path, results: Results) -> tuple[list[Detail], dict[str, str]]:
    """Read the details of every trial of a run, and the images that they show: data URIs by content hash.

    Raises:
        UsageError: an analysis.json or a raw measurement is damaged.
    """
    images: dict[str, str] = {}
    details = []
    for trial in results.trials:
        folder = run_dir / "trials" / trial.id
        analysis = read_analysis(folder)
        keys = _embed(images, folder, analysis.samples if analysis else [])
        details.append(Detail(_latencies(folder, trial), analysis, keys))
    return details, images


@dataclass(frozen=True)
class SideBySide:
    """The samples of a benchmark on which its models disagree most."""

    benchmark: str
    samples: Sequence[Disagreement]
    images: Mapping[str, Mapping[str, str]]  # by variant: path as in the record → key of the image


def read_side_by_side(run_dir: Path, results: Results, images: dict[str, str]) -> list[SideBySide]:
    """Read what a run recorded of the disagreements of its models, and add the images to `images`."""
    read = []
    for benchmark in dict.fromkeys(trial.benchmark for trial in results.trials):
        folder = run_dir / "side-by-side" / benchmark
        if (record := read_record(folder / "samples.json", SideBySideFile)) is None:
            continue
        samples = [sample for sample in record.samples if sample.spread >= LEAST_SPREAD]
        variants = _distinct(samples, record.variants)
        if len(variants) < 2:
            continue
        keys = {
            variant: _embed(images, folder / record.variants[variant], [s.shown[variant] for s in samples])
            for variant in variants
        }
        shown = [{variant: sample.shown[variant] for variant in variants} for sample in samples]
        pairs = zip(samples, shown, strict=True)
        read.append(SideBySide(benchmark, [s.model_copy(update={"shown": each}) for s, each in pairs], keys))
    return read


def _distinct(samples: Sequence[Disagreement], variants: Iterable[str]) -> list[str]:
    """Return the variants without those whose scores print as an earlier one's, such as two batch sizes."""
    first: dict[tuple[str, ...], str] = {}
    for variant in variants:
        first.setdefault(tuple(f"{sample.shown[variant].score:.2f}" for sample in samples), variant)
    return list(first.values())


def _embed(images: dict[str, str], folder: Path, samples: Sequence[ShownSample]) -> dict[str, str]:
    """Add the PNG, JPEG and WebP files of samples to `images`, and return their keys by name."""
    keys = {}
    for name in _names(samples):
        path = (folder / name).resolve()
        # A record may have been made elsewhere, so its names are confined to the folder.
        if path.is_relative_to(folder.resolve()) and path.is_file():
            content = path.read_bytes()
            key = hashlib.sha256(content).hexdigest()[:16]
            for start, subtype in _SUBTYPES.items():
                if content.startswith(start):
                    images[key] = f"data:image/{subtype};base64,{base64.b64encode(content).decode()}"
                    keys[name] = key
    return keys


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


def _latencies(folder: Path, trial: TrialRecord) -> dict[str, Distribution]:
    """Return the distribution by scenario, for those scenarios whose queries are timed one by one."""
    distributions = {}
    for scenario in trial.speed:
        timings = read_timings(folder, scenario)
        seconds = chain.from_iterable(timings.latencies()) if timings else ()
        latencies = np.array([latency for latency in seconds if latency > 0], dtype=np.float64)
        if len(latencies):
            distributions[scenario] = distribution(latencies)
    return distributions
