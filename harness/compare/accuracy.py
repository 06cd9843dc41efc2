"""Accuracy before and after: the paired bootstrap over the samples that both runs predicted.

Both runs' figures are computed again from the stored statistics of their samples, on the same resamples
(Efron & Tibshirani 1993, ch. 8; for BLEU Koehn 2004). What is hard for one model is mostly hard for the
other, so the difference is known far better than two separate intervals suggest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isclose
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from harness.compare.outcome import Change, Verdict
from harness.errors import InfrastructureError
from harness.metrics.metric import METRICS, RESAMPLES, Metric
from harness.rundir.results import TrialRecord
from harness.rundir.store import TrialDirectory
from harness.stages.score import restored
from harness.statistics.bootstrap import figure
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


@dataclass(frozen=True)
class Paired:
    """One figure of both runs from the same resamples of the samples."""

    base: Figure
    head: Figure
    difference: Figure
    p_value: float


def accuracy_changes(each: Flips, resamples: int = RESAMPLES) -> Iterator[Change]:
    """The changes of a pair, one a figure; of equal predictions nothing is computed again."""
    before, after = each.pair.base.record.metrics, each.pair.head.record.metrics
    computed = _recomputed(each.pair, resamples) if each.ids else {}
    headlines = {name for scored in (before, after) for name in list(scored)[:1]}
    for name in dict.fromkeys([*after, *before]):
        base, head = before.get(name), after.get(name)
        difference: Figure | None = None
        p_value: float | None = None
        verdict: Verdict = "incomparable"
        if base is None or head is None:
            reason = f"not scored in the {'baseline' if base is None else 'run'}"
        elif base.signature != head.signature or base.n != head.n:
            reason = _disagreement(base, head)
        elif not each.ids:
            difference, verdict, reason = _unflipped(base, head)
        elif f"{head.signature} {name}" not in computed:
            reason = "incomplete run directory: the statistics of its samples are missing in one of the runs"
        else:
            paired = computed[f"{head.signature} {name}"]
            if _same_value(base, paired.base) and _same_value(head, paired.head):
                base, head, difference, p_value = paired.base, paired.head, paired.difference, paired.p_value
                verdict, reason = decide(difference)
            else:
                reason = f"this version of the harness computes another {name} from the same statistics"
        yield Change("accuracy", name, base, head, difference, verdict, reason, name in headlines, p_value)


def _recomputed(pair: Pair, resamples: int) -> dict[str, Paired]:
    """By signature and figure name, of the metrics that both runs have."""
    found: dict[str, Paired] = {}
    for name in METRICS.entries():
        arrays = [side.place.read_statistics(name) for side in (pair.base, pair.head)]
        if not all(arrays):
            continue
        metric, after = restored(name, arrays[1])
        before = metric.unpack(arrays[0])
        for figure_name, paired in paired_bootstrap(metric, before, after, resamples).items():
            found[f"{paired.base.signature} {figure_name}"] = paired
    return found


def _same_value(stored: Figure, computed: Figure) -> bool:
    """Up to the rounding of another NumPy's sums."""
    if stored.value is None or computed.value is None:
        return stored.value == computed.value
    return isclose(stored.value, computed.value, rel_tol=1e-9, abs_tol=1e-12)


def paired_bootstrap(
    metric: Metric, base: Sequence[Any], head: Sequence[Any], resamples: int = RESAMPLES
) -> dict[str, Paired]:
    """Figures of base, head and head − base by name, each with its 95% interval from the same resamples.

    The difference's is always the percentile method's: the bias of two models cancels, and reflecting it
    covers less (measured by benchmarks/interval_coverage.py).

    Args:
        base, head: sufficient statistics of the same samples, in the same order.
        resamples: at least RESAMPLES, of which the intervals are; all of them give the p-value.
    """
    values = [metric.summarise(each, resamples=0).metrics for each in (base, head)]
    resampled = [metric.resample(each, resamples) for each in (base, head)]
    found = {}
    for name in metric.names:
        before, after = (each[name] for each in values)
        low, high = (np.nan if each.value is None else each.value for each in (before, after))
        about = (before.n, before.unit, before.signature)
        differences = resampled[1][name] - resampled[0][name]
        found[name] = Paired(
            figure(low, resampled[0][name][:RESAMPLES], *about, name in metric.reflected),
            figure(high, resampled[1][name][:RESAMPLES], *about, name in metric.reflected),
            figure(high - low, differences[:RESAMPLES], *about),
            two_sided(differences),
        )
    return found


def two_sided(differences: NDArray[np.float64]) -> float:
    """p-value of no difference: twice the share of resampled differences on the side that has fewer.

    A difference of 0 counts for both sides, and no side as less than one resample: 2/resamples is the least.
    """
    defined = differences[~np.isnan(differences)]
    fewer = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    return min(1.0, 2 * max(fewer, 1) / max(len(defined), 1))


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
