"""Training over several workers: each takes its part of every batch, and their gradients become one.

The mean over a batch is the mean over its parts, weighted by what each part's loss is a mean over. Models
that draw (augmentation, dropout) or that normalise over a batch draw and normalise within a part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from harness.adapter import TrainableAdapter
from harness.errors import UsageError

T = TypeVar("T")
Loss = Callable[[Any], dict[str, Tensor]]


@dataclass(frozen=True)
class Part:
    """A worker's place among those that train together, in torch's default process group."""

    rank: int = 0
    of: int = 1

    @property
    def leads(self) -> bool:
        """Whether this one validates and keeps the state."""
        return self.rank == 0

    def share(self, batch: Sequence[T]) -> list[T]:
        """Every `of`-th item.

        Raises:
            UsageError: they do not come out even.
        """
        if len(batch) % self.of:
            raise UsageError(f"{self.of} workers cannot share batches of {len(batch)} evenly")
        return list(batch[self.rank :: self.of])

    def stream(self, *seed: int) -> list[int]:
        """A seed of this worker's own; the first worker's is that of one worker alone."""
        return [*seed, self.rank] if self.rank else list(seed)

    def total(self, value: float) -> float:
        """Sum over the workers."""
        if self.of == 1:
            return value
        summed = torch.tensor(value, dtype=torch.float64)
        if distributed.get_backend() == "nccl":
            summed = summed.cuda()
        distributed.all_reduce(summed)
        return summed.item()

    def told(self, value: T) -> T:
        """What the leader says."""
        if self.of == 1:
            return value
        said = [value]
        distributed.broadcast_object_list(said, src=0)
        return said[0]


ALONE = Part()


class _Terms(nn.Module):
    """The loss as a module: gradients are exchanged for modules only."""

    def __init__(self, adapter: TrainableAdapter) -> None:
        super().__init__()
        self.module = adapter.module
        self._loss = adapter.loss

    def forward(self, batch: Any) -> dict[str, Tensor]:
        return self._loss(batch)


def shared_loss(adapter: TrainableAdapter, part: Part) -> Loss:
    """The adapter's loss; of several workers, one whose gradient is that of the whole batch in each of them.

    torch's DistributedDataParallel (Li et al. 2020) takes the mean over workers: a part of n of N items (see
    `TrainableAdapter.loss_unit`) is weighted by n / N times the number of workers.
    """
    if part.of == 1:
        return adapter.loss
    # Parameters that a batch does not reach are allowed, as they are with one worker.
    exchanging = nn.parallel.DistributedDataParallel(_Terms(adapter), find_unused_parameters=True)

    def loss(batch: Any) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = exchanging(batch)
        if adapter.loss_unit is None:
            return terms
        mine = adapter.training_units(batch)[adapter.loss_unit]
        weight = mine * part.of / part.total(mine)
        return {name: weight * term for name, term in terms.items()}

    return loss
