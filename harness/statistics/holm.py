"""Holm's step-down correction of several p-values (Holm 1979)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number, in their order (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    factors = len(order) - np.arange(len(order))
    adjusted = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values, dtype=np.float64)[order] * factors))
    found = np.empty(len(order))
    found[order] = adjusted
    return [float(p) for p in found]
