"""Everything in this process, timing in a fresh one; needs neither Ray nor MLflow."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

from harness.errors import InfrastructureError, UsageError, describe
from harness.executors.executor import Executor
from harness.recipe import CheckpointRef
from harness.stages.measure import SpeedSettings, measure
from harness.stages.predict import Predictor, pick_device
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
        for each in work:
            try:
                predictor = Predictor(each.trial, each.trial.load_checkpoint())
            except Exception as error:
                yield from (ShardError(shard, describe(error), 1) for shard in each.shards())
                continue
            for shard in each.shards():
                try:
                    yield from predictor.attempt(shard)
                except Exception as error:  # the GPU is of no use to this process any more
                    yield ShardError(shard, describe(error), 1)

    def measure(self, trial: Trial, scenarios: Sequence[str], settings: SpeedSettings) -> dict[str, Any]:
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_measure, args=(sender, trial, scenarios, settings))
        process.start()
        sender.close()  # ours; the other end closes when the process ends, however it does
        deadline = settings.deadline(len(scenarios))
        try:
            if not receiver.poll(deadline):
                raise InfrastructureError(f"timing {trial.name}: no answer within {deadline:g} s")
            outcome: dict[str, Any] | str = receiver.recv()
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
    """Send what `measure` returns, or the error that it raised, in words."""
    try:
        outcome: dict[str, Any] | str = measure(trial, trial.load_checkpoint(), scenarios, settings)
    except Exception as error:  # the adapter's own
        outcome = describe(error)
    sender.send(outcome)
