"""Measure how often a 95% interval contains the true figure, and how often equal models are called different.

    python benchmarks/interval_coverage.py                    all tables, about 10 minutes
    python benchmarks/interval_coverage.py --only translation

The figures of a population of synthetic samples are the truth; data sets of n samples are drawn from it with
replacement. Two models of each task share the samples, so the interval of their paired difference is measured
as well. Data sets in which fewer than 10 samples carry a class, which a figure's note then says, are counted
apart.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any, TypeAlias

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

from harness.metrics.average_precision import Coco, Voc07, Voc10
from harness.metrics.bleu import Bleu, Chrf
from harness.metrics.iou import Iou
from harness.metrics.metric import AnyMetric
from harness.statistics.holm import holm
from harness.statistics.paired import difference
from harness.task import Annotations, Detections, TaskName, Translation

POPULATION = 2000
CLASSES = ("background", "b", "c", "d", "e", "f")
SHARES = (0.55, 0.22, 0.11, 0.06, 0.04, 0.02)  # of the objects or patches, by class
ERRORS = (0.08, 0.10)  # error of each of the two models
EQUAL = (0.09, 0.09)
TRIALS = 12  # per suite of equal models
WORDS = np.array([f"w{number}" for number in range(300)])
METRICS: dict[TaskName, tuple[AnyMetric, ...]] = {
    "segmentation": (Iou(CLASSES),),
    "translation": (Bleu(), Chrf()),
    "detection": (Voc10(CLASSES), Voc07(CLASSES), Coco(CLASSES)),
}
Population: TypeAlias = tuple[list[Any], list[Any]]
"""The statistics of the samples for each of the two models."""


def samples(task: TaskName, metric: AnyMetric, errors: tuple[float, float]) -> Population:
    """Make a population of a task."""
    make = {"detection": detection, "segmentation": segmentation, "translation": translation}[task]
    generator = np.random.default_rng(0)
    rows = [make(metric, generator, errors) for _ in range(POPULATION)]
    return [row[0] for row in rows], [row[1] for row in rows]


def detection(metric: AnyMetric, generator: np.random.Generator, errors: tuple[float, float]) -> list[Any]:
    """Make an image of random difficulty: 1–6 objects, most found with some error, and false positives."""
    count = int(generator.integers(1, 7))
    corners = generator.uniform(0, 400, (count, 2))
    sides = np.exp(generator.uniform(2.5, 5.5, (count, 2)))
    labels = generator.choice(len(CLASSES), count, p=SHARES)
    target = Annotations.of_boxes(np.concatenate([corners, corners + sides], axis=1), labels)
    hardness = generator.gamma(4, 1 / 4)
    is_found = generator.random(count) < 0.9 ** (3 * hardness)
    statistics = []
    for error in errors:
        noise = generator.normal(0, 1, (count, 4)) * np.tile(sides, 2)
        boxes = (target.boxes + noise * error * hardness)[is_found]
        boxes[:, :2] = np.minimum(boxes[:, :2], boxes[:, 2:] - 1)
        false = generator.uniform(0, 400, (int(generator.poisson(4)), 2))
        detected = Detections(
            np.concatenate([boxes, np.concatenate([false, false + 60], axis=1)]).astype(np.float32),
            np.append(generator.beta(4, 2, len(boxes)), generator.beta(2, 4, len(false))).astype(np.float32),
            np.append(labels[is_found], generator.choice(len(CLASSES), len(false), p=SHARES)),
        )
        statistics.append(metric.statistics(target, detected))
    return statistics


def segmentation(metric: AnyMetric, generator: np.random.Generator, errors: tuple[float, float]) -> list[Any]:
    """Make an image of 12×12 pixels in patches, with a varying fraction of wrong pixels."""
    patches = generator.choice(len(CLASSES), (3, 3), p=SHARES).astype(np.uint8)
    target = np.kron(patches, np.ones((4, 4), np.uint8))
    fraction = generator.beta(1, 4)
    guesses = generator.integers(0, len(CLASSES), (2, *target.shape), np.uint8)
    return [
        metric.statistics(target, np.where(generator.random(target.shape) < fraction + error, guess, target))
        for error, guess in zip(errors, guesses, strict=True)
    ]


def translation(metric: AnyMetric, generator: np.random.Generator, errors: tuple[float, float]) -> list[Any]:
    """Make a sentence of log-normal length, with a varying fraction of wrong words."""
    length = max(2, int(generator.lognormal(2.8, 0.6)))
    words, *others = WORDS[generator.zipf(1.3, (3, length)) % len(WORDS)]
    fraction = generator.beta(1, 3)
    return [
        metric.statistics(
            (" ".join(words),),
            Translation(" ".join(np.where(generator.random(length) < fraction + error, other, words))),
        )
        for error, other in zip(errors, others, strict=True)
    ]


def draw(population: Population, generator: np.random.Generator, n: int) -> list[list[Any]]:
    """Draw the statistics of the same n samples for both models."""
    chosen = generator.integers(0, len(population[0]), n)
    return [[statistics[index] for index in chosen] for statistics in population]


def coverage(task: TaskName, metric: AnyMetric, n: int, repetitions: int) -> None:
    """Print the share of data sets whose interval contains the truth, by figure."""
    population = samples(task, metric, ERRORS)
    truths = [metric.summarise(side, intervals=False).metrics for side in population]
    hits: dict[tuple[str, bool, str], list[bool]] = {}
    generator = np.random.default_rng(n)
    for _ in range(repetitions):
        base, head = (metric.jackknife(side) for side in draw(population, generator, n))
        for name in metric.names:
            truth, other = truths[1][name].value, truths[0][name].value
            if truth is None or other is None:
                continue
            change = difference([base[name]], [head[name]]).difference
            noted = head[name].figure.note is not None
            for kind, figure, true in (
                ("figure", head[name].figure, truth),
                ("change", change, truth - other),
            ):
                if figure.low is not None and figure.high is not None:
                    hits.setdefault((name, noted, kind), []).append(figure.low <= true <= figure.high)
    for name in metric.names:
        cells = [
            share(hits.get((name, noted, kind), []))
            for noted in (False, True)
            for kind in ("figure", "change")
        ]
        if any(cell != "–" for cell in cells):
            print(f"| `{type(metric).__name__.lower()}` {name} | {n} | {' | '.join(cells)} |", flush=True)


def share(hits: Sequence[bool]) -> str:
    """Return the share of hits in % and their number; a dash if there are fewer than 50."""
    return f"{100 * np.mean(hits):.1f} ({len(hits)})" if len(hits) >= 50 else "–"


def family(task: TaskName, metric: AnyMetric, n: int, suites: int) -> None:
    """Print how many suites of TRIALS equal models, corrected by Holm's method, are called changed."""
    first, second = samples(task, metric, EQUAL)
    population = first + second, second + first  # exactly equal figures
    headline = metric.names[0]
    generator = np.random.default_rng(n)
    called = 0
    for _ in range(suites):
        p_values = []
        for _ in range(TRIALS):
            sides = draw(population, generator, n)
            base, head = (metric.jackknife(side)[headline] for side in sides)
            p_values.append(difference([base], [head]).p or 1.0)
        called += min(holm(p_values)) <= 0.05
    print(
        f"| `{type(metric).__name__.lower()}` {headline} | {n} | {called / suites:.1%} of {suites:,} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=METRICS, help="one task")
    parser.add_argument("--repetitions", type=int, default=400)
    parser.add_argument("--samples", type=int, nargs="+", default=[50, 100, 300, 1000])
    options = parser.parse_args()
    tasks = [options.only] if options.only else list(METRICS)
    print("| figure | n | figure, % | difference, % | figure with a note, % | difference, % |")
    print("|---|---|---|---|---|---|")
    for task in tasks:
        for metric in METRICS[task]:
            for n in options.samples:
                coverage(task, metric, n, options.repetitions)
    print("\n| equal models | n | suites called changed |\n|---|---|---|")
    for task in tasks:
        for metric in METRICS[task][:1]:
            family(task, metric, 300, options.repetitions)


if __name__ == "__main__":
    main()
