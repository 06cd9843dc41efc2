"""Prediction: apply a loaded model to shards of samples.

The samples that share a batch never depend on the shards.
"""

import json
import platform
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import groupby

from harness import environment
from harness.adapter import ADAPTERS, Adapter
from harness.checkpoint import Checkpoint
from harness.errors import UsageError, describe, is_out_of_memory
from harness.rundir.predictions import check, plain
from harness.rundir.results import Cost
from harness.stages.device import free_memory, pick_device, set_tf32, torch_flags
from harness.stages.export import attach_backend
from harness.stages.labels import class_map, relabel
from harness.stages.prefetch import prefetch
from harness.stages.shards import Execution, Outcome, Shard, ShardError, ShardResult, merge_outcomes
from harness.task import Prediction, Sample
from harness.trial import Trial

MAX_CULPRITS = 8  # bad samples per shard; with more, the adapter is probably at fault, so the rest is skipped


@dataclass(frozen=True)
class _Batch:
    samples: list[Sample]
    preprocessed: object | None
    """The result of `Adapter.preprocess`; None if `Adapter.predict` is to preprocess."""


class Predictor:
    """The model of one trial, loaded once and applied to many shards."""

    def __init__(self, trial: Trial, checkpoint: Checkpoint | None, node: str | None = None) -> None:
        import torch

        # Reductions depend on how they are split over threads; one thread gives the same figures everywhere.
        torch.set_num_threads(1)
        self.trial = trial
        self.dataset = trial.open_planned_dataset()
        cls = ADAPTERS.get(trial.spec.adapter)
        device = pick_device(trial.spec.device, trial.spec.precision)
        set_tf32(trial.spec.precision)
        self.adapter = cls(cls.Options(**trial.options), trial.runtime(device))
        self.adapter.bind(self.dataset)
        self.adapter.load(checkpoint)
        artefacts = attach_backend(trial, self.adapter, checkpoint)
        self._artefacts = json.dumps([record.model_dump() for record in artefacts]) if artefacts else ""
        self._parameters = Cost(parameters=self.adapter.parameters()).parameters
        self.class_map = class_map(trial.spec.task, self.adapter.classes, self.dataset.classes)
        self.environment = environment.describe()
        self._node = node or platform.node()
        self._batch_limit = trial.spec.batch_size
        """Maximum number of samples predicted at once; halved when memory is exhausted."""
        # Read and preprocess the next batch during the forward pass. On a CPU, both would share one core.
        self._prefetch = device == "cuda" and cls.predict is Adapter.predict

    def run_shard(self, shard: Shard, batch_limit: int | None = None) -> list[Outcome]:
        """Predict a shard and return outcomes that cover it, in order.

        A batch that fails is a ShardError that names the samples that also fail alone. One that exhausts the
        memory is predicted in halves, at most `batch_limit` at once, which changes only floating-point noise.

        Raises:
            Exception: The adapter's error, if it leaves the GPU unusable for this process.
        """
        self._batch_limit = min(self._batch_limit, batch_limit or self._batch_limit)
        size = self.trial.spec.batch_size
        ranges = [range(i, min(i + size, shard.stop)) for i in range(shard.start, shard.stop, size)]
        loads: Iterable[Callable[[], _Batch]] = [partial(self._load, indices) for indices in ranges]
        if self._prefetch:
            loads = prefetch(loads)
        outcomes: list[Outcome] = []
        culprits = 0
        for indices, load in zip(ranges, loads, strict=True):
            outcome = self._run_batch(replace(shard, start=indices.start, stop=indices.stop), load)
            outcomes.append(outcome)
            if isinstance(outcome, ShardError):
                culprits += max(1, len(outcome.culprits))
                if culprits >= MAX_CULPRITS and indices.stop < shard.stop:
                    reason = f"skipped after {culprits} bad samples: {outcome.error}"
                    outcomes.append(ShardError(replace(shard, start=indices.stop), reason, 1))
                    break
        merged: list[Outcome] = []
        for successful, group in groupby(outcomes, key=lambda outcome: isinstance(outcome, ShardResult)):
            alike = list(group)
            merged += [merge_outcomes(alike)] if successful else alike
        return merged

    def _run_batch(self, shard: Shard, load: Callable[[], _Batch]) -> Outcome:
        """Predict a shard of a single batch."""
        started = datetime.now(UTC).isoformat()
        try:
            batch = load()
            ids = [sample.id for sample in batch.samples]
            predictions = self._predict(batch)
        except BaseException as error:  # SystemExit of an adapter too: Ctrl-C does not reach this process
            if "CUDA error" in str(error):  # such as an illegal access: the GPU is lost to this process
                raise
            message, invalid_input = describe(error), isinstance(error, UsageError)
        else:
            finished = datetime.now(UTC).isoformat()
            batch_size = min(self._batch_limit, self.trial.spec.batch_size)
            flags = " ".join(f"{name}={value}" for name, value in torch_flags().items())
            execution = Execution(
                self._node, started, finished, batch_size, flags, self._parameters, self._artefacts
            )
            return ShardResult(shard, ids, predictions, self.environment, execution)
        return ShardError(shard, message, 1, self._find_culprits(shard), invalid_input)

    def _load(self, indices: range) -> _Batch:
        """Read a batch. If it is loaded ahead and fits into memory, also preprocess it."""
        samples = [self._read(index) for index in indices]
        preprocessed = None
        if self._prefetch and len(samples) <= self._batch_limit:
            with suppress(BaseException):  # `_predict` preprocesses again and handles the error
                preprocessed = self.adapter.preprocess(samples)
        return _Batch(samples, preprocessed)

    def _predict(self, batch: _Batch) -> list[Prediction]:
        """Predict a batch in parts that fit into memory, and remember their size."""
        samples, preprocessed = batch.samples, batch.preprocessed
        while True:
            try:
                if preprocessed is not None:
                    raw = self.adapter.forward(preprocessed)
                    return self._check(samples, self.adapter.postprocess(raw, preprocessed))
                limit = self._batch_limit
                parts = [samples[first : first + limit] for first in range(0, len(samples), limit)]
                return [
                    prediction
                    for part in parts
                    for prediction in self._check(part, self.adapter.predict(part))
                ]
            except Exception as error:
                if self._batch_limit == 1 or len(samples) == 1 or not is_out_of_memory(error):
                    raise
            # Outside the handler, because the frames of the error keep the tensors to be freed alive.
            preprocessed = None
            self._batch_limit = -(-min(self._batch_limit, len(samples)) // 2)
            free_memory()

    def _check(self, samples: list[Sample], predictions: list[Prediction]) -> list[Prediction]:
        """Check the form of predictions, and return them with the data set's labels."""
        labels = len(self.dataset.classes if self.class_map is None else self.class_map)
        problem = check(self.trial.spec.task, samples, predictions, labels)
        if problem:
            raise ValueError(problem)
        if self.class_map is not None:
            predictions = relabel(predictions, self.class_map)
        return [plain(prediction) for prediction in predictions]

    def _find_culprits(self, shard: Shard) -> tuple[int, ...]:
        """Return the samples of a failed batch that also fail alone; discard the other predictions."""
        culprits = []
        for index in range(shard.start, shard.stop):
            try:
                self._predict(_Batch([self._read(index)], None))
            except BaseException:
                culprits.append(index)
        return tuple(culprits)

    def _read(self, index: int) -> Sample:
        """Return a sample without its target, which the model must not see."""
        sample = self.dataset[index]
        return Sample(sample.id, sample.input)
