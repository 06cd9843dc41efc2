"""Scores that can be compared."""

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
