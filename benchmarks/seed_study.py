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

from harness.errors import UsageError
from harness.metrics.metric import METRICS
from harness.rundir.results import TrialRecord, read_results
from harness.rundir.store import RunDirectory
from harness.stages.score import restore
from harness.statistics.holm import holm
from harness.statistics.jackknife import JackknifedFigure
from harness.statistics.paired import difference, mean
from harness.task import Figure


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
            _print(_recipes(options.run, records, figure), options.scale)


def _recipes(run: Path, records: list[TrialRecord], figure: str) -> dict[str, list[JackknifedFigure]]:
    """Restore the figure of every trial from its sample statistics, grouped by recipe."""
    name = next(n for n in METRICS.entries() if figure in METRICS.get(n).names)
    directory = RunDirectory(run)
    grouped: dict[str, list[JackknifedFigure]] = defaultdict(list)
    for record in records:
        restored = restore(name, directory.trial(record.id).read_statistics(name)).figures()[figure]
        if restored.figure.value is None:
            raise SystemExit(f"{figure} is undefined for {record.variant}")
        grouped[_recipe(record.variant)].append(restored)
    return grouped


def _recipe(variant: str) -> str:
    """Return the variant's name without its seed."""
    return re.sub(r"\[\]$", "", re.sub(r"seed=\d+,?", "", variant))


def _print(recipes: dict[str, list[JackknifedFigure]], decimals: int) -> None:
    form = f".{decimals}f"
    print("| recipe | seeds | mean [95% interval] | sd between seeds | values |")
    print("|---|---|---|---|---|")
    for name, trainings in recipes.items():
        values = [training.value for training in trainings]
        several = len(values) > 1
        sd = format(np.std(values, ddof=1), form) if several else "–"
        interval = f"{_text(mean(trainings), form)}{'' if several else ' of this training'}"
        listed = " · ".join(format(value, form) for value in values)
        print(f"| {name} | {len(values)} | {interval} | {sd} | {listed} |")
    pairs = list(itertools.combinations(recipes, 2))
    if not pairs:
        return
    changes = [difference(recipes[base], recipes[head]) for base, head in pairs]
    has_seeds = [len(recipes[base]) > 1 and len(recipes[head]) > 1 for base, head in pairs]
    tested = [change.p for change, several in zip(changes, has_seeds, strict=True) if several]
    adjusted = iter(holm([p for p in tested if p is not None]))
    print("\n| difference | [95% interval] | p (Holm) | |\n|---|---|---|---|")
    for (base, head), change, several in zip(pairs, changes, has_seeds, strict=True):
        p, verdict = "–", "of these trainings; unknown for other seeds"
        if several:
            value = next(adjusted)
            p, verdict = f"{max(value, 0.001):.3f}", "significant" if value < 0.05 else "not significant"
        print(f"| {head} − {base} | {_text(change.difference, '+' + form)} | {p} | {verdict} |")


def _text(figure: Figure, form: str) -> str:
    return f"{figure.value:{form}} [{figure.low:{form}}, {figure.high:{form}}]"


if __name__ == "__main__":
    main()
