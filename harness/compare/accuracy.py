"""Changes in accuracy, over the samples that both runs predicted.

Both runs' figures are recomputed from the stored statistics of their samples, without the same groups of
samples. Samples that are hard for one model are mostly hard for the other, so the difference is far more
precise than two separate intervals suggest.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import isclose
from typing import Generic, Protocol, TypeAlias, TypeVar, cast

import numpy as np

from harness.compare.outcome import Change, Verdict
from harness.errors import InfrastructureError
from harness.metrics.metric import METRICS, StoredArrays
from harness.rundir.results import TrialRecord
from harness.rundir.store import TrialDirectory
from harness.stages.score import restore_figures
from harness.statistics.paired import PairedDifference
from harness.statistics.paired import difference as paired_difference
from harness.task import Better, Detections, Figure, Mask, Prediction, Translation


class Side(Protocol):
    """A side of a comparison: its figures, and the predictions and statistics behind them."""

    @property
    def name(self) -> str:
        """The path that messages show."""

    @property
    def metrics(self) -> Mapping[str, Figure]:
        """The figures, the headline first."""

    def read_predictions(self) -> Iterable[tuple[str, Prediction]]:
        """Return (sample id, prediction) of every sample, in order."""

    def read_statistics(self, metric: str) -> StoredArrays:
        """Return a metric's packed sample statistics, with its settings; empty if there are none."""


@dataclass(frozen=True)
class RunSide:
    """One run's trial: its record in results.json, and the directory of its raw outcomes."""

    record: TrialRecord
    directory: TrialDirectory

    @property
    def name(self) -> str:
        return str(self.directory.path)

    @property
    def metrics(self) -> Mapping[str, Figure]:
        return self.record.metrics

    def read_predictions(self) -> Iterable[tuple[str, Prediction]]:
        return self.directory.predictions.read(self.record.task)

    def read_statistics(self, metric: str) -> StoredArrays:
        return self.directory.read_statistics(metric)


SideT = TypeVar("SideT", bound=Side, covariant=True)


@dataclass(frozen=True)
class Pair(Generic[SideT]):
    """Two results on the same samples."""

    base: SideT
    head: SideT


RunPair: TypeAlias = Pair[RunSide]  # the trials of one benchmark and variant in both runs


@dataclass(frozen=True)
class Flips:
    """A pair, and the ids of the samples whose prediction differs."""

    pair: Pair[Side]
    ids: tuple[str, ...]


def find_flips(pair: Pair[Side]) -> Flips:
    """Find the samples whose prediction differs.

    Raises:
        InfrastructureError: the sides contain predictions of different samples.
    """
    ids = []
    sides = zip(pair.base.read_predictions(), pair.head.read_predictions(), strict=True)
    for (base_id, before), (head_id, after) in sides:
        if base_id != head_id:
            raise InfrastructureError(
                f"{pair.head.name}: contains sample {head_id} where the baseline has {base_id}"
            )
        if not _same_prediction(before, after):
            ids.append(head_id)
    return Flips(pair, tuple(ids))


def _same_prediction(before: Prediction, after: Prediction) -> bool:
    """Return whether two predictions of one task are equal."""
    if isinstance(before, Translation):
        return before == after
    if isinstance(before, Detections) and isinstance(after, Detections):
        return (
            np.array_equal(before.boxes, after.boxes)
            and np.array_equal(before.scores, after.scores)
            and np.array_equal(before.labels, after.labels)
            and before.masks == after.masks
        )
    return np.array_equal(cast(Mask, before), cast(Mask, after))


def accuracy_changes(flips: Flips) -> Iterator[Change]:
    """Yield one change per figure of a pair. If the predictions are equal, nothing is recomputed."""
    before, after = flips.pair.base.metrics, flips.pair.head.metrics
    recomputed = _recompute(flips.pair) if flips.ids else {}
    headlines = {name for metrics in (before, after) for name in list(metrics)[:1]}
    for name in dict.fromkeys([*after, *before]):
        base, head = before.get(name), after.get(name)
        difference: Figure | None = None
        p_value: float | None = None
        verdict: Verdict = "incomparable"
        if base is None or head is None:
            reason = f"not scored in the {'baseline' if base is None else 'run'}"
        elif base.n != head.n:
            reason = f"n differs: {base.n} → {head.n}"
        elif base.signature != head.signature:
            reason = f"metric signature differs: {base.signature} → {head.signature}"
        elif not flips.ids:
            difference, verdict, reason = _without_flips(base, head)
        elif (name, head.signature) not in recomputed:
            reason = "incomplete run directory: the statistics of its samples are missing in one of the runs"
        else:
            old_figure, new_figure, paired = recomputed[name, head.signature]
            if _same_value(base, old_figure) and _same_value(head, new_figure):
                base, head, difference, p_value = old_figure, new_figure, paired.difference, paired.p
                verdict, reason = decide(difference)
            else:
                reason = f"this version of the harness computes a different {name} from the same statistics"
        yield Change("accuracy", name, base, head, difference, verdict, reason, name in headlines, p_value)


def _recompute(pair: Pair[Side]) -> dict[tuple[str, str], tuple[Figure, Figure, PairedDifference]]:
    """Compute the figures of both sides and their difference from the same samples, by name and signature."""
    figures = {}
    for metric_name in METRICS.entries():
        base_arrays, head_arrays = (side.read_statistics(metric_name) for side in (pair.base, pair.head))
        if not (base_arrays and head_arrays):
            continue
        before, after = (restore_figures(metric_name, arrays) for arrays in (base_arrays, head_arrays))
        for name, head in after.items():
            base = before[name]
            if base.figure.n == head.figure.n:
                paired = paired_difference([base], [head])
                figures[name, base.figure.signature] = base.figure, head.figure, paired
    return figures


def _same_value(stored: Figure, recomputed: Figure) -> bool:
    """Return whether two values are equal up to rounding, which differs between versions of NumPy."""
    if stored.value is None or recomputed.value is None:
        return stored.value == recomputed.value
    return isclose(stored.value, recomputed.value, rel_tol=1e-9, abs_tol=1e-12)


def _without_flips(base: Figure, head: Figure) -> tuple[Figure | None, Verdict, str]:
    """Return difference, verdict and reason of a figure whose predictions are all equal."""
    if base.value != head.value:
        return None, "incomparable", "the predictions are equal, so the metric's code differs"
    zero = None if base.value is None else 0.0
    difference = replace(head, value=zero, low=zero, high=zero)
    return difference, "unchanged", "all predictions are equal"


def decide(difference: Figure) -> tuple[Verdict, str]:
    """Return the verdict on a difference and its reason.

    The figure is worse or better if the interval of the difference excludes 0.
    """
    low, high = difference.low, difference.high
    if difference.value is None:
        return "incomparable", "undefined"
    if low is None or high is None:
        return "inconclusive", "an interval needs at least two samples"
    if high < 0 or low > 0:
        side: Better = "higher" if low > 0 else "lower"
        is_better = side == (difference.better or "higher")
        reason = f"the interval of the difference is {'above' if low > 0 else 'below'} 0"
        return ("improvement" if is_better else "regression"), reason
    if low == high == 0:
        return "unchanged", "the differing predictions do not affect this figure"
    return "inconclusive", "the interval of the difference contains 0"
