"""Selective search: boxes around possible objects, from segmentations and their hierarchical grouping.

Uijlings et al. 2013, "Selective Search for Object Recognition". Diversity comes from several colour spaces,
several scales of the initial segmentation (Felzenszwalb & Huttenlocher 2004) and several similarity measures.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage import color
from skimage.segmentation import felzenszwalb
from torchvision.ops import nms

from adapters.detection.selective_search_grouping import Regions, group
from harness.task import Image

Mode = Literal["small", "single", "fast", "quality"]
Channels = NDArray[np.float64]  # [H, W, channels], 0–1

VERSION = 2  # increase it with every change of the proposals
SIGMA = 0.8  # px, of the smoothing before segmentation; Uijlings' published code
PAPER_PIXELS = 500 * 375  # of a VOC image, for which the scales were chosen
COLOUR_BINS = 25  # per channel, §3.2
TEXTURE_BINS = 10  # per channel and orientation, §3.2
ORIENTATIONS = 8  # of Gaussian derivatives, §3.2
TEXTURE_SIGMA = 1.0  # px, §3.2
FLAT = 1e-6  # change per px of colours in 0–1; smaller derivatives are rounding errors


@dataclass(frozen=True)
class Strategy:
    """A search over all combinations of colour spaces, similarity measures and scales."""

    colour_spaces: tuple[str, ...]
    measures: tuple[str, ...]  # see `group`
    scales: tuple[float, ...]  # k of the segmentation, for colours 0–255; larger k gives larger regions
    duplicate_iou: float | None = None  # boxes with a higher IoU with an earlier one are moved to the end


# Not in the paper: the groupings of one image find many boxes nearly twice. Of .5, .55, .6, .65 and .7, on 24
# images of VOC's size, .55 finds most objects with 500 boxes: .949, and .852 without (docs/benchmarks.md).
_DUPLICATE_IOU = 0.55
# Table 5 of the paper, with 362, 2,147 and 10,108 boxes for a VOC image; and one mode for `scenes`, where 96%
# of the digits have one of its 214 boxes at IoU .5, and 93% one of the 188 of `single` (measured, 60 scenes).
MODES: dict[Mode, Strategy] = {
    "small": Strategy(("rgb", "rgi"), ("CTSF",), (100,)),
    "single": Strategy(("hsv",), ("CTSF",), (100,), _DUPLICATE_IOU),
    "fast": Strategy(("hsv", "lab"), ("CTSF", "TSF"), (50, 100), _DUPLICATE_IOU),
    "quality": Strategy(
        ("hsv", "lab", "rgi", "hue", "intensity"),
        ("CTSF", "TSF", "F", "S"),
        (50, 100, 150, 300),
        _DUPLICATE_IOU,
    ),
}


def propose(image: Image, strategy: Strategy) -> NDArray[np.int32]:
    """Return distinct boxes [n, 4] in px, the likeliest to contain an object first.

    The boxes of each grouping are ranked from the whole image down to the initial regions. Each rank is
    multiplied by a pseudo-random number that depends only on the position in this order, and all boxes are
    sorted by the product (§3.3). Near duplicates then move to the end.
    """
    boxes, ranks = [], []
    generator = np.random.default_rng(0)
    for space, scale in itertools.product(strategy.colour_spaces, strategy.scales):
        channels = SPACES[space](image)
        regions = describe(channels, segment(channels, scale))
        for measures in strategy.measures:
            grouped = group(regions, measures)[::-1]
            boxes.append(grouped)
            ranks.append(np.arange(1, len(grouped) + 1) * generator.random(len(grouped)))
    ordered = np.concatenate(boxes)[np.argsort(np.concatenate(ranks), kind="stable")]
    _, first = np.unique(ordered, axis=0, return_index=True)
    distinct = ordered[np.sort(first)]
    if strategy.duplicate_iou is not None:
        distinct = duplicates_last(distinct, strategy.duplicate_iou)
    return distinct.astype(np.int32)


def duplicates_last(boxes: NDArray[np.int64], max_iou: float) -> NDArray[np.int64]:
    """Move boxes [n, 4] whose IoU with an earlier unmoved box exceeds `max_iou` to the end, in order."""
    order = torch.arange(len(boxes), dtype=torch.float64)
    kept = nms(torch.from_numpy(boxes).double(), -order, max_iou).numpy()
    return np.concatenate([boxes[kept], np.delete(boxes, kept, axis=0)])


def segment(channels: Channels, scale: float) -> NDArray[np.int64]:
    """Segment an image with Felzenszwalb's method: labels [H, W] from 0.

    Regions with fewer px than the scale, converted from the paper's image size, are merged into a neighbour.
    """
    height, width = channels.shape[:2]
    min_size = max(1, round(scale * height * width / PAPER_PIXELS))
    labels: NDArray[np.int64] = felzenszwalb(channels, scale, SIGMA, min_size)
    return labels


def describe(channels: Channels, labels: NDArray[np.int64]) -> Regions:
    """Compute the sizes, boxes and histograms of a segmentation's regions."""
    count, flat = int(labels.max()) + 1, labels.ravel()
    rows, columns = np.indices(labels.shape).reshape(2, -1)
    boxes = np.empty((count, 4), dtype=np.int64)
    boxes[:, :2], boxes[:, 2:] = labels.size, 0
    for axis, positions in enumerate((columns, rows)):
        np.minimum.at(boxes[:, axis], flat, positions)
        np.maximum.at(boxes[:, 2 + axis], flat, positions + 1)
    colours = (channels * COLOUR_BINS).astype(np.int64).clip(0, COLOUR_BINS - 1)
    return Regions(
        labels=labels,
        sizes=np.bincount(flat, minlength=count).astype(float),
        boxes=boxes,
        colours=_histograms(flat, count, colours, COLOUR_BINS),
        textures=_histograms(flat, count, _texture_bins(channels), TEXTURE_BINS),
    )


