"""The schedule of a training: learning rate and samples of each step, as functions of recipe and step."""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from harness.recipe import Recipe

SHUFFLE, STEP, POOL = 0, 1, 2  # purposes of random streams; each has its own stream


def learning_rate(recipe: Recipe, step: int) -> float:
    """Return the learning rate of a 0-based step.

    It rises linearly from 0 during the warm-up and then falls along half a cosine to the final fraction.
    """
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    floor = recipe.final_learning_rate
    return recipe.learning_rate * (floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2)


def batch_indices(
    recipe: Recipe,
    step: int,
    size: int,
    pooled: int = 1,
    size_of: Callable[[int], int] | None = None,
    curriculum_fraction: float = 1.0,
) -> list[int]:
    """Return the indices of the samples of a 0-based step: the next ones in the permutation of the epoch.

    With several batches per pool, the samples of a pool are sorted by size before they are cut into batches,
    and the batches are used in random order.

    Args:
        pooled: Batches per pool (see `TrainableAdapter.pooled_batches`).
        size_of: Size of a sample by its index; required for pooled batches.
        curriculum_fraction: Fraction of a pool's batches, smallest samples first, to draw from.
    """
    position = step % pooled
    places = range((step - position) * recipe.batch_size, (step - position + pooled) * recipe.batch_size)
    pool = [int(_epoch_order(recipe.seed, place // size, size)[place % size]) for place in places]
    if pooled > 1:
        pool.sort(key=size_of)
        order = np.random.default_rng([recipe.seed, POOL, step - position]).permutation(pooled)
        position = int(order[position] * curriculum_fraction)
    return pool[position * recipe.batch_size : (position + 1) * recipe.batch_size]


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, SHUFFLE, epoch]).permutation(size)
