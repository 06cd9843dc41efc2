"""Feature pyramid networks (Lin et al. 2017): semantically strong features at every resolution.

Parameters are named as in torchvision's published files.
"""

from collections.abc import Sequence

from torch import Tensor, nn

WIDTH = 256  # channels of every level, §3


class FeaturePyramid(nn.Module):
    """A pyramid that turns maps of several strides into as many of WIDTH channels, and a coarser one."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.inner_blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(c, WIDTH, 1)) for c in channels])
        self.layer_blocks = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1)) for _ in channels]
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map [N, channels[k], Hₖ, Wₖ] to [N, WIDTH, Hₖ, Wₖ] and the coarsest one subsampled by 2."""
        laterals = [inner(features) for inner, features in zip(self.inner_blocks, maps, strict=True)]
        merged = [laterals[-1]]
        for lateral in reversed(laterals[:-1]):
            coarser = nn.functional.interpolate(merged[0], size=lateral.shape[-2:], mode="nearest")
            merged.insert(0, lateral + coarser)
        levels = [layer(features) for layer, features in zip(self.layer_blocks, merged, strict=True)]
        return [*levels, levels[-1][:, :, ::2, ::2]]
