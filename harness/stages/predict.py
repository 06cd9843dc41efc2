"""Predict: a loaded model over shards of samples; which samples share a batch never depends on the shards."""

from __future__ import annotations

import gc
import platform
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, TypeVar

from harness import environment
from harness.adapter import ADAPTERS, Adapter
from harness.checkpoint import Checkpoint
from harness.errors import UsageError, describe
from harness.rundir.predictions import check
from harness.stages.labels import class_map, relabelled
from harness.stages.shards import Made, Outcome, Shard, ShardError, ShardResult, merged
from harness.task import Prediction, Sample
from harness.trial import Trial

T = TypeVar("T")
CULPRITS = 8  # samples to blame in one shard; more, and it is rather the adapter: the rest is not tried


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

    def __init__(self, trial: Trial, checkpoint: Checkpoint | None, node: str | None = None) -> None:
        import torch

        # Reductions depend on how they are split over threads: one thread makes figures the same everywhere.
        torch.set_num_threads(1)
        self.trial = trial
        self.dataset = trial.check_here()
        cls = ADAPTERS.get(trial.spec.adapter)
        device = pick_device(trial.spec.device)
        self.adapter = cls(cls.Options(**trial.spec.options), trial.runtime(device))
        self.adapter.load(checkpoint)
        self.classes = class_map(trial.spec.task, self.adapter.classes, self.dataset.classes)
        self.environment = environment.describe()
        self._node = node or platform.node()
        self._most = trial.spec.batch_size
        """Samples at once; halved where memory is short."""
        # Read and preprocess the next batch during this one's forward pass; on a CPU that needs the core.
        self._prefetch = device == "cuda" and cls.predict is Adapter.predict

    def attempt(self, shard: Shard, most: int | None = None) -> list[Outcome]:
        """Outcomes that cover the shard, in order; what the adapter or the data set raises is part of them.

        A batch that fails is an error of its own, with the samples that fail alone too; all others keep
        their predictions. Batches for which memory is too short are predicted in halves, which moves
        floating-point noise only.

        Args:
            most: samples at once, where an earlier attempt showed that memory is too short for more.

        Raises:
            Exception: the adapter's, where its GPU cannot be used any more by this process.
        """
        self._most = min(self._most, most or self._most)
        size = self.trial.spec.batch_size
        ranges = [range(i, min(i + size, shard.stop)) for i in range(shard.start, shard.stop, size)]
        jobs = [self._loader(indices) for indices in ranges]
        outcomes: list[Outcome] = []
        blamed = 0
        for indices, loaded in zip(ranges, one_ahead(jobs) if self._prefetch else jobs, strict=True):
            outcome = self._batch(replace(shard, start=indices.start, stop=indices.stop), loaded)
            outcomes.append(outcome)
            if isinstance(outcome, ShardError):
                blamed += max(1, len(outcome.culprits))
                if blamed >= CULPRITS and indices.stop < shard.stop:
                    rest = replace(shard, start=indices.stop)
                    reason = f"not tried after {blamed} bad samples: {outcome.error}"
                    outcomes.append(ShardError(rest, reason, 1))
                    break
        parts: list[Outcome] = []
        for good, group in groupby(outcomes, key=lambda outcome: isinstance(outcome, ShardResult)):
            alike = list(group)
            parts += [merged(alike)] if good else alike
        return parts

    def _batch(self, shard: Shard, loaded: Callable[[], tuple[list[Sample], Any]]) -> Outcome:
        started = datetime.now(UTC).isoformat()
        try:
            samples, batch = loaded()
            predictions = self._predict(samples, batch)
        except Exception as error:
            if "CUDA error" in str(error):  # an illegal access, say: nothing runs in this process any more
                raise
            message, invalid = describe(error), isinstance(error, UsageError)
        else:
            finished = datetime.now(UTC).isoformat()
            made = Made(self._node, started, finished, min(self._most, self.trial.spec.batch_size))
            ids = [sample.id for sample in samples]
            return ShardResult(shard, ids, predictions, self.environment, made)
        return ShardError(shard, message, 1, self._culprits(range(shard.start, shard.stop)), invalid)

    def predict(self, start: int, stop: int) -> tuple[list[str], list[Prediction]]:
        """Ids and predictions of samples [start, stop), `start` at the beginning of a batch."""
        ids: list[str] = []
        predictions: list[Prediction] = []
        size = self.trial.spec.batch_size
        for first in range(start, stop, size):
            samples = [self._input(index) for index in range(first, min(first + size, stop))]
            predictions += self._predict(samples, None)
            ids += [sample.id for sample in samples]
        return ids, predictions

    def _loader(self, indices: range) -> Callable[[], tuple[list[Sample], Any]]:
        """Reads and preprocesses a batch; the batch is None where preprocessing is left to `predict`."""

        def load() -> tuple[list[Sample], Any]:
            samples = [self._input(index) for index in indices]
            batch = None
            if (
                self._prefetch
                and type(self.adapter).predict is Adapter.predict
                and len(samples) <= self._most
            ):
                with suppress(Exception):  # raised again, and dealt with, where it is predicted
                    batch = self.adapter.preprocess(samples)
            return samples, batch

        return load

    def _predict(self, samples: list[Sample], batch: Any) -> list[Prediction]:
        """As many at once as memory holds; that number stays."""
        while True:
            try:
                if batch is not None:
                    return self._checked(
                        samples, self.adapter.postprocess(self.adapter.forward(batch), batch)
                    )
                parts = [samples[first : first + self._most] for first in range(0, len(samples), self._most)]
                return [found for part in parts for found in self._checked(part, self.adapter.predict(part))]
            except Exception as error:
                if self._most == 1 or len(samples) == 1 or not out_of_memory(error):
                    raise
            batch = None  # outside the handler: the error's frames hold what is to be freed
            self._most = -(-min(self._most, len(samples)) // 2)
            _free_memory()

    def _checked(self, samples: list[Sample], predictions: list[Prediction]) -> list[Prediction]:
        known = len(self.dataset.classes if self.classes is None else self.classes)
        wrong = check(self.trial.spec.task, samples, predictions, known)
        if wrong:
            raise ValueError(wrong)
        return predictions if self.classes is None else relabelled(predictions, self.classes)

    def _culprits(self, indices: range) -> tuple[int, ...]:
        """The samples of a failing batch that fail alone too; these predictions are not kept."""
        culprits = []
        for index in indices:
            try:
                self._predict([self._input(index)], None)
            except Exception:
                culprits.append(index)
        return tuple(culprits)

    def _input(self, index: int) -> Sample:
        """A sample without its target: the model must not see it."""
        sample = self.dataset[index]
        return Sample(sample.id, sample.input)


def one_ahead(jobs: Iterable[Callable[[], T]]) -> Iterator[Callable[[], T]]:
    """The jobs' results in order; while the caller uses one, another thread makes the next."""
    with ThreadPoolExecutor(1) as thread:
        pending = None
        for job in jobs:
            following = thread.submit(job)
            if pending is not None:
                yield pending.result
            pending = following
        if pending is not None:
            yield pending.result


def out_of_memory(error: BaseException) -> bool:
    """Whether memory, a GPU's or this machine's, was too short.

    Torch raises `OutOfMemoryError` for its own GPU allocator and a plain RuntimeError elsewhere (cuDNN,
    `DefaultCPUAllocator: not enough memory`).
    """
    text = str(error).lower()
    told = "out of memory" in text or "not enough memory" in text
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and told)


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
