"""Feature pyramids: every level sees far and knows what it sees (Lin et al. 2017, FPN).

Parameters are named as in torchvision's published files.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from adapters.detection import roi

WIDTH = 256  # channels of every level, §3
CANONICAL_SIDE, CANONICAL_LEVEL = 224.0, 4  # an ImageNet-sized region belongs to level 4; equation 1, §4.2


class Pyramid(nn.Module):
    """Maps of several strides, finest first → as many of WIDTH channels, and one more of twice the stride."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.inner_blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(c, WIDTH, 1)) for c in channels])
        self.layer_blocks = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1)) for _ in channels]
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """[N, channels[k], Hₖ, Wₖ] → [N, WIDTH, Hₖ, Wₖ], and the coarsest again at every second place."""
        laterals = [inner(one) for inner, one in zip(self.inner_blocks, maps, strict=True)]
        merged = [laterals[-1]]
        for lateral in reversed(laterals[:-1]):
            coarser = nn.functional.interpolate(merged[0], size=lateral.shape[-2:], mode="nearest")
            merged.insert(0, lateral + coarser)
        levels = [layer(one) for layer, one in zip(self.layer_blocks, merged, strict=True)]
        return [*levels, levels[-1][:, :, ::2, ::2]]


def align(maps: Sequence[Tensor], regions: Tensor, images: Tensor, size: int, finest: int) -> Tensor:
    """RoIAlign of each region on the level of its size (equation 1): [R, C, size, size].

    Args:
        maps: levels `finest`, `finest` + 1, … of stride 2 to that power.
    """
    sides = regions[:, 2:] - regions[:, :2]
    area = sides[:, 0] * sides[:, 1]
    # 1e-6 as in the published code, so that a side of exactly 224 px reaches level 4 in spite of rounding
    level = (CANONICAL_LEVEL + (area.sqrt() / CANONICAL_SIDE).log2() + 1e-6).floor()
    place = level.clamp(finest, finest + len(maps) - 1).long() - finest
    found = maps[0].new_zeros(len(regions), maps[0].shape[1], size, size)
    for k, features in enumerate(maps):
        own = (place == k).nonzero()[:, 0]
        grids = roi.align(features, regions[own], images[own], size, 1 / 2 ** (finest + k))
        found = found.index_copy(0, own, grids.to(found.dtype))
    return found
