"""Data-parallel training: each worker takes a share of every batch, and their gradients are averaged.

The mean over a batch is the weighted mean over its shares. The weight of a share is the number of items over
which its loss is a mean. Random operations (augmentation, dropout) and batch normalisation work per share.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor, distributed, nn

from harness.adapter import TrainableAdapter
from harness.errors import UsageError

T = TypeVar("T")
Loss: TypeAlias = Callable[[object], dict[str, Tensor]]
"""Training batch → scalar loss terms by name."""


@dataclass(frozen=True)
class Replica:
    """One of the workers that train together, in torch's default process group."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_leader(self) -> bool:
        """Return whether this worker validates and saves the state."""
        return self.rank == 0

    def share(self, batch: Sequence[T]) -> list[T]:
        """Return this worker's items of a batch: every `world_size`-th.

        Raises:
            UsageError: The batch cannot be divided evenly.
        """
        if len(batch) % self.world_size:
            raise UsageError(f"{self.world_size} workers cannot share batches of {len(batch)} evenly")
        return list(batch[self.rank :: self.world_size])

    def seed(self, *seed: int) -> list[int]:
        """Return a seed that differs between workers; the leader's is the seed of a single worker."""
        return [*seed, self.rank] if self.rank else list(seed)

    def sum(self, value: float) -> float:
        """Return the sum of a value over all workers."""
        if self.world_size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        if distributed.get_backend() == "nccl":
            total = total.cuda()
        distributed.all_reduce(total)
        return total.item()

    def broadcast(self, value: T) -> T:
        """Return the leader's value."""
        if self.world_size == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]


SINGLE = Replica()
"""The only worker of a training."""


class _LossModule(nn.Module):
    """The loss as a module, because DistributedDataParallel wraps only modules."""

    def __init__(self, adapter: TrainableAdapter) -> None:
        super().__init__()
        self.module = adapter.module
        self._loss = adapter.loss

    def forward(self, batch: object) -> dict[str, Tensor]:
        return self._loss(batch)


def data_parallel_loss(adapter: TrainableAdapter, replica: Replica) -> Loss:
    """Return a loss whose gradient, in every worker, is that of the whole batch.

    torch's DistributedDataParallel (Li et al. 2020) averages gradients over workers. A share with n of the
    batch's N units (see `TrainableAdapter.loss_unit`) is therefore weighted by n / N times the number of
    workers.
    """
    if replica.world_size == 1:
        return adapter.loss
    # A batch may leave parameters unused, as with a single worker.
    synchronised = nn.parallel.DistributedDataParallel(_LossModule(adapter), find_unused_parameters=True)

    def loss(batch: object) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = synchronised(batch)
        if adapter.loss_unit is None:
            return terms
        units = adapter.training_units(batch)[adapter.loss_unit]
        weight = units * replica.world_size / replica.sum(units)
        return {name: weight * term for name, term in terms.items()}

    return loss
