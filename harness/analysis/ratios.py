"""Ratios of sums over samples, each with its interval."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness.statistics.jackknife import COUNT_GROUPS, figure, leave_out_groups, leave_out_sums
from harness.task import Figure

Counts: TypeAlias = NDArray[np.bool_] | NDArray[np.int64] | NDArray[np.float64]


def ratios(parts: Counts, wholes: Counts, signature: str, unit: str = "fraction") -> list[Figure]:
    """Compute Σ parts / Σ wholes over samples, for each of k columns; undefined if the denominator is 0.

    Args:
        parts, wholes: [n, k], additive counts per sample.
    """
    n, columns = parts.shape
    counts = np.concatenate([parts, wholes], axis=1).astype(np.int64)
    sums = leave_out_sums(counts, leave_out_groups(n, COUNT_GROUPS))
    part, whole = sums[:, :columns], sums[:, columns:]
    values = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    bounds = (0.0, 1.0 if unit == "fraction" else np.inf)
    return [figure(column, n, unit, signature, bounds) for column in values.T]
