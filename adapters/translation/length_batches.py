"""Batches of sentences of similar length, which keep the cost of padding low."""

from __future__ import annotations

from collections.abc import Sequence


def length_batches(lengths: Sequence[int], maximum_tokens: int) -> list[list[int]]:
    """Sort sentences by length and cut them into batches of at most `maximum_tokens` tokens with padding.

    A sentence longer than the maximum is a separate batch.

    Args:
        lengths: number of tokens per sentence.
        maximum_tokens: number of sentences times the longest sentence of a batch, ≥ 1.

    Returns:
        Indices of the sentences in each batch.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        if batches and (len(batches[-1]) + 1) * lengths[index] <= maximum_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
