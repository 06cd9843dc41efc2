"""Outputs of a network that boxes and scores can be read from."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.errors import UsageError


def check_finite(*outputs: Tensor) -> None:
    """Refuse raw outputs, before softmax, sigmoid or a limit hides what they are.

    Raises:
        UsageError: one is NaN or infinite, as when numbers grow beyond what the precision holds. Its score
            would be 0 or compare with nothing, its box have no area: the model would seem to have found
            nothing.
    """
    # extremes pass NaN on; of SSD's logits they take a fifth of the time of isnan (measured)
    extremes = [value.float() for one in outputs if one.numel() for value in one.aminmax()]
    if extremes and not bool(torch.stack(extremes).isfinite().all()):
        raise UsageError(
            "the model's outputs are NaN or infinite: its weights are bad, or too large for the precision"
        )
