"""Models trained several times: figures and differences that hold for the recipe, not for one training.

Two things make a figure of a recipe uncertain: which samples the test split happens to hold, and which
seed a training had. The first is known from paired bootstrap resamples, the second from the spread of
K trainings; their variances add up. With few seeds the second dominates the doubt, so that intervals take
Student's t with Welch and Satterthwaite's degrees of freedom (Welch 1947).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit  # scipy.stats takes 1.5 s to import


@dataclass(frozen=True, eq=False)
class Trainings:
    """One recipe's trainings on the same samples."""

    name: str
    values: NDArray[np.float64]  # [K], the figure of each training
    resampled: NDArray[np.float64]  # [K, R], of every resample; the same R resamples for all recipes

    @property
    def seed_variance(self) -> float | None:
        """Of the mean over trainings, from their spread; None for one training: its spread is not known."""
        k = len(self.values)
        return float(np.var(self.values, ddof=1) / k) if k > 1 else None


@dataclass(frozen=True)
class Estimate:
    """A mean over trainings, or a difference of two, with its 95% interval.

    Where a recipe was trained once, interval and p-value hold the doubt of the samples alone: they are of
    that training, and nothing is known of another seed.
    """

    value: float
    low: float
    high: float
    seed_sd: float | None
    """Standard deviation between trainings; None for a difference, and for one training."""
    p: float | None
    """Two-sided, of no difference; None for a mean."""


def mean(trainings: Trainings) -> Estimate:
    """The figure that the recipe gives on average."""
    k = len(trainings.values)
    low, high, _ = _interval(trainings.values.mean(), trainings.resampled.mean(axis=0), [trainings])
    sd = float(np.std(trainings.values, ddof=1)) if k > 1 else None
    return Estimate(float(trainings.values.mean()), low, high, sd, None)


def difference(base: Trainings, head: Trainings) -> Estimate:
    """head − base, each the mean over its trainings; samples are paired, trainings are not."""
    value = head.values.mean() - base.values.mean()
    resampled = head.resampled.mean(axis=0) - base.resampled.mean(axis=0)
    low, high, p = _interval(value, resampled, [base, head])
    return Estimate(float(value), low, high, None, p)


def _interval(
    value: float, resampled: NDArray[np.float64], sides: Sequence[Trainings]
) -> tuple[float, float, float]:
    """Low, high and the p-value of 0."""
    of_samples = float(np.var(resampled, ddof=1))
    of_seeds = [side.seed_variance or 0.0 for side in sides]
    error = float(np.sqrt(of_samples + sum(of_seeds)))
    if error == 0:
        return float(value), float(value), float(value == 0)
    spread = sum(v**2 / (len(side.values) - 1) for v, side in zip(of_seeds, sides, strict=True) if v > 0)
    freedom = error**4 / spread if spread else np.inf
    reach = float(stdtrit(freedom, 0.975)) * error
    return float(value) - reach, float(value) + reach, float(2 * stdtr(freedom, -abs(value) / error))
