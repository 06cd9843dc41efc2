"""Changes in accuracy, over the samples that both runs predicted.

Both runs' figures are recomputed from the stored statistics of their samples, without the same groups of
samples. Samples that are hard for one model are mostly hard for the other, so the difference is far more
precise than two separate intervals suggest.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from math import isclose
from typing import NamedTuple, Protocol, TypeAlias, cast

import numpy as np

from harness.analysis.slices import NOT_SLICED, select
from harness.compare.correction import with_decision
from harness.compare.outcome import Change
from harness.decisions.margin import bound_test, decide
from harness.decisions.policy import GatePolicy, GateRule
from harness.errors import InfrastructureError, UsageError
from harness.metrics.metric import METRICS, StoredArrays
from harness.rundir.results import TrialRecord
from harness.rundir.store import TrialDirectory
from harness.stages.score import restore
from harness.statistics.jackknife import Estimate, JackknifedFigure
from harness.statistics.paired import difference as paired_difference
from harness.statistics.paired import mean, mean_estimate
from harness.task import Detections, Figure, Mask, Prediction, Translation

NO_INTERVAL = "it has no interval: too few samples, or one group alone decides it"


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


class RunPair(NamedTuple):
    """The trials of one benchmark and variant in both runs."""

    base: RunSide
    head: RunSide


Trainings: TypeAlias = Sequence[JackknifedFigure]  # one figure per training of a model
FigurePair: TypeAlias = tuple[Trainings, Trainings]  # baseline, run


def find_flips(base: Side, head: Side) -> tuple[str, ...]:
    """Return the ids of the samples whose prediction differs.

    Raises:
        InfrastructureError: the sides contain predictions of different samples.
    """
    ids = []
    sides = zip(base.read_predictions(), head.read_predictions(), strict=True)
    for (base_id, before), (head_id, after) in sides:
        if base_id != head_id:
            raise InfrastructureError(
                f"{head.name}: contains sample {head_id} where the baseline has {base_id}"
            )
        if not _same_prediction(before, after):
            ids.append(head_id)
    return tuple(ids)


def _same_prediction(before: Prediction, after: Prediction) -> bool:
    if isinstance(before, Translation):
        return before == after
    if isinstance(before, Detections) and isinstance(after, Detections):
        arrays = ("boxes", "scores", "labels")
        same = all(np.array_equal(getattr(before, name), getattr(after, name)) for name in arrays)
        return same and before.masks == after.masks
    return np.array_equal(cast(Mask, before), cast(Mask, after))


def accuracy_changes(
    baseline: Sequence[Side],
    run: Sequence[Side],
    differ: bool,
    gate: GatePolicy,
    paired_trainings: bool = False,
) -> Iterator[Change]:
    """Yield the changes of each figure. If the predictions are equal, no loss is tested.

    Args:
        baseline, run: The trainings of one model.
        differ: Some predictions differ (see `find_flips`).
        gate: The rules about this model.
        paired_trainings: Both sides have the same weights.
    """
    has_floor = any(rule.floor is not None for rule in gate.root)
    several = len(baseline) + len(run) > 2
    equal = not differ and not several
    recomputed = _recompute(baseline, run) if not equal or has_floor else None
    sides = [side.metrics for side in (*run, *baseline)]
    headlines = {next(iter(metrics), "") for metrics in sides}
    for name in dict.fromkeys(chain(*sides)):
        stored = [[side.metrics.get(name) for side in group] for group in (baseline, run)]
        base, head = stored[0][0], stored[1][0]
        rule = gate.rule("metric", name, name in headlines)
        blocks = rule is not None and rule.tier == "blocking"
        limits_loss = rule is not None and (rule.max_drop is not None or rule.max_relative_drop is not None)
        decides = blocks if limits_loss else name in headlines
        change = Change("accuracy", name, base, head, decides=decides)
        figures = recomputed.get((name, head.signature)) if recomputed and head else None
        reasons = (_incomparable(name, *pair, equal=equal) for pair in product(stored[0], stored[1]))
        reason = next(filter(None, reasons), "")
        if not reason and recomputed is not None:
            reason = _not_restored(name, stored, figures)
        floor = replace(change, name=f"{name} floor", is_floor=True, decides=blocks)
        if reason:
            yield replace(change, reason=reason)
            if rule and rule.floor is not None:
                yield replace(floor, reason=reason)
            continue
        if several and figures:
            change = replace(change, base=mean(figures[0]), head=mean(figures[1]))
        if figures and differ:
            yield judge_loss(change, figures, rule, paired_trainings)
        else:
            assert change.head is not None
            zero = None if change.head.value is None else 0.0
            difference = replace(change.head, value=zero, low=zero, high=zero)
            reason = "all predictions are equal"
            yield replace(change, difference=difference, verdict="unchanged", reason=reason)
        if rule and rule.floor is not None and figures:
            floor = replace(floor, head=mean(figures[1]), limit=f"floor {rule.floor:g}")
            yield _decided(floor, mean_estimate(figures[1]), rule.floor)
    for rule in gate.root:
        if rule.where:
            yield _judge_part(baseline, run, rule, rule.where, paired_trainings)


def _judge_part(
    baseline: Sequence[Side], run: Sequence[Side], rule: GateRule, where: str, paired_trainings: bool
) -> Change:
    """Hold the loss of a figure on the samples that satisfy a condition against the rule's limit."""
    name, columns = rule.metric or next(iter(run[0].metrics)), run[0].read_statistics("samples")
    change = Change("accuracy", f"{name} where {where}", decides=rule.tier == "blocking")
    try:
        members = select({key: columns[key] for key in columns if key not in NOT_SLICED}, where)
    except UsageError as error:
        return replace(change, reason=str(error))
    figures = [pair for (known, _), pair in _recompute(baseline, run, members).items() if known == name]
    missing = replace(change, reason="not in both runs")
    return judge_loss(change, figures[0], rule, paired_trainings) if figures else missing


