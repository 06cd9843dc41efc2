"""The executor without Ray: everything runs in this process except timing, which gets a fresh process."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection

from harness.errors import InfrastructureError, UsageError, describe
from harness.executors.executor import Executor
from harness.recipe import CheckpointRef
from harness.scenarios.settings import SpeedSettings
from harness.stages.device import pick_device
from harness.stages.measure import Measurement, measure
from harness.stages.predict import Predictor
from harness.stages.shards import Outcome, ShardError, Work
from harness.trial import Trial


class InlineExecutor(Executor):
    """One worker: this process."""

    name = "inline"
    workers = 1

    def check(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            try:
                pick_device(trial.spec.device)
            except UsageError as error:
                raise InfrastructureError(f"{trial.name}: {error}") from error

    def train(
        self,
        reference: CheckpointRef,
        report: Callable[[str], None],
        workers: int | None = None,  # noqa: ARG002
    ) -> None:
        from harness.stages.train import train, training_runtime  # imports torch, which takes seconds

        assert reference.recipe is not None
        train(reference.recipe, reference.weights, training_runtime(), report=report)

    def predict(self, work: Sequence[Work]) -> Iterator[Outcome]:
        for trial_work in work:
            try:
                predictor = Predictor(trial_work.trial, trial_work.trial.load_checkpoint())
            except Exception as error:
                yield from (ShardError(shard, describe(error), 1) for shard in trial_work.shards())
                continue
            for shard in trial_work.shards():
                try:
                    yield from predictor.run_shard(shard)
                except Exception as error:  # this process can no longer use its GPU
                    yield ShardError(shard, describe(error), 1)

    def measure(self, trial: Trial, scenarios: Sequence[str], settings: SpeedSettings) -> Measurement:
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_measure, args=(sender, trial, scenarios, settings))
        process.start()
        sender.close()  # this end; the other one closes when the process ends, for whatever reason
        deadline = settings.deadline(len(scenarios))
        try:
            if not receiver.poll(deadline):
                raise InfrastructureError(f"timing {trial.name}: no answer within {deadline:g} s")
            outcome: Measurement | str = receiver.recv()
        except EOFError as error:
            raise InfrastructureError(f"timing {trial.name}: the process died") from error
        finally:
            process.kill()
            process.join()
            receiver.close()
        if isinstance(outcome, str):
            raise InfrastructureError(f"timing {trial.name}: {outcome}")
        return outcome


def _measure(sender: Connection, trial: Trial, scenarios: Sequence[str], settings: SpeedSettings) -> None:
    """Measure in the fresh process, and send the measurement or the message of an error."""
    try:
        outcome: Measurement | str = measure(trial, trial.load_checkpoint(), scenarios, settings)
    except Exception as error:  # raised by the adapter
        outcome = describe(error)
    sender.send(outcome)
