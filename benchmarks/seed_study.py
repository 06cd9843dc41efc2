"""Compare recipes that were trained with several seeds, from a run directory, and print Markdown.

    harness run strides
    python benchmarks/seed_study.py runs/strides --figure miou --figure boundary_iou

Trials that differ only in `seed` belong to one recipe. Each recipe is compared with every other: the samples
are paired, the trainings are not, and the p-values are corrected by Holm's method over all pairs of a figure.
A recipe that was trained once has an interval over samples only and no p-value, because its spread between
seeds is unknown.
"""

from __future__ import annotations

import argparse
import itertools
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.errors import UsageError
from harness.metrics.metric import METRICS, AnyMetric
from harness.rundir.results import TrialRecord, read_results
from harness.rundir.store import RunDirectory
from harness.stages.score import make_metrics, sample_statistics
from harness.statistics.holm import holm
from harness.statistics.paired import difference_of_trainings
from harness.statistics.seeds import Trainings, mean
from harness.trial import DatasetUse


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--figure", action="append", required=True, help="such as miou or bleu; repeatable")
    parser.add_argument("--scale", type=int, default=3, help="decimals")
    options = parser.parse_args()
    benchmarks: dict[str, list[TrialRecord]] = defaultdict(list)
    try:
        results = read_results(options.run)
    except UsageError as error:
        parser.error(str(error))
    for record in results.trials:
        if record.status == "complete":
            benchmarks[record.benchmark].append(record)
    for benchmark, records in benchmarks.items():
        for figure in options.figure:
            print(f"\n**{benchmark}, {figure}** (n = {records[0].dataset.size} samples)\n")
            _print(_trainings(options.run, records, figure), options.scale)


def _trainings(run: Path, records: list[TrialRecord], figure: str) -> list[Trainings]:
    """Recompute the figure of every trial with its resamples, grouped by recipe."""
    first = records[0]
    use = DatasetUse(first.dataset.name, first.dataset.options, first.dataset.split, first.task)
    dataset = use.open()
    if dataset.fingerprint != first.dataset.fingerprint:
        raise SystemExit(f"{run}: made from data that differs from this machine's '{use.name}'")
    name = next(n for n in METRICS.entries() if figure in METRICS.get(n).names)
    (metric,) = make_metrics([name], dataset)
    directory = RunDirectory(run)
    predictions = [directory.trial(record.id).predictions.read(record.task) for record in records]
    statistics = sample_statistics(dataset, first.dataset.size, predictions, [metric])
    grouped: dict[str, list[tuple[float, NDArray[np.float64]]]] = defaultdict(list)
    for record, (collected,) in zip(records, statistics, strict=True):
        grouped[_recipe(record.variant)].append(_figure(metric, collected, figure))
    return [
        Trainings(recipe, np.array([value for value, _ in figures]), np.stack([r for _, r in figures]))
        for recipe, figures in grouped.items()
    ]


def _figure(metric: AnyMetric, statistics: list[object], figure: str) -> tuple[float, NDArray[np.float64]]:
    value = metric.summarise(statistics, resamples=0).metrics[figure].value
    if value is None:
        raise SystemExit(f"{figure} is undefined for one of the trials")
    return value, metric.resample(statistics)[figure]


def _recipe(variant: str) -> str:
    """Return the variant's name without its seed."""
    return re.sub(r"\[\]$", "", re.sub(r"seed=\d+,?", "", variant))


def _print(recipes: list[Trainings], decimals: int) -> None:
    form = f".{decimals}f"
    print("| recipe | seeds | mean [95% interval] | sd between seeds | values |")
    print("|---|---|---|---|---|")
    for trainings in recipes:
        estimate = mean(trainings)
        sd = "–" if estimate.seed_sd is None else format(estimate.seed_sd, form)
        values = " · ".join(format(value, form) for value in trainings.values)
        interval = f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"
        scope = " of this training" if estimate.seed_sd is None else ""
        print(f"| {trainings.name} | {len(trainings.values)} | {interval}{scope} | {sd} | {values} |")
    pairs = list(itertools.combinations(recipes, 2))
    if not pairs:
        return
    differences = [difference_of_trainings(base, head) for base, head in pairs]
    between = [base.seed_variance is not None and head.seed_variance is not None for base, head in pairs]
    tested = [estimate.p for estimate, has_seeds in zip(differences, between, strict=True) if has_seeds]
    adjusted = iter(holm([p for p in tested if p is not None]))
    print("\n| difference | [95% interval] | p (Holm) | |\n|---|---|---|---|")
    for (base, head), estimate, has_seeds in zip(pairs, differences, between, strict=True):
        interval = f"{estimate.value:+{form}} [{estimate.low:+{form}}, {estimate.high:+{form}}]"
        p, verdict = "–", "of these trainings; unknown for other seeds"
        if has_seeds:
            value = next(adjusted)
            p, verdict = f"{max(value, 0.001):.3f}", "significant" if value < 0.05 else "not significant"
        print(f"| {head.name} − {base.name} | {interval} | {p} | {verdict} |")


if __name__ == "__main__":
    main()
