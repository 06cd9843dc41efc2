"""Accuracy before and after: the paired bootstrap over the samples that both runs predicted.

Both runs' figures are computed again from their stored predictions, on the same resamples of the samples
(Efron & Tibshirani 1993, ch. 8; for BLEU Koehn 2004). What is hard for one model is mostly hard for the
other, so the difference is known far better than two separate intervals suggest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from harness.compare.records import Change, Verdict
from harness.datasets.dataset import Dataset
from harness.errors import InfrastructureError, UnavailableError, UsageError
from harness.metrics.interval import figure
from harness.metrics.metric import METRICS, Metric
from harness.plan import DatasetUse
from harness.results import TrialRecord
from harness.stages.score import make_metrics, sample_statistics
from harness.store import TrialDirectory
from harness.task import Detections, Figure, Prediction, TaskName, Translation


@dataclass(frozen=True)
class Side:
    """A trial and where its predictions and raw measurements are."""

    record: TrialRecord
    place: TrialDirectory


@dataclass(frozen=True)
class Pair:
    """The same benchmark and variant in both runs."""

    base: Side
    head: Side

    @property
    def task(self) -> TaskName:
        return self.head.record.task


@dataclass(frozen=True)
class Flips:
    """A pair, and the ids of the samples whose prediction differs."""

    pair: Pair
    ids: tuple[str, ...]


def flips(pair: Pair) -> Flips:
    """Compare predictions one by one.

    Raises:
        InfrastructureError: the runs hold predictions of different samples.
    """
    ids = []
    sides = [side.place.read(pair.task) for side in (pair.base, pair.head)]
    for (base_id, before), (head_id, after) in zip(*sides, strict=True):
        if base_id != head_id:
            raise InfrastructureError(
                f"{pair.head.place.path}: has sample {head_id} where the baseline has {base_id}"
            )
        if not _same(before, after):
            ids.append(head_id)
    return Flips(pair, tuple(ids))


def _same(before: Prediction, after: Prediction) -> bool:
    if isinstance(before, Translation):
        return before == after
    if isinstance(before, Detections):
        other = cast(Detections, after)
        return all(
            np.array_equal(getattr(before, part), getattr(other, part))
            for part in ("boxes", "scores", "labels")
        )
    return np.array_equal(before, cast(Any, after))


def accuracy_changes(benchmark: Sequence[Flips]) -> list[tuple[Change, ...]]:
    """The changes of each pair of one benchmark: all have the same samples, which are opened once."""
    flipped = [each.pair for each in benchmark if each.ids]
    computed: dict[int, dict[str, tuple[Figure, Figure, Figure]]] = {}
    problem = ""
    if flipped:
        dataset, problem = _open(flipped[0].head.record)
        if dataset is not None:
            computed = dict(zip(map(id, flipped), _recomputed(dataset, flipped), strict=True))
    return [
        tuple(_changes(each, computed.get(id(each.pair), {}), problem if each.ids else ""))
        for each in benchmark
    ]


def _open(record: TrialRecord) -> tuple[Dataset | None, str]:
    """The data set if this machine has the very one that both runs saw, else why not."""
    use = DatasetUse(record.dataset.name, record.dataset.options, record.dataset.split, record.task)
    try:
        dataset = use.open()
        fingerprint = dataset.fingerprint
    except (UnavailableError, UsageError) as error:
        return None, f"the data set cannot be opened here: {error}"
    if fingerprint != record.dataset.fingerprint:
        return None, f"this machine's data set '{use.name}' has other content than the runs'"
    return dataset, ""


def _recomputed(dataset: Dataset, pairs: Sequence[Pair]) -> list[dict[str, tuple[Figure, Figure, Figure]]]:
    """Of each pair: signature and figure name → base, head and difference."""
    first = pairs[0].head.record
    names = [
        name
        for name in METRICS.entries()
        if METRICS.get(name).task == first.task and first.metrics.keys() & set(METRICS.get(name).names)
    ]
    metrics = make_metrics(names, dataset)
    sides = [side for pair in pairs for side in (pair.base, pair.head)]
    readers = [side.place.read(first.task) for side in sides]
    statistics = sample_statistics(dataset, first.dataset.size, readers, metrics)
    found = []
    for base, head in zip(statistics[::2], statistics[1::2], strict=True):
        figures: dict[str, tuple[Figure, Figure, Figure]] = {}
        for metric, before, after in zip(metrics, base, head, strict=True):
            for name, three in paired_bootstrap(metric, before, after).items():
                figures[f"{three[0].signature} {name}"] = three
        found.append(figures)
    return found


def paired_bootstrap(
    metric: Metric, base: Sequence[Any], head: Sequence[Any]
) -> dict[str, tuple[Figure, Figure, Figure]]:
    """Figures of base, head and head − base by name, each with its 95% interval from the same resamples.

    The difference's is always the percentile method's: the bias of two models cancels, and reflecting it
    covers less (measured by benchmarks/interval_coverage.py).

    Args:
        base, head: sufficient statistics of the same samples, in the same order.
    """
    values = [metric.summarise(each, resamples=0).metrics for each in (base, head)]
    resampled = [metric.resample(each) for each in (base, head)]
    found = {}
    for name in metric.names:
        before, after = (each[name] for each in values)
        low, high = (np.nan if each.value is None else each.value for each in (before, after))
        about = (before.n, before.unit, before.signature)
        found[name] = (
            figure(low, resampled[0][name], *about, name in metric.reflected),
            figure(high, resampled[1][name], *about, name in metric.reflected),
            figure(high - low, resampled[1][name] - resampled[0][name], *about),
        )
    return found


def _changes(
    flips: Flips, computed: dict[str, tuple[Figure, Figure, Figure]], problem: str
) -> Iterable[Change]:
    before, after = flips.pair.base.record.metrics, flips.pair.head.record.metrics
    headline = next(iter(after), None)
    for name in dict.fromkeys([*after, *before]):
        base, head = before.get(name), after.get(name)
        difference: Figure | None = None
        verdict: Verdict = "incomparable"
        if base is None or head is None:
            reason = f"not scored in the {'baseline' if base is None else 'run'}"
        elif base.signature != head.signature or base.n != head.n:
            reason = _disagreement(base, head)
        elif problem:
            reason = problem
        elif not flips.ids:
            difference, verdict, reason = _unflipped(base, head)
        elif f"{head.signature} {name}" not in computed:
            reason = f"this version of the harness computes another {name} than {head.signature}"
        else:
            base, head, difference = computed[f"{head.signature} {name}"]
            verdict, reason = decide(difference)
        yield Change("accuracy", name, base, head, difference, verdict, reason, name == headline)


def _disagreement(base: Figure, head: Figure) -> str:
    if base.n != head.n:
        return f"n differs: {base.n} → {head.n}"
    return f"metric signature differs: {base.signature} → {head.signature}"


def _unflipped(base: Figure, head: Figure) -> tuple[Figure | None, Verdict, str]:
    if base.value != head.value:
        return None, "incomparable", "the predictions are the same: the metric's code differs"
    none = None if base.value is None else 0.0
    difference = Figure(none, none, none, head.n, head.unit, head.signature)
    return difference, "unchanged", "every prediction is the same"


def decide(difference: Figure) -> tuple[Verdict, str]:
    """Worse or better where the interval of the difference leaves out 0; every metric here is a benefit."""
    low, high = difference.low, difference.high
    if difference.value is None:
        return "incomparable", "undefined"
    if low is None or high is None:
        return "inconclusive", "one sample has no interval"
    if high < 0:
        return "regression", "the interval of the difference is below 0"
    if low > 0:
        return "improvement", "the interval of the difference is above 0"
    if low == high == 0:
        return "unchanged", "predictions differ where this figure does not look"
    return "inconclusive", "the interval of the difference holds 0"
