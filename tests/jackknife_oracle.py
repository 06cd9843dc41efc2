"""The jackknife's interval as Tukey (1958) introduced it: a t interval over pseudo-values, by SciPy."""

from collections.abc import Sequence

import numpy as np
from scipy import stats


def jackknife_interval(
    value: float, without_each: Sequence[float], largest: float = 1
) -> tuple[float, float]:
    """Return the 95% bounds, within 0 and `largest`, of a value, given what it is without each sample.

    Sample i's pseudo-value is n · value − (n − 1) · value without i. The standard error is that of their
    mean, and the bias is the distance of their mean from the value.
    """
    n = len(without_each)
    pseudo_values = n * value - (n - 1) * np.array(without_each, dtype=float)
    error = np.hypot(stats.sem(pseudo_values), pseudo_values.mean() - value)
    low, high = stats.t.interval(0.95, n - 1, loc=value, scale=error)
    return max(0, low), min(largest, high)