def _incomparable(name: str, base: Figure | None, head: Figure | None, equal: bool) -> str:
    """Return why the figures of two runs cannot be compared, or an empty string."""
    if base is None or head is None:
        return f"not scored in the {'baseline' if base is None else 'run'}"
    if base.n != head.n:
        return f"n differs: {base.n} → {head.n}"
    if base.signature != head.signature:
        return f"metric signature differs: {base.signature} → {head.signature}"
    if equal and base.value != head.value:
        return f"the predictions are equal, so the code of {name} differs"
    return ""


def _not_restored(name: str, stored: Sequence[Sequence[Figure | None]], figures: FigurePair | None) -> str:
    """Return why the figures do not follow from the stored statistics, or an empty string if they do."""
    if figures is None:
        return f"incomplete run directory: the statistics of one of the runs do not have {name}"
    pairs = zip(chain(*stored), chain(*figures), strict=True)
    if all(_same_value(old, new.figure) for old, new in pairs):
        return ""
    return f"this version of the harness computes a different {name} from the same statistics"


def _recompute(
    baseline: Sequence[Side], run: Sequence[Side], members: Iterable[int] | None = None
) -> dict[tuple[str, str], FigurePair]:
    """Compute the figures of both sides from stored statistics of some samples, by name and signature."""
    figures: dict[tuple[str, str], FigurePair] = {}
    for metric_name in METRICS.entries():
        stored = [[side.read_statistics(metric_name) for side in sides] for sides in (baseline, run)]
        if all(chain(*stored)):
            before, after = (
                [restore(metric_name, arrays).figures(members) for arrays in side] for side in stored
            )
            for name, figure in before[0].items():
                if all(name in training for training in (*before, *after)):  # versions may have others
                    pair = [training[name] for training in before], [training[name] for training in after]
                    figures[name, figure.figure.signature] = pair
    return figures


def _same_value(stored: Figure | None, recomputed: Figure) -> bool:
    """Return whether two values are equal up to rounding, which differs between versions of NumPy."""
    if stored is None or stored.value is None or recomputed.value is None:
        return stored is not None and stored.value == recomputed.value
    return isclose(stored.value, recomputed.value, rel_tol=1e-9, abs_tol=1e-12)


def judge_loss(
    change: Change, figures: FigurePair, rule: GateRule | None, paired_trainings: bool = False
) -> Change:
    """Hold the difference of a figure against the loss that its rule allows, or against 0."""
    base, head = figures
    paired = paired_difference(base, head, paired_trainings)
    estimate, limit, bound = paired.estimate, "", 0.0
    sign = 1.0 if head[0].figure.better == "lower" else -1.0
    if rule and rule.max_drop:
        limit, bound = f"max_drop {rule.max_drop:g}", sign * rule.max_drop
    elif rule and rule.max_relative_drop is not None:
        limit = f"max_relative_drop {rule.max_relative_drop:g}"
        # Against |base|, so that the limit is a loss for negative figures too.
        level = float(np.mean([training.value for training in base]))
        factor = 1 + sign * float(np.sign(level)) * rule.max_relative_drop
        scaled = [training.scaled(factor) for training in base]
        estimate = paired_difference(scaled, head, paired_trainings).estimate
    difference = paired.difference
    change = replace(
        change, base=mean(base), head=mean(head), difference=difference, p_value=paired.p, limit=limit
    )
    if difference.value is None:
        return replace(change, reason="undefined")
    if difference.low == difference.high == 0:
        reason = "the differing predictions do not affect this figure"
        return replace(change, verdict="unchanged", reason=reason)
    return _decided(change, estimate, bound)


def _decided(change: Change, estimate: Estimate | None, bound: float) -> Change:
    """Return the change with the verdict on whether the estimate is on the better side of a bound."""
    if estimate is None:
        return replace(change, verdict="inconclusive", reason=NO_INTERVAL)
    test = bound_test(estimate, bound, (change.head and change.head.better) or "higher")
    return with_decision(replace(change, test=test), decide([test])[0])
