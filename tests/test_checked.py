"""The checks of argument types at the Python interface."""

import pytest

from harness.errors import UsageError, checked


@checked
def interval(confidence: float, resamples: int | None = None) -> float:
    return confidence * (resamples or 1)


def test_an_int_is_accepted_for_a_float() -> None:
    assert interval(1) == 1
    assert interval(confidence=0.5, resamples=2) == 1


@pytest.mark.parametrize("value", [True, "0.9", None])
def test_anything_else_is_refused_for_a_float(value: object) -> None:
    with pytest.raises(UsageError, match="confidence: expected float, found"):
        interval(value)  # type: ignore[arg-type]


def test_a_float_or_a_bool_is_refused_for_an_int() -> None:
    for value in (1.0, True):
        with pytest.raises(UsageError, match="resamples: expected int or None, found"):
            interval(0.9, value)  # type: ignore[arg-type]
