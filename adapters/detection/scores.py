"""Scores that can be compared, and offsets that give boxes."""

from __future__ import annotations

from torch import Tensor

from harness.errors import UsageError


def known(scores: Tensor) -> Tensor:
    """The same scores.

    Raises:
        UsageError: one is NaN, as when numbers grow beyond what the precision holds. No comparison with NaN
            is true: the model would seem to have found nothing.
    """
    if bool(scores.isnan().any()):
        raise UsageError("the model's scores are NaN: its weights are bad, or too large for the precision")
    return scores


def finite(offsets: Tensor) -> Tensor:
    """The same box offsets.

    Raises:
        UsageError: one is NaN or infinite: its box would be dropped as too small, or have no area.
    """
    if not bool(offsets.isfinite().all()):
        raise UsageError(
            "the model's box offsets are NaN or infinite: its weights are bad, or too large for the precision"
        )
    return offsets
