"""Batches of similar lengths: padding is computed as if it were text, so little of it is fast."""

from __future__ import annotations

from collections.abc import Sequence


def length_batches(lengths: Sequence[int], maximum_tokens: int) -> list[list[int]]:
    """Indices of sentences in order of length, cut into batches of at most `maximum_tokens` tokens each.

    A batch counts its longest sentence for each of its sentences: padding too is computed. A sentence that
    is longer than the maximum is a batch by itself.

    Args:
        lengths: tokens of each sentence.
        maximum_tokens: ≥ 1, of a batch, with padding.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        if batches and (len(batches[-1]) + 1) * lengths[index] <= maximum_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
