"""Selective search: boxes around whatever could be an object, from segmentations and their grouping.

Uijlings et al. 2013, "Selective Search for Object Recognition". Diversity comes from several colour spaces,
several scales of the first segmentation (Felzenszwalb & Huttenlocher 2004) and several measures of
similarity.
"""

from __future__ import annotations

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

from adapters.detection.nms import suppress
from adapters.detection.selective_search_grouping import Regions, group
from harness.task import Image

Mode = Literal["small", "single", "fast", "quality"]
Channels = NDArray[np.float64]

VERSION = 2  # raise it with any change of what is proposed
SIGMA = 0.8  # px, of the smoothing before segmentation; Uijlings' published code
PAPER_PIXELS = 500 * 375  # of a VOC picture, for which the scales were chosen
COLOUR_BINS = 25  # a channel, §3.2
TEXTURE_BINS = 10  # a channel and orientation, §3.2
ORIENTATIONS = 8  # of Gaussian derivatives, §3.2
TEXTURE_SIGMA = 1.0  # px, §3.2
FLAT = 1e-6  # of the colours' 0–1 a px: derivatives below are rounding errors


@dataclass(frozen=True)
class Strategy:
    """All combinations of these are searched, and their boxes joined."""

    spaces: tuple[str, ...]
    measures: tuple[str, ...]  # see `group`
    scales: tuple[float, ...]  # k of the first segmentation, of colours 0–255: larger regions with larger k
    apart: float | None = None  # IoU; boxes that overlap an earlier one by more come after all the others


# Not the paper's: groupings of one picture find many boxes nearly twice. Of .5, .55, .6, .65 and .7, on 24
# pictures of VOC's size, .55 finds most objects with 500 boxes: .949, and .852 without (docs/benchmarks.md).
_APART = 0.55
# Table 5 of the paper, with 362, 2,147 and 10,108 boxes in a VOC picture; and one for `scenes`, where 96% of
# the digits have one of its 214 boxes at IoU .5, and 93% one of the 188 of `single` (measured, 60 scenes).
MODES: dict[Mode, Strategy] = {
    "small": Strategy(("rgb", "rgi"), ("CTSF",), (100,)),
    "single": Strategy(("hsv",), ("CTSF",), (100,), _APART),
    "fast": Strategy(("hsv", "lab"), ("CTSF", "TSF"), (50, 100), _APART),
    "quality": Strategy(
        ("hsv", "lab", "rgi", "hue", "intensity"), ("CTSF", "TSF", "F", "S"), (50, 100, 150, 300), _APART
    ),
}


def propose(image: Image, strategy: Strategy) -> NDArray[np.int32]:
    """Boxes [n, 4] in px, no two alike; the likelier to hold an object, the earlier.

    Each grouping's boxes are ranked from the whole image down to its first regions, the rank is multiplied by
    a random number that depends on nothing but the rank's place, and all are sorted by it (§3.3). Then boxes
    that stand apart from those before them come first.
    """
    boxes, ranks = [], []
    generator = np.random.default_rng(0)
    for space, scale in itertools.product(strategy.spaces, strategy.scales):
        channels = SPACES[space](image)
        regions = describe(channels, segment(channels, scale))
        for measures in strategy.measures:
            found = group(regions, measures)[::-1]
            boxes.append(found)
            ranks.append(np.arange(1, len(found) + 1) * generator.random(len(found)))
    ordered = np.concatenate(boxes)[np.argsort(np.concatenate(ranks), kind="stable")]
    _, first = np.unique(ordered, axis=0, return_index=True)
    distinct = ordered[np.sort(first)]
    if strategy.apart is not None:
        distinct = apart_first(distinct, strategy.apart)
    return distinct.astype(np.int32)


def apart_first(boxes: NDArray[np.int64], overlap: float) -> NDArray[np.int64]:
    """Boxes [n, 4] that overlap none of these before them by more than IoU `overlap`, then the others.

    Each in their order.
    """
    order = torch.arange(len(boxes), dtype=torch.float64)
    kept = suppress(torch.from_numpy(boxes).double(), -order, overlap).numpy()
    return np.concatenate([boxes[kept], np.delete(boxes, kept, axis=0)])


def segment(channels: Channels, scale: float) -> NDArray[np.int64]:
    """Felzenszwalb's segmentation, labels [H, W] from 0. Regions of fewer px than the scale, for a picture of
    the paper's size, join a neighbour."""
    height, width = channels.shape[:2]
    smallest = max(1, round(scale * height * width / PAPER_PIXELS))
    found: NDArray[np.int64] = felzenszwalb(channels, scale, SIGMA, smallest)
    return found


def describe(channels: Channels, labels: NDArray[np.int64]) -> Regions:
    """Sizes, boxes and histograms of a segmentation's regions."""
    count, flat = int(labels.max()) + 1, labels.ravel()
    rows, columns = np.indices(labels.shape).reshape(2, -1)
    boxes = np.empty((count, 4), dtype=np.int64)
    boxes[:, :2], boxes[:, 2:] = labels.size, 0
    for axis, places in enumerate((columns, rows)):
        np.minimum.at(boxes[:, axis], flat, places)
        np.maximum.at(boxes[:, 2 + axis], flat, places + 1)
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
    """Regions [P] of the pixels and their bins [H, W, features] → [count, features · size]."""
    features = bins.shape[2]
    places = (regions[:, None] * features + np.arange(features)) * size + bins.reshape(-1, features)
    return np.bincount(places.ravel(), minlength=count * features * size).reshape(count, -1).astype(float)


def _texture_bins(channels: Channels) -> NDArray[np.int64]:
    """Derivatives in each orientation, from 0 to the picture's largest: [H, W, channels · ORIENTATIONS]."""
    across, down = (
        ndimage.gaussian_filter(channels, (TEXTURE_SIGMA, TEXTURE_SIGMA, 0), order=order)
        for order in ((0, 1, 0), (1, 0, 0))
    )
    angles = np.arange(ORIENTATIONS) * (2 * np.pi / ORIENTATIONS)
    derivatives = across[..., None] * np.cos(angles) + down[..., None] * np.sin(angles)
    largest = max(float(derivatives.max()), FLAT)
    bins = (derivatives * (TEXTURE_BINS / largest)).astype(np.int64).clip(0, TEXTURE_BINS - 1)
    return bins.reshape(*channels.shape[:2], -1)


def _hsv(image: Image) -> Channels:
    converted: Channels = color.rgb2hsv(image)
    return converted


def _lab(image: Image) -> Channels:
    """Lightness 0–100 and colours −128…127, all brought to 0–1."""
    converted: Channels = (color.rgb2lab(image) + np.array([0, 128, 128])) / (100, 255, 255)
    return converted


def _rgi(image: Image) -> Channels:
    """Shares of red and green, and intensity."""
    levels = image / 255
    total = levels.sum(axis=2, keepdims=True)
    shares = np.divide(levels[..., :2], total, out=np.zeros_like(levels[..., :2]), where=total > 0)
    return np.concatenate([shares, total / 3], axis=2)


SPACES: dict[str, Callable[[Image], Channels]] = {
    "hsv": _hsv,
    "lab": _lab,
    "rgi": _rgi,
    "hue": lambda image: _hsv(image)[..., :1],
    "intensity": lambda image: image.mean(axis=2, keepdims=True) / 255,
    "rgb": lambda image: image / 255,
}
