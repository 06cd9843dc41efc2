"""The executor without Ray: one worker, whose child processes run the code of adapters one after another."""

import platform
import time
from collections.abc import Iterator, Sequence

from harness.adapter import Resources
from harness.errors import AdapterError, HarnessError, InfrastructureError, UsageError, describe
from harness.executors.executor import FIRST_SHARD_DEADLINE_SECONDS, Executor
from harness.executors.scheduling.scheduler import Scheduler
from harness.executors.timing_worker import TimingWorker
from harness.executors.worker import LoadFailure, PredictionWorker
from harness.recipe import CheckpointRef, Report
from harness.scenarios.settings import SpeedSettings
from harness.stages.child import LOAD_SECONDS, Child, LostChildError, send_progress
from harness.stages.device import pick_device
from harness.stages.measure import Measurement
from harness.stages.shards import Outcome, Work
from harness.trial import Trial

SILENT_TRAINING_SECONDS = 3600.0  # without a line of progress until a training counts as hanging
_RESOURCES = Resources()  # a single worker has the whole machine


class InlineExecutor(Executor):
    """One worker: this machine.

    Args:
        first_deadline: Seconds after which a model's first shard counts as hanging, not including loading.
        load_seconds: Seconds after which loading a model counts as hanging.
    """

    name = "inline"
    workers = 1

    def __init__(
        self, first_deadline: float = FIRST_SHARD_DEADLINE_SECONDS, load_seconds: float = LOAD_SECONDS
    ) -> None:
        self._first_deadline = first_deadline
        self._load_seconds = load_seconds
        self._timing = TimingWorker()

    def check(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            try:
                pick_device(trial.spec.device, trial.spec.precision)
            except UsageError as error:
                raise InfrastructureError(f"{trial.name}: {error}") from error

    def train(self, reference: CheckpointRef, report: Report) -> None:
        with Child() as child:
            try:
                child.call(_train, reference, seconds=SILENT_TRAINING_SECONDS, report=report)
            except (AdapterError, InfrastructureError) as error:
                raise InfrastructureError(f"training {reference.name}: {error}") from error

    def predict(self, work: Sequence[Work]) -> Iterator[Outcome]:
        resources = {part.trial.id: _RESOURCES for part in work}
        scheduler: Scheduler[int] = Scheduler(work, resources, time.monotonic, self._first_deadline)
        self.retries = scheduler.retries
        worker, node, number = PredictionWorker(load_seconds=self._load_seconds), platform.node(), 0
        scheduler.add_worker(number, node, _RESOURCES)
        try:
            while scheduler.busy:
                yield from scheduler.update_nodes({node}, {_RESOURCES: {node}})
                assignment = next(scheduler.assign(), None)  # a shard ahead would not keep one worker busier
                if assignment is None:
                    continue
                shard, seconds = assignment.shard, assignment.deadline - assignment.started
                try:
                    answer = worker.predict(shard, assignment.batch_limit, seconds)
                except (LostChildError, AdapterError) as error:
                    yield from scheduler.lose_worker(number, describe(error))
                    number += 1
                    scheduler.add_worker(number, node, _RESOURCES)
                    continue
                if isinstance(answer, LoadFailure):
                    yield from scheduler.fail_to_load(number, answer.error)
                else:
                    yield from scheduler.finish_shard(number, answer)
        finally:
            worker.close()

    def measure(self, trial: Trial, scenarios: Sequence[str], settings: SpeedSettings) -> Measurement:
        try:
            return self._timing.measure(trial, None, scenarios, settings)
        except HarnessError as error:
            raise InfrastructureError(f"timing {trial.name}: {describe(error)}") from error

    def __exit__(self, *_: object) -> None:
        self._timing.close()


def _train(reference: CheckpointRef) -> None:
    from harness.stages.train import train, training_runtime  # imports torch, which takes seconds

    assert reference.recipe is not None
    train(reference.recipe, reference.weights, training_runtime(), report=send_progress, data=reference.data)
