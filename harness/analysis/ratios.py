"""Ratios of sums over samples, each with its bootstrap interval."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.metrics.metric import RESAMPLES, SEED
from harness.statistics.bootstrap import figure, resample_sums
from harness.task import Figure


def ratios(parts: NDArray[Any], wholes: NDArray[Any], signature: str, unit: str = "fraction") -> list[Figure]:
    """Σ parts / Σ wholes over samples of each of k columns, undefined where the denominator is 0.

    Args:
        parts, wholes: [n, k], additive counts of each sample.
    """
    n, columns = parts.shape
    counts = np.concatenate([parts, wholes], axis=1).astype(np.int64)
    values = _quotient(counts.sum(axis=0, keepdims=True), columns)[0]
    resampled = _quotient(resample_sums(counts, RESAMPLES if n else 0, SEED), columns)
    return [
        figure(float(value), column, n, unit, signature)
        for value, column in zip(values, resampled.T, strict=True)
    ]


def _quotient(sums: NDArray[Any], columns: int) -> NDArray[np.float64]:
    """[R, 2k] → [R, k]."""
    part, whole = sums[:, :columns], sums[:, columns:]
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
