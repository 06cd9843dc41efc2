"""Welch's interval of a difference of two means (Welch 1947)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit


def welch(base: ArrayLike, head: ArrayLike, confidence: float = 0.95) -> tuple[float | None, float | None]:
    """95% interval of mean(head) − mean(base) for unequal variances (Welch 1947); None for a single value."""
    values = [np.asarray(side, dtype=np.float64) for side in (base, head)]
    sizes = np.array([len(side) for side in values])
    if sizes.min() < 2:
        return None, None
    difference = values[1].mean() - values[0].mean()
    squared = np.array([side.var(ddof=1) for side in values]) / sizes  # squared standard errors
    if squared.sum() == 0:
        return float(difference), float(difference)
    freedom = squared.sum() ** 2 / (squared**2 / (sizes - 1)).sum()
    margin = stdtrit(freedom, (1 + confidence) / 2) * np.sqrt(squared.sum())
    return float(difference - margin), float(difference + margin)
