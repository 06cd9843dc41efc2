"""Hierarchical grouping: the most similar neighbouring regions of a segmentation merge until one is left.

Uijlings et al. 2013, "Selective Search for Object Recognition", algorithm 1 and §3.2.
"""

import heapq
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.float64]
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Regions:
    """The R regions of a segmentation."""

    labels: NDArray[np.int64]  # [H, W], 0…R−1
    sizes: Counts  # [R], px
    boxes: NDArray[np.int64]  # [R, 4], corners; the far ones are exclusive
    colours: Counts  # [R, K], px per bin, the histograms of all channels concatenated
    textures: Counts  # [R, L], likewise


def neighbours(labels: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the sorted pairs i < j of regions that share the edge of a pixel."""
    across = np.stack([labels[:, :-1].ravel(), labels[:, 1:].ravel()])
    down = np.stack([labels[:-1].ravel(), labels[1:].ravel()])
    low, high = np.sort(np.concatenate([across, down], axis=1), axis=0)
    count = int(labels.max()) + 1
    pairs = np.unique((low * count + high)[low != high])
    return list(zip((pairs // count).tolist(), (pairs % count).tolist(), strict=True))


def group(regions: Regions, measures: str) -> NDArray[np.int64]:
    """Return the boxes [2R − 1, 4] of the regions, then of those into which they merge, in this order.

    Among equally similar pairs, the one with the oldest regions merges first.

    `measures` are the letters of the similarities to sum (equations 2–6), each 0–1: C colour, T texture,
    S size, F fill.
    """
    count = len(regions.sizes)
    hierarchy = _Hierarchy(regions, measures)
    adjacent: list[set[int]] = [set() for _ in range(2 * count - 1)]
    for i, j in neighbours(regions.labels):
        adjacent[i].add(j)
        adjacent[j].add(i)
    heap: list[tuple[float, int, int]] = []
    for i in range(count):
        later = sorted(j for j in adjacent[i] if j > i)
        similarities = hierarchy.similarity(i, later)
        heap += [(-similarity, i, j) for similarity, j in zip(similarities, later, strict=True)]
    heapq.heapify(heap)
    unmerged = [True] * (2 * count - 1)
    for new in range(count, 2 * count - 1):
        _, i, j = heapq.heappop(heap)
        while not (unmerged[i] and unmerged[j]):  # the heap still has pairs of regions merged since
            _, i, j = heapq.heappop(heap)
        unmerged[i] = unmerged[j] = False
        hierarchy.merge(i, j, new)
        around = sorted((adjacent[i] | adjacent[j]) - {i, j})
        adjacent[new].update(around)
        for other, similarity in zip(around, hierarchy.similarity(new, around), strict=True):
            adjacent[other] -= {i, j}
            adjacent[other].add(new)
            heapq.heappush(heap, (-similarity, other, new))
    return hierarchy.boxes


class _Hierarchy:
    """The regions of the segmentation, followed by those into which they merge."""

    def __init__(self, regions: Regions, measures: str) -> None:
        self.measures, self.pixels = measures, regions.labels.size
        self.sizes, self.boxes = _extended(regions.sizes), _extended(regions.boxes)
        histograms = [regions.colours] * ("C" in measures) + [regions.textures] * ("T" in measures)
        # dividing by the number of concatenated histograms keeps an intersection within 0–1
        parts = [histogram * (regions.sizes[0] / histogram[0].sum()) for histogram in histograms]
        self.weighted = _extended(np.concatenate([np.empty((len(regions.sizes), 0)), *parts], axis=1))
        self.normalised = self.weighted / np.maximum(self.sizes, 1)[:, None]

    def merge(self, i: int, j: int, new: int) -> None:
        for values in (self.sizes, self.weighted):
            values[new] = values[i] + values[j]
        self.normalised[new] = self.weighted[new] / self.sizes[new]
        self.boxes[new, :2] = np.minimum(self.boxes[i, :2], self.boxes[j, :2])
        self.boxes[new, 2:] = np.maximum(self.boxes[i, 2:], self.boxes[j, 2:])

    def similarity(self, region: int, others: list[int]) -> list[float]:
        """Return the similarity of a region to each of the others: the sum of the measures."""
        # equations 2 and 4: intersection of histograms
        total = np.minimum(self.normalised[others], self.normalised[region]).sum(axis=1)
        sizes = self.sizes[region] + self.sizes[others]
        if "S" in self.measures:  # equation 5: small regions merge early
            total += 1 - sizes / self.pixels
        if "F" in self.measures:  # equation 6: regions that fit together merge early
            low = np.minimum(self.boxes[others, :2], self.boxes[region, :2])
            high = np.maximum(self.boxes[others, 2:], self.boxes[region, 2:])
            total += 1 - ((high - low).prod(axis=1) - sizes) / self.pixels
        similarities: list[float] = total.tolist()
        return similarities


def _extended(values: NDArray[Scalar]) -> NDArray[Scalar]:
    """Append zeros for the R − 1 regions that R regions merge into."""
    return np.concatenate([values, np.zeros((len(values) - 1, *values.shape[1:]), dtype=values.dtype)])
