"""95% bootstrap intervals over samples (Efron 1979), computed from sufficient statistics.

A resample of n samples is stored as n counts, the number of times that each sample was drawn. Any metric of
additive statistics is then a matrix product, and any metric of ranked items a weighted cumulative sum, so
that no sample is scored twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.task import Figure

RESAMPLES = 1000  # bootstrap resamples for every interval of an accuracy figure
SEED = 0
CELLS = 2**21  # counts per chunk: 8 MiB, whatever the number of samples
SUM_CELLS = 2**18  # counts per chunk of sums, which are as fast in small chunks; 2^16 takes twice as long
LEVELS = (2.5, 97.5)  # percentiles of a two-sided 95% interval


def resample_counts(
    samples: int, resamples: int, seed: int, cells: int | None = None
) -> Iterator[NDArray[np.int32]]:
    """Draw resamples with replacement, in chunks of at most `cells` counts (CELLS by default).

    Yields:
        [samples, chunk] arrays whose columns each sum to `samples`; the concatenated columns depend on
        the seed only, not on the size of a chunk.
    """
    generator = np.random.default_rng(seed)
    width = max(1, (cells or CELLS) // max(1, samples))
    for start in range(0, resamples, width):
        chunk = min(width, resamples - start)
        drawn = generator.integers(0, samples, size=(chunk, samples))
        drawn *= chunk
        drawn += np.arange(chunk)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=samples * chunk)
        yield counts.reshape(samples, chunk).astype(np.int32)


def resample_sums(
    statistics: NDArray[np.int64] | NDArray[np.float64], resamples: int, seed: int
) -> NDArray[np.float64]:
    """Sum additive statistics [samples, k] over each resample: [resamples, k].

    The sums are exact up to 2⁵³. They are floating point because BLAS has no integer product.
    """
    terms = statistics.astype(np.float64, copy=False)
    chunks = resample_counts(len(terms), resamples, seed, SUM_CELLS)
    sums = [counts.T.astype(np.float64) @ terms for counts in chunks]
    return np.concatenate([np.empty((0, terms.shape[1])), *sums])


def reflect(value: float, low: float, high: float) -> tuple[float, float]:
    """Return the basic bootstrap's bounds, given those of the percentile method.

    They are the percentile bounds reflected in the value, which undoes the bias of a figure that resampling
    moves to one side (Davison & Hinkley 1997, §5.2).
    """
    return 2 * value - high, 2 * value - low


def figure(
    value: float,
    resampled: NDArray[np.float64],
    n: int,
    unit: str,
    signature: str,
    reflected: bool = False,
) -> Figure:
    """Return a value with its 95% interval.

    Args:
        value: NaN if undefined; the figure's value is then None.
        resampled: [resamples]; undefined resamples (NaN) are excluded.
        n: number of samples. With one sample the spread is unknown, so the interval is None.
        reflected: use the bounds of the basic bootstrap instead of those of the percentile method. Only for
            fractions: the bounds are clipped to 0–1, and widened if needed to contain the value.
    """
    defined = resampled[~np.isnan(resampled)]
    low = high = None
    if n > 1 and len(defined) and not np.isnan(value):
        low, high = (float(bound) for bound in np.percentile(defined, LEVELS))
        if reflected:
            below, above = reflect(value, low, high)
            low, high = float(max(0.0, min(below, value))), float(min(1.0, max(above, value)))
    return Figure(defined_or_none(value), low, high, n, unit, signature)


@dataclass(frozen=True, eq=False)
class ResampledFigure:
    """A model's figure with its bootstrap resamples, which allow pairing it with another model's figure."""

    figure: Figure  # without interval
    resampled: NDArray[np.float64]  # [R], the same R resamples for all models; NaN where undefined

    @property
    def value(self) -> float:
        """Return the figure's value, NaN if undefined."""
        return np.nan if self.figure.value is None else self.figure.value

    def with_interval(self, reflected: bool) -> Figure:
        """Return the figure with the interval of its first RESAMPLES resamples; see `figure`."""
        template = self.figure
        resampled = self.resampled[:RESAMPLES]
        return figure(self.value, resampled, template.n, template.unit, template.signature, reflected)


def defined_or_none(value: float) -> float | None:
    """Return None for NaN, which stands for an undefined value in arithmetic."""
    return None if np.isnan(value) else float(value)


def mean_defined(values: NDArray[np.float64], axis: int | tuple[int, ...]) -> NDArray[np.float64]:
    """Average over the axes, ignoring NaN; NaN if no value is defined."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=axis)
    total = np.where(defined, values, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
