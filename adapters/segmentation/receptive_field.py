"""The probe of segmentation networks: how far from a pixel the picture decides about its class."""

import torch
from torch import nn

INPUTS = 4  # random pictures: with a single one, max pooling and ReLU pass no gradient at some border pixels
FIRST_SIDE, LARGEST_SIDE = 128, 1024  # px


def receptive_field(module: nn.Module, device: str) -> int:
    """Return the height in px of the region on which the scores of the central pixel depend.

    The region is that of non-zero gradients on random pictures, which are doubled in size until it ends
    before their border, or up to LARGEST_SIDE.

    Args:
        module: Maps pictures [N, 3, H, W] to scores [N, C, H, W].
    """
    side = FIRST_SIDE
    while True:
        rows = _rows(module, side, device)
        first, last = int(rows.min()), int(rows.max())
        if (first > 0 and last < side - 1) or side == LARGEST_SIDE:
            return last - first + 1
        side *= 2


def _rows(module: nn.Module, side: int, device: str) -> torch.Tensor:
    """Return the numbers of the rows of a square picture that the central pixel's scores depend on."""
    generator = torch.Generator().manual_seed(0)
    reached = torch.zeros(side, dtype=torch.bool, device=device)
    for _ in range(INPUTS):
        pictures = torch.randn(1, 3, side, side, generator=generator).to(device).requires_grad_()
        scores = module(pictures)[0, :, side // 2, side // 2]
        signs = torch.randn(len(scores), generator=generator).to(device)  # a plain sum may cancel
        (gradient,) = torch.autograd.grad(scores, pictures, signs)
        reached |= (gradient != 0).any(dim=3).any(dim=1)[0]
    return reached.nonzero()
