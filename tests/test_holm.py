"""Holm's correction, against a published example and the closure of Bonferroni's test."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.statistics.holm import holm


def test_holm_equals_the_published_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


@given(st.lists(st.floats(0.0001, 1), max_size=6))
def test_holm_is_the_closure_of_bonferronis_test(p_values: list[float]) -> None:
    """Marcus, Peritz & Gabriel 1976: reject a hypothesis if Bonferroni rejects every set that contains it."""
    sets = [s for n in range(1, len(p_values) + 1) for s in combinations(range(len(p_values)), n)]
    closure = [
        max(min(1.0, len(chosen) * min(p_values[j] for j in chosen)) for chosen in sets if i in chosen)
        for i in range(len(p_values))
    ]
    assert holm(p_values) == pytest.approx(closure)
