"""The probe of segmentation networks: the size of the region that decides the class of a pixel."""

from collections.abc import Callable

import torch
from torch import Tensor

from harness.errors import UsageError

INPUTS = 4  # random pictures: with a single one, max pooling and ReLU pass no gradient at some border pixels
FIRST_SIDE, LARGEST_SIDE = 128, 1024  # px


def receptive_field(scores: Callable[[Tensor], Tensor], device: str) -> int:
    """Return the height in px of the region on which the scores of the central pixel depend.

    The region is that of non-zero gradients on random pictures, which are doubled in size until it ends
    before their border.

    Args:
        scores: Maps pictures [N, 3, H, W] to scores [N, C, H, W].

    Raises:
        UsageError: The region is larger than LARGEST_SIDE, for example the whole picture.
    """
    side = FIRST_SIDE
    while side <= LARGEST_SIDE:
        rows = _rows(scores, side, device)
        if not len(rows):
            raise UsageError("the scores of the central pixel depend on no pixel")
        first, last = int(rows.min()), int(rows.max())
        if first > 0 and last < side - 1:
            return last - first + 1
        side *= 2
    raise UsageError(f"the receptive field is not within {LARGEST_SIDE} px")


def _rows(scores: Callable[[Tensor], Tensor], side: int, device: str) -> Tensor:
    """Return the numbers of the rows of a square picture that the central pixel's scores depend on."""
    generator = torch.Generator().manual_seed(0)
    reached = torch.zeros(side, dtype=torch.bool, device=device)
    for _ in range(INPUTS):
        pictures = torch.randn(1, 3, side, side, generator=generator).to(device).requires_grad_()
        central = scores(pictures)[0, :, side // 2, side // 2]
        signs = torch.randn(len(central), generator=generator).to(device)  # a plain sum may cancel
        (gradient,) = torch.autograd.grad(central, pictures, signs)
        reached |= (gradient != 0).any(dim=3).any(dim=1)[0]
    return reached.nonzero()
