"""Ratios of sums over samples, each with its bootstrap interval."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness.statistics.bootstrap import RESAMPLES, SEED, figure, resample_sums
from harness.task import Figure

Counts: TypeAlias = NDArray[np.bool_] | NDArray[np.int64] | NDArray[np.float64]


def ratios(parts: Counts, wholes: Counts, signature: str, unit: str = "fraction") -> list[Figure]:
    """Compute Σ parts / Σ wholes over samples, for each of k columns; undefined if the denominator is 0.

    Args:
        parts, wholes: [n, k], additive counts per sample.
    """
    n, columns = parts.shape
    counts = np.concatenate([parts, wholes], axis=1).astype(np.int64)
    values = _quotient(counts.sum(axis=0, keepdims=True), columns)[0]
    resampled = _quotient(resample_sums(counts, RESAMPLES if n else 0, SEED), columns)
    return [
        figure(float(value), column, n, unit, signature)
        for value, column in zip(values, resampled.T, strict=True)
    ]


def _quotient(sums: NDArray[np.int64] | NDArray[np.float64], columns: int) -> NDArray[np.float64]:
    """Divide the first half of the columns [R, 2k] by the second: [R, k]; NaN if the denominator is 0."""
    part, whole = sums[:, :columns], sums[:, columns:]
    quotient: NDArray[np.float64] = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return quotient
