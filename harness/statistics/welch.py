"""Welch's interval for a difference of two means (Welch 1947)."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit


def welch(base: ArrayLike, head: ArrayLike, confidence: float = 0.95) -> tuple[float | None, float | None]:
    """Return Welch's t interval of mean(head) − mean(base), which allows unequal variances.

    The degrees of freedom are Welch and Satterthwaite's (Welch 1947). Both bounds are None if a side has a
    single value, and both are the difference itself if neither side varies.

    Args:
        base, head: the measurements, one-dimensional and at least one per side.
        confidence: 0–1, two-sided.
    """
    values = [np.asarray(side, dtype=np.float64) for side in (base, head)]
    sizes = np.array([len(side) for side in values])
    if sizes.min() < 2:
        return None, None
    difference = values[1].mean() - values[0].mean()
    squared_errors = np.array([side.var(ddof=1) for side in values]) / sizes
    if squared_errors.sum() == 0:
        return float(difference), float(difference)
    freedom = squared_errors.sum() ** 2 / (squared_errors**2 / (sizes - 1)).sum()
    margin = stdtrit(freedom, (1 + confidence) / 2) * np.sqrt(squared_errors.sum())
    return float(difference - margin), float(difference + margin)
