"""A third party's metrics, of which lower is better."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.metrics.iou import Iou
from harness.metrics.metric import CountMetric, Values
from harness.task import References, Translation


class WordErrorRate(CountMetric[References, Translation]):
    """Edit distance of words per reference word; above 1 if too many words are inserted."""

    task = "translation"
    names = ("wer",)
    lower_is_better = frozenset({"wer"})

    def statistics(self, target: References, prediction: Translation) -> NDArray[np.int64]:
        words, reference = prediction.text.split(), target[0].split()
        row = list(range(len(reference) + 1))
        for i, word in enumerate(words, start=1):
            diagonal, row[0] = row[0], i
            for j, expected in enumerate(reference, start=1):
                diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != expected))
        return np.array([row[-1], len(reference)])

    def figures(self, sums: NDArray[np.int64]) -> Values:
        return {"wer": sums[:, 0] / sums[:, 1]}

    def signature(self, name: str, statistics: Sequence[NDArray[np.int64]]) -> str:
        return "wer|v:1"


class PixelError(Iou):
    """Share of wrong pixels."""

    names = ("pixel_error",)
    lower_is_better = frozenset(names)

    def figures(self, sums: NDArray[np.int64]) -> Values:
        return {"pixel_error": 1 - super().figures(sums)["pixel_accuracy"]}
