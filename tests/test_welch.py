"""Welch's interval, against SciPy."""

from __future__ import annotations

import pytest
from scipy import stats

from harness.statistics.welch import welch


def test_welchs_interval_equals_scipys() -> None:
    base, head = [1.0, 1.1, 0.9, 1.05], [1.3, 1.0, 1.2]
    expected = stats.ttest_ind(head, base, equal_var=False).confidence_interval(0.95)
    assert welch(base, head) == pytest.approx((expected.low, expected.high))
    assert welch([1.0, 1.0], [2.0, 2.0]) == (1.0, 1.0)
    assert welch([1.0], [2.0, 2.0]) == (None, None)
