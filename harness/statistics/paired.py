"""Differences of two models on the same samples: three definitions, side by side.

All of them pair the samples: resample r drew the same samples for both models, so that samples that are hard
for both cancel (Efron & Tibshirani 1993, ch. 8; for BLEU Koehn 2004). They differ in the p-value of no
difference and in the sources of uncertainty:

- `difference_with_sign_p` (two runs): the percentile interval; p is twice the fraction of resampled
  differences on the rarer side of 0. It assumes no distribution, and is at least 2/R for R resamples.
- `difference_with_normal_p` (two variants of one run): the same interval; p assumes that the difference is
  normal with the resamples' standard error. It has no lower limit, so it can survive Holm's correction for
  the dozens of pairs that a suite may have.
- `difference_of_trainings` (two recipes, each trained with several seeds): interval and p from Student's t,
  which covers the seeds as well as the samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.statistics.bootstrap import RESAMPLES, ResampledFigure, figure
from harness.statistics.seeds import Estimate, Trainings, t_interval
from harness.task import Figure


@dataclass(frozen=True)
class PairedDifference:
    """head − base of one figure."""

    difference: Figure
    p: float | None
    """Two-sided p-value of no difference; None if it cannot be computed."""


def difference_with_sign_p(base: ResampledFigure, head: ResampledFigure) -> PairedDifference:
    """Return head − base with the percentile interval and the sign p-value of the resampled differences."""
    return PairedDifference(_difference(base, head), sign_p(head.resampled - base.resampled))


def difference_with_normal_p(base: ResampledFigure, head: ResampledFigure) -> PairedDifference:
    """Return head − base with the percentile interval and the normal p-value.

    The standard error is that of the resamples (Efron & Tibshirani 1993, ch. 13). p is None if the difference
    is undefined, or for a single sample.
    """
    value = head.value - base.value
    differences = head.resampled - base.resampled
    defined = differences[~np.isnan(differences)]
    p = None
    if not np.isnan(value) and len(defined) > 1 and base.figure.n > 1:
        _, _, p = t_interval(value, defined, ())
    return PairedDifference(_difference(base, head), p)


def difference_of_trainings(base: Trainings, head: Trainings) -> Estimate:
    """Return head − base, each the mean over its trainings; samples are paired, trainings are not."""
    value = head.values.mean() - base.values.mean()
    resampled = head.resampled.mean(axis=0) - base.resampled.mean(axis=0)
    low, high, p = t_interval(value, resampled, [base, head])
    return Estimate(float(value), low, high, None, p)


def sign_p(differences: NDArray[np.float64]) -> float:
    """Return twice the fraction of resampled differences on the rarer side of 0, at most 1.

    A difference of 0 counts for both sides, and a side counts as at least one resample, so the smallest
    p-value is 2/R. Undefined differences (NaN) are excluded.

    Args:
        differences: [R].
    """
    defined = differences[~np.isnan(differences)]
    rarer = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    return min(1.0, 2 * max(rarer, 1) / max(len(defined), 1))


def _difference(base: ResampledFigure, head: ResampledFigure) -> Figure:
    """Return head − base with the percentile interval of the first RESAMPLES resampled differences.

    The interval is never reflected: the bias of the two models cancels, and reflecting the difference covers
    less (measured by benchmarks/interval_coverage.py).
    """
    template = base.figure
    differences = head.resampled[:RESAMPLES] - base.resampled[:RESAMPLES]
    return figure(head.value - base.value, differences, template.n, template.unit, template.signature)
