"""Predict: a loaded model over shards of samples; which samples share a batch never depends on the shards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from harness import environment
from harness.adapter import ADAPTERS
from harness.checkpoint import Checkpoint
from harness.errors import UsageError, describe
from harness.plan import Trial
from harness.predictions import check
from harness.stages.labels import class_map, relabelled
from harness.store import Range
from harness.task import Prediction, Sample


@dataclass(frozen=True)
class Shard:
    """A contiguous range of one trial's samples: the unit of dispatch, retry and resume."""

    trial: Trial
    start: int
    stop: int


@dataclass(frozen=True)
class ShardResult:
    """What a worker returns."""

    shard: Shard
    ids: list[str]
    predictions: list[Prediction]
    environment: dict[str, Any]


@dataclass(frozen=True)
class ShardError:
    """A shard that gave no predictions; recorded, never scored."""

    shard: Shard
    error: str
    attempts: int
    samples: tuple[str, ...] = ()
    """Ids of its first and last sample, as far as the worker could read them."""


def shards(trial: Trial, gaps: list[Range], shard_size: int) -> Iterator[Shard]:
    """Cut gaps at multiples of the batch size.

    Shards hold whole batches, so that gaps start at one, and batch k is always samples [k·b, (k+1)·b):
    neither shard size nor resuming nor the number of workers changes which samples share a batch, and
    figures agree to the bit.
    """
    batch = trial.spec.batch_size
    length = max(1, -(-shard_size // batch)) * batch
    for start, stop in gaps:
        for first in range(start, stop, length):
            yield Shard(trial, first, min(first + length, stop))


def pick_device(wanted: str) -> str:
    """`auto` is the GPU where there is one.

    Raises:
        UsageError: a GPU is asked for and this machine has none that torch can use.
    """
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError("device 'cuda' is asked for, but torch sees no GPU on this machine")
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return wanted


class Predictor:
    """One trial's model, loaded once, applied to many shards."""

    def __init__(self, trial: Trial, checkpoint: Checkpoint | None) -> None:
        import torch

        # Reductions depend on how they are split over threads: one thread makes figures the same everywhere.
        torch.set_num_threads(1)
        self.trial = trial
        self.dataset = trial.check_here()
        cls = ADAPTERS.get(trial.spec.adapter)
        runtime = trial.runtime(pick_device(trial.spec.device))
        self.adapter = cls(cls.Options(**trial.spec.options), runtime)
        self.adapter.load(checkpoint)
        self.classes = class_map(trial.spec.task, self.adapter.classes, self.dataset.classes)
        self.environment = environment.describe()

    def attempt(self, shard: Shard) -> ShardResult | ShardError:
        """A shard's outcome; what the adapter or the data set raises is part of it."""
        try:
            ids, predictions = self.predict(shard.start, shard.stop)
        except Exception as error:
            return ShardError(shard, describe(error), 1, self._known_ids(shard))
        return ShardResult(shard, ids, predictions, self.environment)

    def predict(self, start: int, stop: int) -> tuple[list[str], list[Prediction]]:
        """Ids and predictions of samples [start, stop)."""
        ids: list[str] = []
        predictions: list[Prediction] = []
        size = self.trial.spec.batch_size
        for first in range(start, stop, size):
            samples = [self._input(index) for index in range(first, min(first + size, stop))]
            batch = self.adapter.predict(samples)
            known = len(self.dataset.classes if self.classes is None else self.classes)
            wrong = check(self.trial.spec.task, samples, batch, known)
            if wrong:
                raise ValueError(wrong)
            if self.classes is not None:
                batch = relabelled(batch, self.classes)
            ids += [sample.id for sample in samples]
            predictions += batch
        return ids, predictions

    def _known_ids(self, shard: Shard) -> tuple[str, ...]:
        """Ids of the first and the last sample; one that cannot be read is left out."""
        known: list[str] = []
        for index in (shard.start, shard.stop - 1):
            with suppress(Exception):  # that sample may be what failed
                known.append(self.dataset[index].id)
        return tuple(known)

    def _input(self, index: int) -> Sample:
        """A sample without its target: the model must not see it."""
        sample = self.dataset[index]
        return Sample(sample.id, sample.input)
