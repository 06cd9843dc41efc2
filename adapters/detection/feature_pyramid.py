"""Feature pyramid networks (Lin et al. 2017): semantically strong features at every resolution.

Parameters are named as in torchvision's published files.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from adapters.detection import roi

WIDTH = 256  # channels of every level, §3
CANONICAL_SIDE, CANONICAL_LEVEL = 224.0, 4  # level for a region of ImageNet's size; equation 1, §4.2


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


def align(
    maps: Sequence[Tensor], regions: Tensor, image_indices: Tensor, size: int, finest_level: int
) -> Tensor:
    """Apply RoIAlign to each region on the level for its size (equation 1): [R, C, size, size].

    Args:
        maps: levels `finest_level`, `finest_level` + 1, …; level l has stride 2ˡ.
        regions: [R, 4], corners in px of the input.
        image_indices: [R], the image that each region is in.
    """
    sides = regions[:, 2:] - regions[:, :2]
    area = sides[:, 0] * sides[:, 1]
    # 1e-6 as in the published code, so that a side of exactly 224 px reaches level 4 in spite of rounding
    level = (CANONICAL_LEVEL + (area.sqrt() / CANONICAL_SIDE).log2() + 1e-6).floor()
    map_index = level.clamp(finest_level, finest_level + len(maps) - 1).long() - finest_level
    pooled = maps[0].new_zeros(len(regions), maps[0].shape[1], size, size)
    for k, features in enumerate(maps):
        members = (map_index == k).nonzero()[:, 0]
        grids = roi.align(
            features, regions[members], image_indices[members], size, 1 / 2 ** (finest_level + k)
        )
        pooled = pooled.index_copy(0, members, grids.to(pooled.dtype))
    return pooled
