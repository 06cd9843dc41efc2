"""Measure how often a 95% bootstrap interval contains the true figure: percentile against basic bounds.

    python benchmarks/interval_coverage.py

The figures of a population of 2,000 synthetic samples per task are the truth; data sets of n samples are
drawn from it with replacement. Two models of each task share the samples, so the interval of their paired
difference is measured as well.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from numpy.typing import NDArray

from harness.metrics.average_precision import Coco, Voc07, Voc10
from harness.metrics.bleu import Bleu, Chrf
from harness.metrics.iou import Iou
from harness.metrics.metric import AnyMetric
from harness.statistics.bootstrap import LEVELS, reflect
from harness.task import Annotations, Detections, Translation

POPULATION = 2000
METHODS = ("percentile", "basic")
CLASSES = ("a", "b", "c", "d")
ERRORS = (0.08, 0.10)  # error of each of the two models
Pair: TypeAlias = tuple[list[Any], list[Any]]
"""The statistics of the population for each of the two models."""


def detection(metric: AnyMetric, generator: np.random.Generator, false_positives: int) -> Pair:
    """Make images of unequal difficulty: 1–6 objects, most found with some error, and false positives."""
    pair: Pair = ([], [])
    for _ in range(POPULATION):
        count = int(generator.integers(1, 7))
        corners = generator.uniform(0, 400, (count, 2))
        sides = np.exp(generator.uniform(2.5, 5.5, (count, 2)))
        labels = generator.integers(0, len(CLASSES), count)
        target = Annotations.of_boxes(np.concatenate([corners, corners + sides], axis=1), labels)
        hardness = generator.gamma(4, 1 / 4)
        is_found = generator.random(count) < 0.9 ** (3 * hardness)
        false = generator.uniform(0, 400, (int(generator.poisson(false_positives)), 2))
        noise = generator.normal(0, 1, (count, 4)) * np.tile(sides, 2)
        for statistics, error in zip(pair, ERRORS, strict=True):
            boxes = target.boxes + noise * error * hardness
            boxes = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:] - 1), boxes[:, 2:]], axis=1)[
                is_found
            ]
            detected = Detections(
                np.concatenate([boxes, np.concatenate([false, false + 60], axis=1)]),
                np.append(generator.beta(4, 2, len(boxes)), generator.beta(2, 4, len(false))),
                np.append(labels[is_found], generator.integers(0, len(CLASSES), len(false))),
            )
            statistics.append(metric.statistics(target, detected))
    return pair


def segmentation(metric: AnyMetric, generator: np.random.Generator) -> Pair:
    """Make images of 12×12 pixels in patches, with a varying fraction of wrong pixels."""
    pair: Pair = ([], [])
    for _ in range(POPULATION):
        patches = generator.choice(len(CLASSES), (3, 3), p=[0.6, 0.25, 0.1, 0.05]).astype(np.uint8)
        target = np.kron(patches, np.ones((4, 4), np.uint8))
        fraction, luck = generator.beta(1, 4), generator.random(target.shape)
        guess = generator.integers(0, len(CLASSES), target.shape, np.uint8)
        for statistics, error in zip(pair, ERRORS, strict=True):
            statistics.append(metric.statistics(target, np.where(luck < fraction + error, guess, target)))
    return pair


def translation(metric: AnyMetric, generator: np.random.Generator) -> Pair:
    """Make sentences of 5–25 words, with a varying fraction of wrong words."""
    words = np.array([f"w{number}" for number in range(300)])
    pair: Pair = ([], [])
    for _ in range(POPULATION):
        length = int(generator.integers(5, 26))
        drawn, other = words[generator.zipf(1.3, (2, length)) % len(words)]
        fraction, luck = generator.beta(1, 3), generator.random(length)
        for statistics, error in zip(pair, ERRORS, strict=True):
            text = " ".join(np.where(luck < fraction + error, other, drawn))
            statistics.append(metric.statistics((" ".join(drawn),), Translation(text)))
    return pair


def figures(metric: AnyMetric, statistics: Sequence[Any]) -> NDArray[np.float64]:
    """Return the values in order of the metric's names; NaN where undefined."""
    scores = metric.summarise(statistics, resamples=0).metrics
    return np.array([scores[name].value for name in metric.names], dtype=np.float64)


def coverage(metric: AnyMetric, population: Pair, n: int, repetitions: int, resamples: int) -> None:
    """Print the fraction of data sets whose interval contains the truth, by figure and method.

    Single figures come first, then differences.
    """
    truths = [figures(metric, side) for side in population]
    hits = np.zeros((len(metric.names), len(METHODS), 2))
    attempts = np.zeros((len(metric.names), 1, 2))
    generator = np.random.default_rng(n)
    for seed in range(repetitions):
        drawn = generator.integers(0, POPULATION, n)
        sides = [[statistics[index] for index in drawn] for statistics in population]
        values = [figures(metric, side) for side in sides]
        resampled = [metric.resample(side, resamples, seed) for side in sides]
        for row, name in enumerate(metric.names):
            single = (truths[1][row], values[1][row], resampled[1][name])
            difference = (
                truths[1][row] - truths[0][row],
                values[1][row] - values[0][row],
                resampled[1][name] - resampled[0][name],
            )
            for column_group, (truth, value, spread) in enumerate((single, difference)):
                if np.isnan(value) or np.isnan(truth):
                    continue
                attempts[row, 0, column_group] += 1
                interval = np.percentile(spread[~np.isnan(spread)], LEVELS)
                for column, method in enumerate(METHODS):
                    low, high = interval if method == "percentile" else reflect(value, *interval)
                    hits[row, column, column_group] += low <= truth <= high
    shares = 100 * hits / np.maximum(attempts, 1)
    for row, name in enumerate(metric.names):
        cells = "".join(f"{share:8.1f}" for share in shares[row].T.ravel())
        print(f"{type(metric).__name__:6} {name:24} {n:4} {truths[1][row]:8.3f}{cells}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=300)
    parser.add_argument("--resamples", type=int, default=300)
    parser.add_argument("--samples", type=int, nargs="+", default=[50, 200])
    arguments = parser.parse_args()
    heads = "".join(f"{method[:7]:>8}" for method in METHODS)
    print(f"coverage in %                        n    truth{heads}{heads}   (figure; paired difference)")
    few, many = partial(detection, false_positives=2), partial(detection, false_positives=10)
    for metric, world in (
        (Coco(CLASSES), few),
        (Coco(CLASSES), many),
        (Voc07(CLASSES), few),
        (Voc07(CLASSES), many),
        (Voc10(CLASSES), few),
        (Voc10(CLASSES), many),
        (Iou(CLASSES), segmentation),
        (Bleu(), translation),
        (Chrf(), translation),
    ):
        population = world(metric, np.random.default_rng(0))
        for n in arguments.samples:
            coverage(metric, population, n, arguments.repetitions, arguments.resamples)


if __name__ == "__main__":
    main()
