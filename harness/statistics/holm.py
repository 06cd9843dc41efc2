"""Holm's step-down correction of several p-values (Holm 1979)."""

from collections.abc import Sequence

import numpy as np


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number; the result is in the order of the input.

    The i-th smallest of m p-values is multiplied by m − i + 1; a running maximum keeps their order, and 1
    is the upper limit (Holm 1979).
    """
    order = np.argsort(p_values, kind="stable")
    factors = len(order) - np.arange(len(order))
    ascending = np.minimum(
        1.0, np.maximum.accumulate(np.asarray(p_values, dtype=np.float64)[order] * factors)
    )
    adjusted = np.empty(len(order))
    adjusted[order] = ascending
    return [float(p) for p in adjusted]