def _histograms(
    regions: NDArray[np.int64], count: int, bins: NDArray[np.int64], size: int
) -> NDArray[np.float64]:
    """Count bins per region: regions [P], bins [H, W, features] of pixels → [count, features · size]."""
    features = bins.shape[2]
    cells = (regions[:, None] * features + np.arange(features)) * size + bins.reshape(-1, features)
    return np.bincount(cells.ravel(), minlength=count * features * size).reshape(count, -1).astype(float)


def _texture_bins(channels: Channels) -> NDArray[np.int64]:
    """Bin the derivatives per orientation from 0 to the image's maximum: [H, W, channels · ORIENTATIONS]."""
    across, down = (
        ndimage.gaussian_filter(channels, (TEXTURE_SIGMA, TEXTURE_SIGMA, 0), order=order)
        for order in ((0, 1, 0), (1, 0, 0))
    )
    angles = np.arange(ORIENTATIONS) * (2 * np.pi / ORIENTATIONS)
    derivatives = across[..., None] * np.cos(angles) + down[..., None] * np.sin(angles)
    largest = max(float(derivatives.max()), FLAT)
    bins: NDArray[np.int64] = (derivatives * (TEXTURE_BINS / largest)).astype(np.int64)
    return bins.clip(0, TEXTURE_BINS - 1).reshape(*channels.shape[:2], -1)


def _hsv(image: Image) -> Channels:
    converted: Channels = color.rgb2hsv(image)
    return converted


def _lab(image: Image) -> Channels:
    """Scale lightness 0–100 and colours −128…127 to 0–1."""
    converted: Channels = (color.rgb2lab(image) + np.array([0, 128, 128])) / (100, 255, 255)
    return converted


def _rgi(image: Image) -> Channels:
    """Return red and green as fractions of the total, and intensity."""
    levels = image / 255
    total = levels.sum(axis=2, keepdims=True)
    chromaticity = np.divide(levels[..., :2], total, out=np.zeros_like(levels[..., :2]), where=total > 0)
    return np.concatenate([chromaticity, total / 3], axis=2)


SPACES: dict[str, Callable[[Image], Channels]] = {
    "hsv": _hsv,
    "lab": _lab,
    "rgi": _rgi,
    "hue": lambda image: _hsv(image)[..., :1],
    "intensity": lambda image: image.mean(axis=2, keepdims=True) / 255,
    "rgb": lambda image: image / 255,
}
