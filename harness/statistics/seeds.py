"""Models trained several times: the figure of a recipe rather than of one training.

A recipe's figure is uncertain for two reasons: the samples of the test split are random, and so are the seeds
of trainings. The first is estimated by the bootstrap over samples, the second by the spread of K trainings;
their variances add up. With few seeds, the second variance dominates, so intervals use Student's t with Welch
and Satterthwaite's degrees of freedom (Welch 1947).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit  # scipy.stats takes 1.5 s to import


@dataclass(frozen=True, eq=False)
class Trainings:
    """One recipe's trainings, evaluated on the same samples."""

    name: str
    values: NDArray[np.float64]  # [K], the figure of each training
    # [K, R], the figure of each training in each resample; the same R resamples for all recipes
    resampled: NDArray[np.float64]

    @property
    def seed_variance(self) -> float | None:
        """Return the variance of the mean over trainings, from their spread; None for a single training."""
        k = len(self.values)
        return float(np.var(self.values, ddof=1) / k) if k > 1 else None


@dataclass(frozen=True)
class Estimate:
    """A mean over trainings, or a difference of two means, with its 95% interval.

    For a recipe that was trained once, interval and p-value cover only the uncertainty of the samples. They
    apply to that training; another seed may give another figure.
    """

    value: float
    low: float
    high: float
    seed_sd: float | None
    """Standard deviation between trainings; None for a difference, and for one training."""
    p: float | None
    """Two-sided p-value of no difference; None for a mean."""


def mean(trainings: Trainings) -> Estimate:
    """Estimate the average figure of the recipe."""
    k = len(trainings.values)
    low, high, _ = t_interval(trainings.values.mean(), trainings.resampled.mean(axis=0), [trainings])
    sd = float(np.std(trainings.values, ddof=1)) if k > 1 else None
    return Estimate(float(trainings.values.mean()), low, high, sd, None)


def t_interval(
    value: float, resampled: NDArray[np.float64], trainings: Sequence[Trainings]
) -> tuple[float, float, float]:
    """Return the 95% bounds of a value, and the two-sided p-value of 0.

    The standard error adds the variance over resamples to the variance over seeds. Without a variance over
    seeds, Student's t is the normal distribution.

    Args:
        resampled: [R], the value in each resample.
        trainings: the trainings whose means the value combines; recipes with a single seed add no variance.
    """
    sample_variance = float(np.var(resampled, ddof=1))
    seed_variances = [recipe.seed_variance or 0.0 for recipe in trainings]
    error = float(np.sqrt(sample_variance + sum(seed_variances)))
    if error == 0:
        return float(value), float(value), float(value == 0)
    spread = sum(
        variance**2 / (len(recipe.values) - 1)
        for variance, recipe in zip(seed_variances, trainings, strict=True)
        if variance > 0
    )
    freedom = error**4 / spread if spread else np.inf
    margin = float(stdtrit(freedom, 0.975)) * error
    return float(value) - margin, float(value) + margin, float(2 * stdtr(freedom, -abs(value) / error))
