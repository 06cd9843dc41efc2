"""Hierarchical grouping: the regions of a segmentation merge, the most alike neighbours first, down to one.

Uijlings et al. 2013, "Selective Search for Object Recognition", algorithm 1 and §3.2.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Regions:
    """The regions of a segmentation, R of them."""

    labels: NDArray[np.int64]  # [H, W], 0…R−1
    sizes: Counts  # [R], px
    boxes: NDArray[np.int64]  # [R, 4], corners; the far ones are exclusive
    colours: Counts  # [R, K], px a bin, the histograms of all channels behind one another
    textures: Counts  # [R, L]


def neighbours(labels: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Pairs i < j of regions that share an edge of a pixel, in order."""
    across = np.stack([labels[:, :-1].ravel(), labels[:, 1:].ravel()])
    down = np.stack([labels[:-1].ravel(), labels[1:].ravel()])
    low, high = np.sort(np.concatenate([across, down], axis=1), axis=0)
    count = int(labels.max()) + 1
    pairs = np.unique((low * count + high)[low != high])
    return list(zip((pairs // count).tolist(), (pairs % count).tolist(), strict=True))


def group(regions: Regions, measures: str) -> NDArray[np.int64]:
    """Boxes [2R − 1, 4] of the regions and of what they merge into, in order of their making.

    Among equally similar pairs the one of the oldest regions merges first.

    Args:
        measures: similarity is the sum of C colour, T texture, S size, F fill (equations 2–6), each 0–1.
    """
    count = len(regions.sizes)
    hierarchy = _Hierarchy(regions, measures)
    beside: list[set[int]] = [set() for _ in range(2 * count - 1)]
    for i, j in neighbours(regions.labels):
        beside[i].add(j)
        beside[j].add(i)
    heap: list[tuple[float, int, int]] = []
    for i in range(count):
        later = sorted(j for j in beside[i] if j > i)
        heap += [(-alike, i, j) for alike, j in zip(hierarchy.similarity(i, later), later, strict=True)]
    heapq.heapify(heap)
    alone = [True] * (2 * count - 1)  # not merged yet
    for new in range(count, 2 * count - 1):
        _, i, j = heapq.heappop(heap)
        while not (alone[i] and alone[j]):  # pairs of regions that are merged by now stay in the heap
            _, i, j = heapq.heappop(heap)
        alone[i] = alone[j] = False
        hierarchy.merge(i, j, new)
        around = sorted((beside[i] | beside[j]) - {i, j})
        beside[new].update(around)
        for other, alike in zip(around, hierarchy.similarity(new, around), strict=True):
            beside[other] -= {i, j}
            beside[other].add(new)
            heapq.heappush(heap, (-alike, other, new))
    return hierarchy.boxes


class _Hierarchy:
    """Regions, first those of the segmentation, then what they merge into."""

    def __init__(self, regions: Regions, measures: str) -> None:
        self.measures, self.pixels = measures, regions.labels.size
        self.sizes, self.boxes = _longer(regions.sizes), _longer(regions.boxes)
        kinds = [regions.colours] * ("C" in measures) + [regions.textures] * ("T" in measures)
        # an intersection is to be 0–1: divided by the number of histograms behind one another
        parts = [kind * (regions.sizes[0] / kind[0].sum()) for kind in kinds]
        self.weighted = _longer(np.concatenate([np.empty((len(regions.sizes), 0)), *parts], axis=1))
        self.shares = self.weighted / np.maximum(self.sizes, 1)[:, None]

    def merge(self, i: int, j: int, new: int) -> None:
        for values in (self.sizes, self.weighted):
            values[new] = values[i] + values[j]
        self.shares[new] = self.weighted[new] / self.sizes[new]
        self.boxes[new, :2] = np.minimum(self.boxes[i, :2], self.boxes[j, :2])
        self.boxes[new, 2:] = np.maximum(self.boxes[i, 2:], self.boxes[j, 2:])

    def similarity(self, one: int, others: list[int]) -> list[float]:
        """How alike a region is to each of others: the sum of the measures."""
        # equations 2 and 4: histograms intersected
        found = np.minimum(self.shares[others], self.shares[one]).sum(axis=1)
        total = self.sizes[one] + self.sizes[others]
        if "S" in self.measures:  # equation 5: small ones merge early
            found += 1 - total / self.pixels
        if "F" in self.measures:  # equation 6: those that fit into each other
            low = np.minimum(self.boxes[others, :2], self.boxes[one, :2])
            high = np.maximum(self.boxes[others, 2:], self.boxes[one, 2:])
            found += 1 - ((high - low).prod(axis=1) - total) / self.pixels
        alike: list[float] = found.tolist()
        return alike


def _longer(values: NDArray[np.generic]) -> NDArray:
    """With room for the regions that will be made of these."""
    return np.concatenate([values, np.zeros((len(values) - 1, *values.shape[1:]), dtype=values.dtype)])
