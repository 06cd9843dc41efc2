"""The sign p-value of a paired difference, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from harness.statistics.paired import sign_p


def test_the_sign_p_value_is_twice_the_smaller_share() -> None:
    assert sign_p(np.array([-1.0] * 97 + [1.0] * 3)) == pytest.approx(0.06)
    assert sign_p(np.full(1000, -1.0)) == 0.002
    assert sign_p(np.zeros(10)) == 1.0
    assert sign_p(np.array([np.nan, np.nan])) == 1.0
