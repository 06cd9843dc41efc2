"""A check of a detector's raw outputs before boxes and scores are computed from them."""

import torch
from torch import Tensor

from harness.errors import UsageError


def check_finite(*outputs: Tensor) -> None:
    """Check raw outputs before softmax, sigmoid or clipping can hide NaN and infinite values.

    A NaN score would be 0 or fail every comparison, and a NaN box would have no area: the model would seem to
    have detected nothing.

    Raises:
        UsageError: an output is NaN or infinite, for example because values overflow the precision.
    """
    # minimum and maximum propagate NaN; for SSD's logits they take a fifth of the time of isnan (measured)
    extremes = [extreme.float() for output in outputs if output.numel() for extreme in output.aminmax()]
    if extremes and not bool(torch.stack(extremes).isfinite().all()):
        raise UsageError(
            "the model's outputs are NaN or infinite: its weights are bad, or too large for the precision"
        )
